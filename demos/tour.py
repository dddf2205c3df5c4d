"""What `make demo` shows: the model that comes with mmlm captions pictures, hears questions, draws, speaks and
thinks; then its adapters are trained further."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all that the tour needs is on this disk
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import ask
import caption
import draw
import think
import train_adapters

if __name__ == "__main__":
    print("1. Captions and answers from nano, on pictures in layouts it has never seen\n", flush=True)
    caption.main([])
    print("\n2. Answers to recordings, that were written down, that the adapters heard, or both\n", flush=True)
    ask.main([])
    print("\n3. Pictures drawn for descriptions of new layouts, and two answers about them said\n", flush=True)
    draw.main([])
    print("\n4. A thought, a call of a tool, JSON, and a note that is cited\n", flush=True)
    think.main()
    print("\n5. Its adapters learn another way to caption, from 1000 pairs drawn on the spot (a minute)\n", flush=True)
    train_adapters.main()
