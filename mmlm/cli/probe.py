"""Measure what a linear classifier reads from the features of a frozen encoder."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mmlm.cli.loading import device_of
from mmlm.cli.options import PARTS, add_device_option, add_json_option, file_path
from mmlm.cli.output import print_record

if TYPE_CHECKING:
    from encoders.base import FrozenEncoder

EXAMPLES = """\
  mmlm probe "cifar10/train-*.tar" "cifar10/dev-*.tar"
  mmlm probe photos/train photos/test --image-encoder ViT-B-32/laion2b_s34b_b79k   (a folder for each label)
  mmlm probe sounds/train sounds/test --audio-encoder whisper/base --json"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    form = 'tars with KEY.json that has a "label", or a folder with a folder for each label'
    verb.add_argument("train", type=file_path, metavar="TRAIN", help=f"labelled pictures or recordings: {form}")
    verb.add_argument("test", type=file_path, metavar="TEST", help="others, with the same labels")
    which = verb.add_mutually_exclusive_group()
    which.add_argument("--model", type=file_path, default="nano", metavar="MODEL", help="its encoder (default: nano)")
    for name in ("image_encoder", "audio_encoder"):
        which.add_argument(f"--{name.replace('_', '-')}", type=file_path, metavar="NAME", help=PARTS[name])
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="of the split that chooses the penalty")
    add_device_option(verb)
    add_json_option(verb)


def run(args: argparse.Namespace) -> None:
    """Accuracy with its interval, beside chance."""
    from mmlm.evaluation.labelled import modality_of, read_labelled

    modality = modality_of(args.train)
    train, test = (read_labelled(source, modality) for source in (args.train, args.test))
    encoder = encoder_of(args, modality)
    from mmlm.evaluation.probe import probe

    found = probe(encoder, train, test, seed=args.seed)
    print_record(args, found.to_dict(), str(found))


def encoder_of(args: argparse.Namespace, modality: str) -> FrozenEncoder:
    """The encoder that is named, or the model's own. ValueError for one of the other modality."""
    other = "audio" if modality == "image" else "image"
    if vars(args)[f"{other}_encoder"] is not None:
        raise ValueError(f"the media are of the other kind: give --{modality}-encoder, not --{other}-encoder")
    device, name = device_of(args), vars(args)[f"{modality}_encoder"]
    if name is None:
        from mmlm.assembly.encoders import load_encoders

        found = load_encoders(args.model, encoders=[modality], device=device)
        if modality not in found:
            raise ValueError(f"{args.model} has no {modality} encoder: name one with --{modality}-encoder")
        return found[modality]
    if modality == "image":
        from encoders.clip import ClipImageEncoder

        return ClipImageEncoder.load(name, device=device)
    from encoders.whisper import WhisperAudioEncoder

    return WhisperAudioEncoder.load(name, device=device)
