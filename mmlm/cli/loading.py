"""What verbs read: devices, models, pictures and recordings. Heavy imports happen inside the functions."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mmlm.cli.options import PARTS

if TYPE_CHECKING:
    import torch

    from mmlm.assembly.multimodal_lm import MultimodalLM


def check_files(names: Sequence[str]) -> None:
    """FileNotFoundError for the first name that is no file, a folder say; "-" is standard input."""
    for name in names:
        if name != "-" and not Path(name).is_file():
            raise FileNotFoundError(f"{name}: {'a folder; name its files' if Path(name).is_dir() else 'no such file'}")


def output_paths(output: str, suffixes: Sequence[str], count: int = 1) -> list[Path]:
    """`out.png`, or `out-1.png` and on where there are several; ValueError where such a file could not be written."""
    path = Path(output)
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{output}: the name must end in one of {', '.join(suffixes)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder")
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{number}") for number in range(1, count + 1)]


def source_of(name: str) -> BinaryIO | Path:
    """A file's path, or standard input for "-"."""
    return sys.stdin.buffer if name == "-" else Path(name)


def read_image(name: str) -> Any:
    """A picture, or a video by its suffix."""
    from encoders.media.image import load_image
    from encoders.media.video import is_video, load_video

    return load_video(Path(name)) if is_video(name) else load_image(source_of(name))


def device_of(args: argparse.Namespace) -> torch.device:
    """The device of `--device`; ValueError for one that is not there."""
    import torch

    from encoders.base import check_device

    check_device(args.device)
    return torch.device(args.device)


def dtype_of(args: argparse.Namespace) -> torch.dtype:
    """The type of `--dtype`."""
    import torch

    return getattr(torch, args.dtype)


def load_model(args: argparse.Namespace) -> MultimodalLM:
    """The model of `--model`, on its device, packed where that was asked for."""
    device = device_of(args)
    if args.pack not in (None, "exact") and device.type != "cpu":
        raise ValueError(f"--pack {args.pack} is for a CPU, not for {device}: use --pack exact")
    from mmlm.assembly.load import load

    parts: dict[str, Any] = {part: vars(args).get(part) for part in PARTS}
    model = load(args.model, **parts, dtype=dtype_of(args), device=device)
    return model if args.pack is None else model.pack(args.pack)


def examples_of(args: argparse.Namespace, model: MultimodalLM) -> Any:
    """The pictures of `--examples`, indexed by similarity; None without it."""
    if args.examples is None:
        return None
    from encoders.clip import ClipImageEncoder
    from mmlm.retrieval.rices import Rices

    encoder = model.encoders.get("image")
    if not isinstance(encoder, ClipImageEncoder):
        raise ValueError("--examples are chosen by CLIP, and this model has none")
    return Rices(encoder, args.examples)
