"""What a model is made of, told by its files: no weights are loaded, and no part is fetched."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from encoders.gguf import is_gguf, read_gguf
from encoders.guarded import tensors_in, torch_file
from encoders.sizes import weight_files
from mmlm.assembly.config import FrozenPart, ModelConfig
from mmlm.assembly.load import model_folder, read_saved
from mmlm.assembly.presets import ASSEMBLED, OPEN_FLAMINGO, Published, preset_path
from mmlm.model.fusion.kinds import KINDS

JOBS = {
    "language_model": ("generate",),
    "image_encoder": ("caption", "answer"),
    "audio_encoder": ("transcribe", "ask"),
    "image_codec": ("draw",),
    "audio_codec": ("speak",),
}
HALVED = ("language_model", "image_encoder")  # what `dtype` applies to; all else stays in float32


@dataclass(frozen=True)
class PartFacts:
    """A part by the field of `ModelConfig`, its name, how many weights it has, and the bytes of its files.

    None for what is not known before the part is downloaded, or that its form does not tell. licence: what its model
    card says.
    """

    part: str
    name: str | None
    weights: int | None
    size: int | None
    licence: str | None = None


@dataclass(frozen=True)
class ModelFacts:
    """A model's parts, with what was added to them as the last one, and whether that was trained.

    fusion: how media join the language model, in a few words; None for a model that is not saved yet.
    """

    name: str
    parts: tuple[PartFacts, ...]
    trained: bool
    fusion: str | None = None

    @property
    def jobs(self) -> list[str]:
        """The verbs that it has the parts for."""
        return [job for part in self.parts for job in JOBS.get(part.part, ())]

    def memory(self, halved: bool = False) -> int | None:
        """Bytes of its weights in float32, or with language model and image encoder in 16 bits; None if not known."""
        found = 0
        for part in self.parts:
            if part.weights is None:
                return None
            found += part.weights * (2 if halved and part.part in HALVED else 4)
        return found

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        memory = {"float32": self.memory(), "bfloat16": self.memory(halved=True)}
        return {
            "name": self.name, "parts": [vars(part) for part in self.parts], "trained": self.trained,
            "fusion": self.fusion, "jobs": self.jobs, "memory": memory,
        }  # fmt: skip


def inspect(name: str | Path) -> ModelFacts:
    """What `mmlm.load(name)` would be made of. Errors are those of `load` for a model that cannot be found or read."""
    if str(name) in ASSEMBLED:
        return _published(str(name), ASSEMBLED[str(name)])
    if str(name) in OPEN_FLAMINGO:
        parts = OPEN_FLAMINGO[str(name)]
        found = [_facts("language_model", parts["language_model"]), _facts("image_encoder", "ViT-L-14/openai")]
        return ModelFacts(str(name), (*found, _facts("added", parts["checkpoint"])), trained=True)
    folder = model_folder(str(name))
    config, tensors = read_saved(folder)
    found = [_facts(part, own.name) for part, own in _parts(config)]
    count, size = sum(tensor.numel() for tensor in tensors.values()), (folder / "model.safetensors").stat().st_size
    kind = KINDS[config.fusion.kind]
    trained = any(bool(tensor.any()) for key, tensor in tensors.items() if key.endswith(kind.starts_at_zero))
    added = PartFacts("added", str(folder), count, size, _licence(folder))
    return ModelFacts(str(name), (*found, added), trained, kind.described(config.fusion))


def _parts(config: ModelConfig) -> Iterator[tuple[str, FrozenPart]]:
    for part, own in vars(config).items():
        if isinstance(own, FrozenPart) and part != "tokenizer":
            yield part, own


def _published(name: str, model: Published) -> ModelFacts:
    facts = [_facts(part, getattr(model, part, None)) for part in model.millions]
    found = [
        own if own.weights is not None else PartFacts(own.part, own.name, int(1e6 * model.millions[own.part]), own.size)
        for own in facts
    ]
    return ModelFacts(name, tuple(found), trained=False)


def _facts(part: str, name: str | None) -> PartFacts:
    if name is None:
        return PartFacts(part, None, None, None)
    place = _place(name)
    files = weight_files(place) or []
    if not files:
        return PartFacts(part, name, None, None)
    counts = [_count(file) for file in files]
    weights = None if None in counts else sum(filter(None, counts))
    return PartFacts(part, name, weights, sum(file.stat().st_size for file in files), _licence(files[0].parent))


def _place(name: str) -> str | Path:
    """Where the weights of a part lie: a file, a folder, or a hub id."""
    name = preset_path(name)
    if name.startswith("whisper/"):
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        return cache / f"{name}.pt"
    architecture, _, tag = name.partition("/")
    if not tag or Path(name).exists():
        return name
    if Path(tag).is_file():
        return tag
    from open_clip.pretrained import get_pretrained_cfg  # which takes a second to import

    if published := get_pretrained_cfg(architecture, tag):
        return str(published.get("hf_hub", "")).rstrip("/") or name
    return name


def _count(file: Path) -> int | None:
    """How many weights a file holds, by its header where it has one; None for a form that does not tell."""
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as opened:
            return sum(math.prod(opened.get_slice(key).get_shape()) for key in opened.keys())
    if is_gguf(file):
        return sum(math.prod(tensor.shape) for tensor in read_gguf(file).tensors.values())
    try:
        return sum(tensor.numel() for tensor in tensors_in(torch_file(file)))
    except Exception:  # of many types: it is no file of torch.save
        return None


def _licence(folder: Path) -> str | None:
    """The licence in the front matter of a model card."""
    for card in ("README.md", "MODEL_CARD.md"):
        if (folder / card).is_file():
            found = re.match(r"---\n(?:.*\n)*?license:\s*(\S+)", (folder / card).read_text(encoding="utf-8"))
            return found and found[1]
    return None
