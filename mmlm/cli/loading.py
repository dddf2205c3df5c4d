"""What verbs read: devices, models, pictures and recordings. Heavy imports happen inside the functions."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from mmlm.cli.inputs import Input
from mmlm.cli.options import CODECS, ENCODERS, IMAGE_LIMITS, PARTS, VIDEO_LIMITS, reading_options

if TYPE_CHECKING:
    import torch

    from encoders.base import FrozenEncoder
    from mmlm.assembly.multimodal_lm import MultimodalLM
    from mmlm.data import RecordSet


def output_paths(output: str, suffixes: Sequence[str], count: int = 1) -> list[Path]:
    """`out.png`, or `out-1.png` and on where there are several; ValueError where such a file could not be written."""
    path = Path(output)
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{output}: the name must end in one of {', '.join(suffixes)}")
    check_folder_of(path)
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{number}") for number in range(1, count + 1)]


def check_folder_of(file: Path) -> None:
    """OSError where a file cannot be written: its folder is not there or cannot be written to, or it is one itself."""
    from mmlm.training.checks import check_output

    if not file.parent.is_dir():
        raise FileNotFoundError(f"{file.parent}: no such folder")
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder: name a file in it")
    check_output(file.parent)


def read_image(source: Any, args: argparse.Namespace) -> Any:
    """A picture, or a video by its suffix, within the limits that were given. source: an input, or a file's name."""
    from encoders.media.image import load_image
    from encoders.media.video import is_video, load_video

    one = source if isinstance(source, Input) else Input(source, PurePath())
    if is_video(one.name):
        if "://" in one.name:
            raise ValueError(f"{one.name}: videos are not fetched; download it")
        limits = reading_options(args, *VIDEO_LIMITS)
        limits.pop("allow_url", None)
        return load_video(one.source(), **limits)
    return load_image(one.source(), **reading_options(args, *IMAGE_LIMITS))


def check_sound(one: Input, reading: dict[str, Any]) -> bool:
    """True for a recording whose header can be read within the limits; standard input and addresses are not tried."""
    if one.name == "-" or "://" in one.name:
        return True
    from encoders.media.sound import open_audio

    with open_audio(one.source(), **reading):
        return True


def device_of(args: argparse.Namespace) -> torch.device:
    """The device of `--device`; ValueError for one that is not there."""
    import torch

    from encoders.base import check_device

    try:
        check_device(args.device)
    except ValueError as error:
        raise ValueError(f"--device {args.device}: {error}") from error
    return torch.device(args.device)


def check_pack(args: argparse.Namespace, device: torch.device) -> None:
    """ValueError for a `--pack` that is not for this device."""
    if args.pack not in (None, "exact") and device.type != "cpu":
        raise ValueError(f"--pack {args.pack} is for a CPU, not for {device}: use --pack exact")


def dtype_of(args: argparse.Namespace) -> torch.dtype:
    """The type of `--dtype`."""
    import torch

    return getattr(torch, args.dtype)


def load_model(
    args: argparse.Namespace, *needed: str, codecs: bool = True, beside: Collection[MultimodalLM] = ()
) -> MultimodalLM:
    """The model of `--model`, or one that is joined of the parts given; on its device, packed where that was asked for.

    needed: "image", "audio", the encoders that the work needs: others are not loaded. None: all of them.
    codecs: whether the work may draw or speak: the model's codecs are not loaded otherwise.
    beside: models in memory, with which it shares what is the same in both, packed copies too.
    """
    device = device_of(args)
    check_pack(args, device)
    from mmlm.assembly.codecs import Codecs
    from mmlm.assembly.load import load

    parts: dict[str, Any] = {part: vars(args).get(part) for part in PARTS}
    options: dict[str, Any] = {"dtype": dtype_of(args), "device": device}
    given = Codecs(**{part.removesuffix("_codec"): vars(args).get(part) for part in CODECS})
    if args.model is None and parts["language_model"] is not None:
        model = joined(parts, needed, {**options, "codecs": given})
    else:
        own = given if codecs or given else None
        model = load(args.model or "nano", **parts, codecs=own, encoders=needed or None, beside=beside, **options)
    if args.pack is not None:
        from mmlm.acceleration.pack import share_packed

        model.pack(args.pack)
        for other in beside:
            share_packed(model, other)
    return model


def load_parts(args: argparse.Namespace, *needed: str) -> dict[str, FrozenEncoder]:
    """The encoders of `--model` that are needed, of "image" and "audio", on their device; nothing else is loaded."""
    device = device_of(args)
    from mmlm.assembly.encoders import load_encoders

    given: dict[str, Any] = {part: vars(args)[part] for part in ENCODERS}
    return load_encoders(args.model or "nano", **given, encoders=needed, dtype=dtype_of(args), device=device)


def joined(parts: dict[str, Any], needed: Collection[str], options: dict[str, Any]) -> MultimodalLM:
    """A new model of a language model and those encoders that were given and are needed."""
    given = {name for name in ("image", "audio") if parts[f"{name}_encoder"] is not None}
    if not given:
        raise ValueError(
            "--language-model makes a new model with --image-encoder, --audio-encoder or both (such as --audio-encoder "
            "whisper/base); name with --model the model in which it takes the other's place"
        )
    from mmlm.assembly.assemble import assemble
    from mmlm.assembly.needed import needed_of

    kept = {f"{name}_encoder": parts[f"{name}_encoder"] for name in needed_of(given, needed)}
    return assemble(parts["language_model"], **kept, **options)


def read_examples(args: argparse.Namespace) -> RecordSet | None:
    """The records of `--examples`, read before any weights are; None without it."""
    if args.examples is None:
        return None
    from mmlm.data import read_records

    return read_records(args.examples)


def examples_of(records: RecordSet | None, model: MultimodalLM) -> Any:
    """Examples indexed by similarity; None where there are none."""
    if records is None:
        return None
    from encoders.clip import ClipImageEncoder
    from mmlm.retrieval.rices import Rices

    encoder = model.encoders.get("image")
    if not isinstance(encoder, ClipImageEncoder):
        raise ValueError("--examples are chosen by CLIP, and this model has none")
    return Rices(encoder, records)


def check_index(args: argparse.Namespace) -> None:
    """FileNotFoundError where the index of `--index` is not there, before any weights are read."""
    if not Path(args.index).exists():
        raise FileNotFoundError(
            f"{args.index}: no such index; make it with `mmlm index add FOLDER --index {args.index}`"
        )
