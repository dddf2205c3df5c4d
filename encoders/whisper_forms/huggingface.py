"""Whispers of transformers: config.json, and weights in safetensors or .bin, whole or in shards."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor
from whisper.model import ModelDimensions

from encoders.guarded import torch_file
from encoders.model_files import ModelFiles, read_json
from encoders.whisper_forms.parts import OTHER, Parts, dimensions, said, tied
from encoders.whisper_forms.vocabulary import check_vocabulary

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
NAMES = {  # of transformers → of openai-whisper
    "encoder.conv1": "encoder.conv1",
    "encoder.conv2": "encoder.conv2",
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "encoder.layer_norm": "encoder.ln_post",
    "decoder.embed_tokens": "decoder.token_embedding",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
    "decoder.layer_norm": "decoder.ln",
    "proj_out": "proj_out",
}
LAYER = {
    "self_attn_layer_norm": "attn_ln",
    "self_attn.q_proj": "attn.query",
    "self_attn.k_proj": "attn.key",
    "self_attn.v_proj": "attn.value",
    "self_attn.out_proj": "attn.out",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "encoder_attn.q_proj": "cross_attn.query",
    "encoder_attn.k_proj": "cross_attn.key",
    "encoder_attn.v_proj": "cross_attn.value",
    "encoder_attn.out_proj": "cross_attn.out",
    "final_layer_norm": "mlp_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
}
IN_LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(.+)\.(weight|bias)")
SIZES = {  # of config.json → of openai-whisper
    "num_mel_bins": "n_mels",
    "max_source_positions": "n_audio_ctx",
    "d_model": "n_audio_state",
    "encoder_layers": "n_audio_layer",
    "vocab_size": "n_vocab",
    "max_target_positions": "n_text_ctx",
    "decoder_layers": "n_text_layer",
}
ONLY = {"activation_function": "gelu", "scale_embedding": False}  # settings with the one value that Whispers have


def read(files: ModelFiles, config: Mapping[str, Any]) -> Parts:
    """The parts of a model of transformers with this config.json.

    FileNotFoundError for a file that is missing; ValueError for a model of another kind, one that openai-whisper's
    module cannot be, and one with other tokens.
    """
    _check_kind(config)
    state = tied({renamed(name): tensor for name, tensor in _tensors(files)})
    dims = dimensions(state, config.get("encoder_attention_heads"), config.get("decoder_attention_heads"))
    _check_sizes(config, dims)
    check_vocabulary(files, dims.n_vocab)
    place = files.find("generation_config.json")  # models of 2022 have none, and say the same in config.json
    settings = config if place is None else read_json(place)
    return Parts(dims, state, **said(settings, "suppress_tokens", files.name))


def renamed(name: str) -> str:
    """A tensor's name in openai-whisper; an unknown one as it is."""
    own = name.removeprefix("model.")
    if (match := IN_LAYER.fullmatch(own)) is not None and match[3] in LAYER:
        return f"{match[1]}.blocks.{match[2]}.{LAYER[match[3]]}.{match[4]}"
    if own in NAMES:
        return NAMES[own]
    module, _, last = own.rpartition(".")
    return f"{NAMES[module]}.{last}" if module in NAMES else name


def _tensors(files: ModelFiles) -> Iterator[tuple[str, Tensor]]:
    place = files.need(*WEIGHTS)
    if place.suffix == ".json":
        shards = read_json(place).get("weight_map")
        names = sorted(set(shards.values())) if isinstance(shards, dict) else []
        if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ValueError(f"{place.name} is damaged: it names no files beside it")
        places = [files.need(name) for name in names]
    else:
        places = [place]
    for place in places:
        if place.suffix == ".safetensors":
            with safe_open(place, "pt") as opened:
                yield from ((name, opened.get_tensor(name)) for name in opened.keys())
        else:
            yield from torch_file(place, mmap=zipfile.is_zipfile(place)).items()


def _check_kind(config: Mapping[str, Any]) -> None:
    kinds = config.get("architectures")
    kind = kinds[0] if isinstance(kinds, list) and kinds else config.get("model_type")
    if config.get("model_type") != "whisper":
        raise ValueError(f"it is a {kind}, no Whisper: {OTHER}")
    if kind not in ("WhisperForConditionalGeneration", "WhisperModel", "whisper"):
        raise ValueError(
            f"it is a {kind}, without the encoder or the decoder of a Whisper that writes: take what it was made of"
        )
    if config.get("quantization_config") is not None:
        raise ValueError("its weights are quantised for transformers: take the model that they were made of")
    for name, value in ONLY.items():
        if config.get(name, value) != value:
            raise ValueError(f"its {name} is {config[name]!r}, and openai-whisper's module has {value!r} alone")


def _check_sizes(config: Mapping[str, Any], dims: ModelDimensions) -> None:
    for name, own in SIZES.items():
        if config.get(name, found := getattr(dims, own)) != found:
            raise ValueError(f"config.json says {name} {config[name]}, its weights {found}: they are of two models")
