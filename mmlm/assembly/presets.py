"""Models that come with the package, by name, and where their parts lie."""

import os
from pathlib import Path

PRESET = "preset:"
PRESETS = {"nano": Path(__file__).parents[1] / "nano"}
ASSEMBLED = {
    "chat-small": {
        "language_model": "Qwen/Qwen2.5-0.5B-Instruct",
        "image_encoder": "ViT-B-32/laion2b_s34b_b79k",
        "audio_encoder": "whisper/small",
    },
}
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
    name = str(name)
    if not name.startswith(PRESET):
        return name
    preset, _, part = name.removeprefix(PRESET).partition("/")
    if preset not in PRESETS or not (PRESETS[preset] / part).exists():
        raise FileNotFoundError(f"no part {name!r}; presets are {', '.join(PRESETS)}")
    return str(PRESETS[preset] / part)


def part_of_preset(name: str, part: str) -> str:
    """The path of a part of the preset of this name ("nano"), or the name as it is."""
    return preset_path(f"{PRESET}{name}/{part}") if name in PRESETS else name
