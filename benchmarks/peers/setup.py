"""Makes the environment that the peers run in: open_flamingo 2.0.1 with the transformers it was written for.

    python benchmarks/peers/setup.py [FOLDER]

FOLDER is `.cache/peers` by default. torch, open_clip and the rest are those of the python that runs this, found after
the peer's own packages, so little is downloaded and both sides compute with one torch.
"""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".cache" / "peers"
PACKAGES = (
    "open_flamingo==2.0.1",
    "transformers==4.33.3; python_version < '3.12'",
    "tokenizers==0.13.3; python_version < '3.12'",
    "transformers==4.35.2; python_version >= '3.12'",  # the next, since tokenizers 0.13 was never built for it
    "tokenizers==0.15.2; python_version >= '3.12'",
    "huggingface_hub==0.25.2",  # transformers 4.33 refuses 1.0 and later
    "einops_exts==0.0.4",
)


def python_of(folder: Path) -> Path:
    """The environment's interpreter."""
    return folder / "bin" / "python"


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    venv.create(folder, with_pip=True)
    # Without their dependencies: these pin a torch of 2023, which nothing in them needs.
    subprocess.run([python_of(folder), "-m", "pip", "install", "-q", "--no-deps", *PACKAGES], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    subprocess.run([python_of(folder), "-c", "import open_flamingo"], check=True)
    print(f"{folder} is ready: python benchmarks/peers/open_flamingo.py")


if __name__ == "__main__":
    main()
