"""Frozen parts written beside what was added, so that a folder loads with nothing else present."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from decoders.codecs.base import MediaCodec
from decoders.files import save_tensors
from encoders.base import FrozenEncoder, is_quantised
from encoders.clip import ClipImageEncoder, load_tokenizer
from encoders.clip_forms.source import SETTINGS, SMALL, ClipSource, find_clip
from mmlm.assembly.config import CodecPart, ModelConfig
from mmlm.assembly.presets import preset_path
from mmlm.model.language_model import LanguageModel
from mmlm.model.network import MultimodalNetwork

CLIP_WEIGHTS = "open_clip_model.safetensors"
MARK = "./"  # names of bundled parts start from the model's folder


def write_parts(model: MultimodalNetwork, config: ModelConfig, folder: Path) -> ModelConfig:
    """Writes every frozen part of a model into a folder; returns the config that names them there.

    Weights that came from 16 bits take 16 bits. ValueError, before anything is written, for a part that no file can
    hold: one whose class is not known, or an image encoder or a published codec that was given ready-made.
    """
    writers = dict(_writers(model))
    found = {}
    for name, (file, write) in writers.items():
        write(folder / file)
        part = dataclasses.replace(getattr(config, name), name=MARK + file)
        found[name] = dataclasses.replace(part, subfolder="") if isinstance(part, CodecPart) else part
    return dataclasses.replace(config, **found, tokenizer=None)  # which lies with the language model


def _writers(model: MultimodalNetwork) -> Iterator[tuple[str, tuple[str, Callable[[Path], Any]]]]:
    """By the field of ModelConfig: the file or folder of a part, and what writes it there."""
    yield "language_model", ("language_model", _language_model(model.language_model))
    for modality, encoder in model.encoders.items():
        if modality == "image":
            yield "image_encoder", _clip(encoder)
        else:
            yield "audio_encoder", ("audio_encoder.pt", _whisper(encoder))
    for modality, codec in model.codecs.items():
        yield f"{modality}_codec", (f"{modality}_codec", _codec(codec))
    for modality, decoder in model.decoders.items():
        yield f"{modality}_decoder", (f"{modality}_decoder", _decoder(decoder))


def _language_model(host: LanguageModel) -> Callable[[Path], None]:
    from transformers import PreTrainedModel

    guest: Any = host.model
    if not isinstance(guest, PreTrainedModel):
        raise ValueError(
            f"bundle=True takes along a language model of transformers, not a {type(guest).__name__}: save that "
            "yourself, and give it with language_model= when the model is loaded"
        )

    quantised = getattr(guest, "hf_quantizer", None) is not None
    if not quantised and any(map(is_quantised, guest.state_dict().values())):
        raise ValueError(
            "bundle=True takes quantised language models along where transformers quantised it (quantization_config=); "
            "save this one without bundle=True, and give it with language_model= when the model is loaded"
        )

    def write(folder: Path) -> None:
        if quantised:  # scales stay as they are; transformers cannot turn names of quantised weights back
            guest.save_pretrained(folder, save_original_format=False)
        else:
            guest.save_pretrained(folder, state_dict=narrowed(guest.state_dict()))
        host.tokenizer.save_pretrained(folder)

    return write


def _clip(encoder: FrozenEncoder) -> tuple[str, Callable[[Path], Any]]:
    """The file or folder of a CLIP, in the form that it was loaded in, and what writes it."""
    if not isinstance(encoder, ClipImageEncoder) or encoder.name is None:
        raise ValueError(
            "bundle=True takes along an image encoder that was loaded by its name, and this one was given ready-made: "
            "save it without bundle=True, and give it with image_encoder= when the model is loaded"
        )
    source = find_clip(preset_path(encoder.name))
    if source.form == "openai":
        return "image_encoder.pt", lambda file: shutil.copyfile(source.place, file)
    return "image_encoder", _copied(source) if source.form == "transformers" else _open_clip(encoder, source)


def _copied(source: ClipSource) -> Callable[[Path], None]:
    files = [file for file in source.files() if _is_own(file)]

    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        for file in files:
            shutil.copyfile(file, folder / file.name)

    return write


def _open_clip(encoder: ClipImageEncoder, source: ClipSource) -> Callable[[Path], None]:
    config, home = _clip_config(encoder, source), source.folder()

    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / SETTINGS).write_text(json.dumps(config, indent=2) + "\n")
        tensors = {name: tensor.clone() for name, tensor in narrowed(encoder.model.state_dict()).items()}
        save_tensors(tensors, folder / CLIP_WEIGHTS)
        for file in home.iterdir() if home else ():
            if file.suffix in SMALL and file.name != SETTINGS and _is_own(file):  # those of the tokenizer
                shutil.copy(file, folder)
        if not home and "hf_tokenizer_name" in config["model_cfg"].get("text_cfg", {}):
            tokenizer: Any = load_tokenizer(str(encoder.name))
            tokenizer.save_pretrained(str(folder))

    return write


def _is_own(file: Path) -> bool:
    """Whether a file of a model lies in its folder, or in the hub's cache, and is no link to elsewhere."""
    place, home = file.resolve(), file.parent.resolve()
    return place.is_relative_to(home) or place.parent == home.parents[1] / "blobs"


