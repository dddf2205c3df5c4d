"""Whether a diffusion decoder helps: the tables of docs/diffusion-decoder.md, trained and printed.

    python -m recipes.diffusion_decoder.run nano            # nano's codec, drawn scenes: about an hour on one core
    python -m recipes.diffusion_decoder.run flickr8k        # a codec of photographs, trained first
    python -m recipes.diffusion_decoder.run fsdd            # nano's codec of sound, digits as people said them
    python -m recipes.diffusion_decoder.run nano --steps 50 --seeds 1 --held-out 40 --output /tmp/try

On one frozen codec, from the same media and for as many steps, are trained: the diffusion decoder, and as its
control the same network asked for the detail at once, without noise (the mean of what the codes leave open, which
blurs). Each from several seeds; intervals are 95% of Student's t over the seeds. Media measured are held out.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=("nano", "flickr8k", "fsdd"))
    parser.add_argument("--seeds", type=int, default=3, choices=(1, 2, 3, 4, 5))
    parser.add_argument("--steps", type=int, default=1500, help="training steps of each decoder, of 16 media")
    parser.add_argument("--codec-steps", type=int, default=2000, help="of the codec of photographs")
    parser.add_argument("--held-out", type=int, default=500, help="pictures that are measured, at most")
    parser.add_argument("--written", type=int, default=200, help="pictures or words of nano's that are measured")
    parser.add_argument("--output", type=Path, default=ROOT / "runs/diffusion_decoder")
    arguments = parser.parse_args()
    output = arguments.output / arguments.set
    sets = Path(os.environ.get("MMLM_DATA", "../shared/data")) / arguments.set
    if arguments.set != "nano" and not sets.is_dir():
        parser.error(f"no media in {sets}: set MMLM_DATA to the folder that holds {arguments.set}")
    seeds, steps = arguments.seeds, arguments.steps
    from recipes.diffusion_decoder import pictures, sound

    if arguments.set == "fsdd":
        sound.study(sets, output, seeds, steps, max(1, arguments.written // 10))
    elif arguments.set == "nano":
        pictures.study_drawings(output, arguments.held_out, arguments.written, seeds, steps)
    else:
        pictures.study_photographs(output, sets, arguments.held_out, arguments.codec_steps, seeds, steps)


if __name__ == "__main__":
    main()
