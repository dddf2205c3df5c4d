"""Models that come with the package, by name, and where their parts lie."""

import os
from dataclasses import dataclass
from pathlib import Path

from encoders.files import at_home

PRESET = "preset:"
PRESETS = {"nano": Path(__file__).parents[1] / "nano"}


@dataclass(frozen=True)
class Published:
    """Names of published parts, the millions of weights of each and of new adapters, and the gigabytes to download."""

    language_model: str
    image_encoder: str
    audio_encoder: str
    millions: dict[str, float]
    gigabytes: float


ASSEMBLED = {
    "chat-tiny": Published(
        "HuggingFaceTB/SmolLM2-360M-Instruct", "ViT-B-32/datacomp_xl_s13b_b90k", "whisper/base",
        {"language_model": 362, "image_encoder": 151, "audio_encoder": 73, "added": 297}, 1.5,
    ),
    "chat-small": Published(
        "Qwen/Qwen2.5-1.5B-Instruct", "ViT-B-16-SigLIP2/webli", "whisper/small",
        {"language_model": 1544, "image_encoder": 375, "audio_encoder": 242, "added": 599}, 5.1,
    ),
    "chat-medium": Published(
        "Qwen/Qwen3-4B-Instruct-2507", "ViT-SO400M-16-SigLIP2-256/webli", "whisper/turbo",
        {"language_model": 4022, "image_encoder": 1136, "audio_encoder": 809, "added": 2036}, 14.2,
    ),
}  # fmt: skip
"""Models put together from published parts, which are downloaded once. Their adapters are new: they answer what is said
(`ask` with mode="transcript"), and see and hear nothing else before they are trained."""

OPEN_FLAMINGO = {
    "openflamingo-3b": {
        "checkpoint": "openflamingo/OpenFlamingo-3B-vitl-mpt1b",
        "language_model": "anas-awadalla/mpt-1b-redpajama-200b",
    },
    "openflamingo-3b-instruct": {
        "checkpoint": "openflamingo/OpenFlamingo-3B-vitl-mpt1b-langinstruct",
        "language_model": "anas-awadalla/mpt-1b-redpajama-200b-dolly",
    },
    "openflamingo-4b": {
        "checkpoint": "openflamingo/OpenFlamingo-4B-vitl-rpj3b",
        "language_model": "togethercomputer/RedPajama-INCITE-Base-3B-v1",
    },
    "openflamingo-4b-instruct": {
        "checkpoint": "openflamingo/OpenFlamingo-4B-vitl-rpj3b-langinstruct",
        "language_model": "togethercomputer/RedPajama-INCITE-Instruct-3B-v1",
    },
    "openflamingo-9b": {
        "checkpoint": "openflamingo/OpenFlamingo-9B-vitl-mpt7b",
        "language_model": "anas-awadalla/mpt-7b",
    },
}
"""OpenFlamingo's released models: hub ids of the checkpoint and of its language model. All see with ViT-L-14/openai."""


def preset_path(name: str | Path) -> str:
    """Folder or file of a part of a preset ("preset:nano/language_model"), or the name as it is.

    TypeError for what is no name.
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(f"a part of a model is given by its name or path, or ready-made, not as {type(name).__name__}")
    name = at_home(name)
    if not name.startswith(PRESET):
        return name
    preset, _, part = name.removeprefix(PRESET).partition("/")
    if preset not in PRESETS or not (PRESETS[preset] / part).exists():
        raise FileNotFoundError(f"no part {name!r}; presets are {', '.join(PRESETS)}")
    return str(PRESETS[preset] / part)


def part_of_preset(name: str, part: str) -> str:
    """The path of a part of the preset of this name ("nano"), or the name as it is."""
    return preset_path(f"{PRESET}{name}/{part}") if name in PRESETS else name
