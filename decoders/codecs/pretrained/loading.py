"""One door to all published codecs."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from decoders.codecs.base import MediaCodec
from decoders.codecs.pretrained.checkpoints import read_weights, vqgan_from_weights
from decoders.codecs.pretrained.pictures import DiffusersVQ, Emu3VQ, JanusVQ, VQGANCodec
from decoders.codecs.pretrained.sound import DacCodec, EncodecCodec, MimiCodec

CODECS = {  # by the class that upstream loads the network with
    "diffusers.VQModel": DiffusersVQ,
    "transformers.JanusVQVAE": JanusVQ,
    "transformers.Emu3VQVAE": Emu3VQ,
    "transformers.EncodecModel": EncodecCodec,
    "transformers.DacModel": DacCodec,
    "transformers.MimiModel": MimiCodec,
}
CLASSES = {  # `_class_name` or `model_type` of a config.json → that class
    "VQModel": "diffusers.VQModel",
    "janus_vqgan": "transformers.JanusVQVAE",
    "janus": "transformers.JanusVQVAE",
    "emu3_vqgan": "transformers.Emu3VQVAE",
    "emu3": "transformers.Emu3VQVAE",
    "encodec": "transformers.EncodecModel",
    "dac": "transformers.DacModel",
    "mimi": "transformers.MimiModel",
}


def load_pretrained(
    source: str | Path | nn.Module,
    *,
    subfolder: str = "",
    size: int | None = None,
    num_codebooks: int | None = None,
    pixels: tuple[float, float] | None = None,
) -> MediaCodec:
    """A published codec behind `MediaCodec`: frozen, in evaluation mode and float32.

    source: a folder or hub id of diffusers' VQModel (aMUSEd, latent diffusion, Kandinsky's MoVQ) or of transformers'
        JanusVQVAE, Emu3VQVAE (a whole Janus or Emu3 will do: only its codec is read), EnCodec, DAC or Mimi, told apart
        by config.json; a file of LlamaGen (.pt) or taming-transformers (.ckpt), told apart by the names of the weights;
        or a module of any of these classes. A module is used as it is and frozen; LlamaGen's and taming's are copied.
    subfolder: where in the folder or hub id the codec is: "vqvae" or "movq" of a diffusers pipeline.
    size: of pictures, how many pixels a side they are to have: a language model writes codes of one grid. None leaves
        it open.
    num_codebooks: of sound, how many codebooks to use; None for 8, or for all where there are fewer.
    pixels: of a VQModel, the range of its pixels, (0, 1) or (-1, 1); None for what `DiffusersVQ` concludes.

    ValueError for what is none of these, for weights that are incomplete or do not fit, and for options that do not
    apply; FileNotFoundError for what is not there.
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
    if pixels is None and not isinstance(source, nn.Module):  # else no name says all of it
        made.name = str(Path(source).resolve()) if Path(source).exists() else str(source)
        made.subfolder = subfolder
    return made


def _fix_size(codec: MediaCodec, size: int) -> None:
    if codec.modality != "image" or size < 1 or size % codec.downsample or codec.size not in (None, size):
        fitting = "none" if codec.modality != "image" else codec.size or f"multiples of {codec.downsample}"
        raise ValueError(f"size {size} does not apply to this {type(codec).__name__}, which has {fitting}")
    codec.size = size


def _find(source: str | Path | nn.Module, subfolder: str) -> tuple[type[MediaCodec], Callable[[], nn.Module]]:
    """What codec a source makes, and what reads its network; so far no weights have been read."""
    if isinstance(source, nn.Module):
        names = [f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in type(source).__mro__]
        kind = next((name for name in names if name in CODECS), None)
        return (CODECS[kind], lambda: source) if kind else (VQGANCodec, lambda: vqgan_from_weights(source.state_dict()))
    if Path(source).is_file():
        return VQGANCodec, lambda: vqgan_from_weights(read_weights(source))
    config = json.loads(_config_file(str(source), subfolder).read_text(encoding="utf-8"))
    name = config.get("_class_name", config.get("model_type"))
    if name not in CLASSES:
        raise ValueError(f"the config.json of {source} names {name!r}, and none of {', '.join(CLASSES)}")
    kind, is_part = CLASSES[name], "vq_config" in config
    return CODECS[kind], lambda: _network(str(source), subfolder, kind, is_part)


def _config_file(source: str, subfolder: str) -> Path:
    """Its config.json, in a folder, or fetched."""
    if Path(source).is_dir():
        path = Path(source, subfolder, "config.json")
        if not path.is_file():
            inside = sorted(found.parent.name for found in path.parent.glob("*/config.json"))
            hint = f"; subfolder= may be one of {', '.join(inside)}" if inside else ""
            raise FileNotFoundError(f"there is no {path}{hint}")
        return path
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source, "config.json", subfolder=subfolder or None))
    except Exception as error:
        raise FileNotFoundError(
            f"{source!r} is neither a file nor a folder, and as a hub id its config.json cannot be had: {error}"
        ) from error


def _network(source: str, subfolder: str, kind: str, is_part: bool) -> nn.Module:
    """The network in a folder or hub id, with every weight found; `is_part` of a language model, as its "vq_config"."""
    library, name = kind.split(".")
    upstream = getattr(importlib.import_module(library), name)
    options = {"torch_dtype" if library == "diffusers" else "dtype": torch.float32, "subfolder": subfolder}
    if is_part:
        from transformers import AutoConfig

        options["config"] = AutoConfig.from_pretrained(source, subfolder=subfolder).vq_config
        options["key_mapping"] = {r"^(model\.)?vqmodel\.": ""}
    network, report = upstream.from_pretrained(source, output_loading_info=True, **options)
    absent = [*report["missing_keys"], *report["mismatched_keys"]]
    if absent:
        listed = ", ".join(map(str, absent))
        raise ValueError(f"{source} lacks weights of {name}, or has them in other shapes: {listed}")
    return network