def _clip_config(encoder: ClipImageEncoder, source: ClipSource) -> dict[str, Any]:
    """The architecture and the preprocessing of an encoder, as open_clip reads them from a folder."""
    if home := source.folder():
        return json.loads((home / SETTINGS).read_text(encoding="utf-8"))
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    network = open_clip.get_model_config(source.place)
    if network is None or "hf_model_name" in network.get("text_cfg", {}):
        raise ValueError(f"bundle=True cannot take {encoder.name!r} along: open_clip reads a part of it from the hub")
    if source.pretrained and get_pretrained_cfg(source.place, source.pretrained).get("quick_gelu"):
        network["quick_gelu"] = True
    return {"model_cfg": network, "preprocess_cfg": encoder.model.visual.preprocess_cfg}


def _whisper(encoder: FrozenEncoder) -> Callable[[Path], None]:
    from encoders.whisper import WhisperAudioEncoder
    from encoders.whisper_forms.openai import content_of

    if not isinstance(encoder, WhisperAudioEncoder):
        raise ValueError(
            f"bundle=True takes along a Whisper, not a {type(encoder).__name__}: save it yourself, and give it with "
            "audio_encoder= when the model is loaded"
        )
    content = content_of(encoder.model)
    content["model_state_dict"] = narrowed(content["model_state_dict"])
    return lambda file: torch.save(content, file)


def _codec(codec: MediaCodec) -> Callable[[Path], Any]:
    from decoders.codecs.checkpoint import kind_of, save_codec

    if kind_of(codec) is not None:
        return lambda folder: save_codec(codec, folder, common_type(codec))
    network = getattr(codec, "network", None)
    if codec.name is None or network is None:
        raise ValueError(
            f"bundle=True cannot take a {type(codec).__name__} along that was given ready-made: give it with codecs= "
            "when the model is loaded"
        )
    if hasattr(network, "save_pretrained"):
        return network.save_pretrained
    return lambda file: shutil.copyfile(str(codec.name), file)  # a checkpoint of LlamaGen or taming-transformers


def _decoder(decoder: nn.Module) -> Callable[[Path], Any]:
    from decoders.diffusion.checkpoint import save_decoder
    from decoders.diffusion.decoder import DiffusionDecoder

    if not isinstance(decoder, DiffusionDecoder):
        raise ValueError(f"bundle=True cannot take a {type(decoder).__name__} along: give it when the model is loaded")
    return lambda folder: save_decoder(decoder, folder, common_type(decoder))


def narrowed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU, those of float32 in 16 bits where that changes no value; shared ones stay shared."""
    made: dict[tuple, Tensor] = {}
    found = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if key not in made or not tensor.numel():
            made[key] = _narrow(tensor.detach().cpu()).contiguous()
        found[name] = made[key]
    return found


def common_type(module: nn.Module) -> torch.dtype:
    """float16 if all weights of a module have values that it can hold, else float32."""
    tensors = [_narrow(tensor) for tensor in module.state_dict().values() if tensor.is_floating_point()]
    return torch.float16 if all(tensor.dtype == torch.float16 for tensor in tensors) else torch.float32


def _narrow(tensor: Tensor) -> Tensor:
    if tensor.dtype == torch.float32:
        for dtype in (torch.float16, torch.bfloat16):
            half = tensor.to(dtype)
            if torch.equal(half.to(tensor.dtype), tensor):
                return half
    return tensor
