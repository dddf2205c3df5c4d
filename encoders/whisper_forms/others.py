"""Forms in which Whispers are published and that are not read, by name."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

READ = (
    "take the same model as openai-whisper's file, or as the folder or hub id of transformers (config.json and "
    "model.safetensors) or of CTranslate2 (config.json and model.bin)"
)
MERGE = "merge it into its Whisper with peft's merge_and_unload(), and save that"
FORMS = (  # pattern of a file's name, what it is a sign of, what would do
    ("adapter_config.json", "an adapter of peft", MERGE),
    ("*.onnx", "ONNX", READ),
    ("*.msgpack", "Flax", READ),
    ("*.h5", "TensorFlow", READ),
    ("*.tflite", "TensorFlow Lite", READ),
    ("ggml*.bin", "whisper.cpp (GGML)", READ),
    ("*.gguf", "GGUF", READ),
    ("weights.npz", "MLX", READ),
    ("weights.safetensors", "MLX", READ),
    ("openvino*", "OpenVINO", READ),
    ("*.mlmodelc", "Core ML", READ),
    ("*.mlpackage", "Core ML", READ),
    ("*.nemo", "NeMo", READ),
)
BEGINNINGS = {b"lmgg": "ggml.bin", b"GGUF": "a.gguf"}  # of files whose names may be any → a name that tells it


def other_form(names: Iterable[str]) -> str | None:
    """What files of these names, in a folder without weights that are read, are, and what would do; None if unknown."""
    names = [Path(name).name for name in names]
    for pattern, form, remedy in FORMS:
        if any(fnmatch(name, pattern) for name in names):
            return f"it is {form}, which is not read: {remedy}"
    return None


def other_file(path: Path) -> str | None:
    """The same of one file that is no checkpoint of openai-whisper's."""
    with open(path, "rb") as file:
        beginning = file.read(4)
    if (form := other_form([BEGINNINGS.get(beginning, path.name)])) is not None:
        return form
    if (path.parent / "config.json").is_file():
        return f"it is a part of a model: give the folder {str(path.parent)!r} that holds it"
    return None
