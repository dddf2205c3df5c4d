"""Draw what a text says."""

from __future__ import annotations

import argparse
from pathlib import PurePath
from typing import TYPE_CHECKING

from mmlm.cli.inputs import Input
from mmlm.cli.loading import load_model, output_paths
from mmlm.cli.options import (
    IMAGE_LIMITS,
    add_media_options,
    add_model_options,
    add_reading_options,
    file_path,
    media_options,
    reading_options,
)
from mmlm.cli.output import print_result, progress_bar

if TYPE_CHECKING:
    from PIL import Image

EXAMPLES = """\
  mmlm draw "in the middle a large red circle, on a white background" -o out.png
  mmlm draw "on the left a large green star, on a black background" -o star.png -n 4 --seed 1
  mmlm draw "on the left a large green star, on a black background" -o best.png -n 4 --rerank --guidance-scale 2
  mmlm draw "in the middle a large red ring, on a white background" -o ring.png --init-image out.png --mask mask.png"""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verb.add_argument("text", metavar="TEXT", help="nano knows scenes in words like below, and emoji by their names")
    verb.add_argument(
        "-o", "--output", required=True, type=file_path, metavar="FILE", help="a picture file; several are numbered"
    )
    verb.add_argument("-n", "--num-images", type=int, default=1, metavar="N", help="how many at once")
    verb.add_argument("--rerank", action="store_true", help="keep the one that CLIP finds most similar to the text")
    verb.add_argument("--init-image", type=file_path, metavar="IMAGE", help="begin with this picture")
    verb.add_argument(
        "--mask",
        type=file_path,
        metavar="IMAGE",
        help="what of it is drawn anew: black stays, or what is not transparent",
    )
    verb.add_argument(
        "--strength", type=float, metavar="S", help="without a mask, the share of it that is drawn anew (default: 0.5)"
    )
    add_model_options(verb)
    add_reading_options(verb, *IMAGE_LIMITS)
    add_media_options(verb)


def run(args: argparse.Namespace) -> None:
    """Pictures, into files."""
    if args.rerank and args.num_images < 2:
        raise ValueError("--rerank chooses among several: give -n 4, for example")
    if args.mask is not None and args.init_image is None:
        raise ValueError("--mask says what of --init-image stays: give that too")
    if args.num_images < 1:
        raise ValueError(f"-n must be at least 1, not {args.num_images}")
    if args.strength is not None and (args.init_image is None or args.mask is not None):
        raise ValueError("--strength is a share of --init-image, for where no --mask says what is drawn anew")
    if args.strength is not None and not 0 <= args.strength <= 1:
        raise ValueError(f"--strength is a share, 0 to 1, not {args.strength}")
    options = media_options(args)
    from mmlm.tasks.draw import check_numbers

    check_numbers(num_images=args.num_images)
    paths = output_paths(args.output, SUFFIXES, 1 if args.rerank else args.num_images)
    start = None if args.init_image is None else _picture(args.init_image, args)
    mask = None if args.mask is None else _picture(args.mask, args, keep_alpha=True)
    model = load_model(args, "image")
    from PIL import Image

    from mmlm.tasks.rows import results_of

    with progress_bar() as progress:
        drawn = model.draw(
            args.text, args.num_images, rerank=args.rerank, init_image=start, mask=mask, strength=args.strength,
            details=True, progress=progress, **options,
        )  # fmt: skip
    for path, result in zip(paths, results_of(drawn), strict=True):
        picture = result.media[0]
        assert isinstance(picture, Image.Image), "drawings are pictures"
        picture.save(path)
        record = {"prompt": args.text, "image": str(path), "size": list(picture.size)}
        print_result(args, record, str(path), result)


def _picture(name: str, args: argparse.Namespace, keep_alpha: bool = False) -> Image.Image:
    from encoders.media.image import load_image

    source = Input(name, PurePath()).source()
    return load_image(source, keep_alpha=keep_alpha, **reading_options(args, *IMAGE_LIMITS))
