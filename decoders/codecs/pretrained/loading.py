"""`load_pretrained`: one function for all published codecs."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from decoders.codecs.base import MediaCodec
from decoders.codecs.pretrained.checkpoints import read_weights, vqgan_from_weights
from decoders.codecs.pretrained.frozen import FrozenCodec
from decoders.codecs.pretrained.pictures import DiffusersVQ, Emu3VQ, JanusVQ, VQGANCodec
from decoders.codecs.pretrained.sound import DacCodec, EncodecCodec, MimiCodec
from encoders.guarded import from_pretrained
from encoders.model_files import read_json
from encoders.sizes import RefusedError

CODECS: dict[str, type[FrozenCodec]] = {  # upstream class of the network → codec
    "diffusers.VQModel": DiffusersVQ,
    "transformers.JanusVQVAE": JanusVQ,
    "transformers.Emu3VQVAE": Emu3VQ,
    "transformers.EncodecModel": EncodecCodec,
    "transformers.DacModel": DacCodec,
    "transformers.MimiModel": MimiCodec,
}
CLASSES = {  # `_class_name` or `model_type` of a config.json → upstream class
    "VQModel": "diffusers.VQModel",
    "janus_vqgan": "transformers.JanusVQVAE",
    "janus": "transformers.JanusVQVAE",
    "emu3_vqgan": "transformers.Emu3VQVAE",
    "emu3": "transformers.Emu3VQVAE",
    "encodec": "transformers.EncodecModel",
    "dac": "transformers.DacModel",
    "mimi": "transformers.MimiModel",
}
READY_MADE = "load it yourself, and pass the module"


def load_pretrained(
    source: str | Path | nn.Module,
    *,
    subfolder: str = "",
    size: int | None = None,
    num_codebooks: int | None = None,
    pixels: tuple[float, float] | None = None,
) -> MediaCodec:
    """Load a published codec: frozen, in eval mode and in float32.

    source: one of
        - a folder or hub id of diffusers' VQModel (aMUSEd, latent diffusion, Kandinsky's MoVQ) or of transformers'
          JanusVQVAE, Emu3VQVAE, EnCodec, DAC or Mimi, recognised by config.json. A whole Janus or Emu3 model works too:
          only its codec is loaded.
        - a checkpoint file of LlamaGen (.pt) or taming-transformers (.ckpt), recognised by the names of the weights.
        - a module of any of these classes. Upstream modules are used as they are and frozen; LlamaGen's and taming's
          weights are copied.
    subfolder: where in the folder or hub id the codec is, such as "vqvae" or "movq" in a diffusers pipeline.
    size: of images, the pixels per side that the codec is fixed to, since a language model writes codes for one grid;
        None leaves it open.
    num_codebooks: of audio, how many codebooks to use; None for 8, or for all if there are fewer.
    pixels: of a VQModel, the range of its pixels, (0, 1) or (-1, 1); None for the range that `DiffusersVQ` infers.

    ValueError for an unknown source, for missing or misshapen weights, and for options that do not apply;
    FileNotFoundError for a source that does not exist.
    """
    codec, read = _find(source, subfolder)
    given = {"num_codebooks": num_codebooks, "pixels": pixels}
    options = {name: value for name, value in given.items() if value is not None}
    for name in options:
        if name not in inspect.signature(codec).parameters:
            raise ValueError(f"{name} does not apply to a {codec.__name__}")
    made = codec(read(), **options)
    if size is not None:
        _fix_size(made, size)
    if pixels is None and not isinstance(source, nn.Module):  # otherwise the name alone would not rebuild the codec
        made.name = str(Path(source).resolve()) if Path(source).exists() else str(source)
        made.subfolder = subfolder
    return made


def _fix_size(codec: MediaCodec, size: int) -> None:
    if codec.modality != "image" or size < 1 or size % codec.downsample or codec.size not in (None, size):
        possible = "none" if codec.modality != "image" else codec.size or f"multiples of {codec.downsample}"
        raise ValueError(f"size {size} does not apply to this {type(codec).__name__}; possible sizes: {possible}")
    codec.size = size


def _find(source: str | Path | nn.Module, subfolder: str) -> tuple[Callable[..., FrozenCodec], Callable[[], Any]]:
    """The codec class of a source and a function that loads its network. No weights are read yet."""
    if isinstance(source, nn.Module):
        names = [f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in type(source).__mro__]
        kind = next((name for name in names if name in CODECS), None)
        return (CODECS[kind], lambda: source) if kind else (VQGANCodec, lambda: vqgan_from_weights(source.state_dict()))
    if Path(source).is_file():
        return VQGANCodec, lambda: vqgan_from_weights(read_weights(source))
    config = read_json(_config_file(str(source), subfolder))
    name = config.get("_class_name", config.get("model_type"))
    if not isinstance(name, str) or name not in CLASSES:
        raise ValueError(f"the config.json of {source} names {name!r}, and none of {', '.join(CLASSES)}")
    kind, is_part = CLASSES[name], "vq_config" in config
    return CODECS[kind], lambda: _network(str(source), subfolder, kind, is_part)


def _config_file(source: str, subfolder: str) -> Path:
    """The config.json in a folder, or downloaded from the hub."""
    if Path(source).is_dir():
        path = Path(source, subfolder, "config.json")
        if not path.is_file():
            inside = sorted(found.parent.name for found in path.parent.glob("*/config.json"))
            hint = f"; subfolder= may be one of {', '.join(inside)}" if inside else ""
            raise FileNotFoundError(f"{path} does not exist{hint}")
        return path
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source, "config.json", subfolder=subfolder or None))
    except Exception as error:
        raise FileNotFoundError(
            f"{source!r} is neither a file nor a folder, and its config.json cannot be fetched from the hub: {error}"
        ) from error


def _network(source: str, subfolder: str, kind: str, is_part: bool) -> nn.Module:
    """Load a network of class `kind` from a folder or hub id; ValueError if a weight is missing.

    is_part: the network is a part of a language model, whose config describes it under "vq_config".
    """
    library, name = kind.split(".")
    upstream: Any = getattr(importlib.import_module(library), name)
    dtype = "torch_dtype" if library == "diffusers" else "dtype"
    options: dict[str, Any] = {dtype: torch.float32, "subfolder": subfolder}
    if is_part:
        from transformers import AutoConfig

        options["config"] = from_pretrained(AutoConfig, source, READY_MADE, subfolder=subfolder).vq_config
        options["key_mapping"] = {r"^(model\.)?vqmodel\.": ""}
    try:
        network, report = from_pretrained(upstream, source, READY_MADE, output_loading_info=True, **options)
    except (RefusedError, OSError):
        raise
    except Exception as error:  # of many types, for settings and weights that are none
        raise ValueError(f"{source} cannot be loaded as {name} ({type(error).__name__}): {error}") from error
    absent = [*report["missing_keys"], *report["mismatched_keys"]]
    if absent:
        listed = ", ".join(map(str, absent))
        raise ValueError(f"{source} lacks weights of {name}, or has them in other shapes: {listed}")
    return network
