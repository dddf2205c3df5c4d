"""How long until something is seen: each command in a process of its own. Medians, of the clock and of computing.

python benchmarks/startup.py [--rounds 3]

"a transformers model" is the floor of whatever writes text: torch and the class of nano's language model.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCENE, ORDER = str(ROOT / "docs/images/scene.png"), str(ROOT / "demos/questions/order.wav")
CAPTION = (
    "import mmlm, numpy; model = mmlm.load('nano'); "
    "print(model.caption(numpy.full((64, 64, 3), 200, 'uint8'), max_new_tokens=8))"
)
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import mmlm": [sys.executable, "-c", "import mmlm"],
    "mmlm --help": [sys.executable, "-m", "mmlm", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
    "a transformers model": [sys.executable, "-c", "from transformers import LlamaForCausalLM"],
    "import whisper": [sys.executable, "-c", "import whisper"],
    "mmlm.load('nano')": [sys.executable, "-c", "import mmlm; mmlm.load('nano')"],
    "mmlm.load('nano').caption(…)": [sys.executable, "-c", CAPTION],
    "mmlm caption": [sys.executable, "-m", "mmlm", "caption", SCENE],
    "mmlm answer": [sys.executable, "-m", "mmlm", "answer", SCENE, "what color is the background?"],
    "mmlm transcribe": [sys.executable, "-m", "mmlm", "transcribe", ORDER],
}


def computed() -> float:
    """Seconds that the processes which have ended computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    print("| command | seconds | of computing |\n| --- | --- | --- |")
    for name, command in COMMANDS.items():
        took, work, said = [], [], set()
        for _ in range(args.rounds + 1):
            start, before = time.perf_counter(), computed()
            said.add(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            took.append(time.perf_counter() - start)
            work.append(computed() - before)
        assert len(said) == 1, f"{name} says different things: {said}"
        # The first fills the file cache.
        print(f"| {name} | {statistics.median(took[1:]):.2f} | {statistics.median(work[1:]):.2f} |", flush=True)


if __name__ == "__main__":
    main()
