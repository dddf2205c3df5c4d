"""What `make demo` shows: pictures captioned and questions heard by the model that comes with mmlm, then its adapters
trained further."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all that the tour needs is on this disk
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import ask
import caption
import train_adapters

if __name__ == "__main__":
    print("1. Captions and answers from nano, on pictures in layouts it has never seen\n", flush=True)
    caption.main([])
    print("\n2. Answers to recordings, that were written down, that the adapters heard, or both\n", flush=True)
    ask.main([])
    print("\n3. Its adapters learn another way to caption, from 1000 pairs drawn on the spot (a minute)\n", flush=True)
    train_adapters.main()
