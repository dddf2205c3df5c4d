"""How long until something is seen: each command in a process of its own.

python benchmarks/startup.py [--rounds 3]
"""

import argparse
import statistics
import subprocess
import sys
import time

CAPTION = (
    "import mmlm, numpy; model = mmlm.load('nano'); "
    "print(model.caption(numpy.full((64, 64, 3), 200, 'uint8'), max_new_tokens=8))"
)
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import mmlm": [sys.executable, "-c", "import mmlm"],
    "mmlm --help": [sys.executable, "-m", "mmlm", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
    "mmlm.load('nano')": [sys.executable, "-c", "import mmlm; mmlm.load('nano')"],
    "mmlm.load('nano').caption(…)": [sys.executable, "-c", CAPTION],
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    print("| command | seconds |\n| --- | --- |")
    for name, command in COMMANDS.items():
        took, said = [], set()
        for _ in range(args.rounds + 1):
            start = time.perf_counter()
            said.add(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            took.append(time.perf_counter() - start)
        assert len(said) == 1, f"{name} says different things: {said}"
        print(f"| {name} | {statistics.median(took[1:]):.2f} |", flush=True)  # the first fills the file cache


if __name__ == "__main__":
    main()
