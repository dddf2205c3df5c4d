"""Codecs in folders: `config.json` and `model.safetensors`, no code that runs on loading."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from decoders.codecs.audio_vqvae import AudioVQVAE, AudioVQVAEConfig
from decoders.codecs.base import MediaCodec
from decoders.codecs.image_vqvae import ImageVQVAE, ImageVQVAEConfig
from decoders.codecs.quantizer import QuantizerConfig

KINDS = {"image_vqvae": (ImageVQVAE, ImageVQVAEConfig), "audio_vqvae": (AudioVQVAE, AudioVQVAEConfig)}


def save_codec(codec: MediaCodec, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Writes a codec that was trained here; TypeError for another. `dtype`: in which its weights are kept."""
    kind = next((kind for kind, (cls, _) in KINDS.items() if isinstance(codec, cls)), None)
    if kind is None:
        raise TypeError(f"{type(codec).__name__} is kept in its own format, not in this one")
    return _write(folder, {"kind": kind, **dataclasses.asdict(codec.config)}, codec.state_dict(), dtype)


def load_codec(folder: str | Path) -> MediaCodec:
    """The codec of a folder, in float32 and eval mode; ValueError for one that is damaged or of another kind."""
    config, tensors = _read(folder)
    kind = config.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"{folder} holds no codec ({kind!r}); kinds are {', '.join(KINDS)}")
    cls, config_cls = KINDS[kind]
    with _explained(folder):
        codec = cls(config_cls(**{**config, "quantizer": QuantizerConfig(**config["quantizer"])}))
        codec.load_state_dict(_floats(tensors))
    return codec.requires_grad_(False).eval()


def codec_fingerprint(codec: nn.Module) -> str:
    """16 hex characters that change with a codec's kind and sizes, and with any weight by more than float16 rounds."""
    names = ("modality", "size", "downsample", "sample_rate", "codebook_size", "num_codebooks")
    told = [
        type(codec).__name__,
        *(getattr(codec, name, None) for name in names),
        _chosen(getattr(codec, "config", None)),
    ]
    digest = hashlib.sha256(repr(told).encode())
    for name, tensor in sorted(codec.state_dict().items()):
        kept = tensor.half() if tensor.is_floating_point() else tensor
        digest.update(f"{name} {list(kept.shape)};".encode() + kept.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _chosen(config: Any) -> Any:
    """A config's fields that are not as they are by default: an option that comes later changes no fingerprint."""
    if not dataclasses.is_dataclass(config):
        return config
    default = type(config)()
    names = [field.name for field in dataclasses.fields(config)]
    return {name: _chosen(getattr(config, name)) for name in names if getattr(config, name) != getattr(default, name)}


def _write(folder: str | Path, config: dict[str, Any], tensors: dict[str, Tensor], dtype: torch.dtype) -> Path:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kept = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).detach().cpu().contiguous().clone()
        for name, tensor in tensors.items()
    }
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as parts:
        save_file(kept, Path(parts, "model.safetensors"), metadata={"format": "pt"})
        Path(parts, "model.safetensors").chmod(0o644)  # safetensors writes for its owner alone
        Path(parts, "config.json").write_text(json.dumps(config, indent=2) + "\n")
        for name in ("model.safetensors", "config.json"):
            os.replace(Path(parts, name), folder / name)
    return folder


def _read(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is not a saved codec or decoder: {name} is missing")
    with _explained(folder):
        return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


@contextmanager
def _explained(folder: str | Path) -> Iterator[None]:
    """What goes wrong with a folder's content, as a ValueError that names the folder."""
    try:
        yield
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"what is in {folder} is damaged or of another version: {error}") from error


def _floats(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
