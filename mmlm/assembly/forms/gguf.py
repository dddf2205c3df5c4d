"""Language models from files of GGUF: the same network as from a folder, with the weights that the file's stand for."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from encoders.gguf import GgufFile, GgufTensor, read_gguf
from encoders.guarded import model_of_tensors
from encoders.sizes import RefusedError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

INSTALL = "pip install 'mmlm[gguf]'"
ELSEWHERE = "load it with transformers (gguf_file=), and pass it with its tokenizer as language_model= and tokenizer="
PLAIN = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}  # types of tensors that are not quantised
NAMES = {  # of the layers of a block, in the file and in transformers
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
NAMES_OF_GEMMA = {
    **NAMES, "post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}  # fmt: skip
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
ROPE_FACTORS = "rope_freqs.weight"  # Llama 3's scaling of positions, as numbers that the frequencies are divided by
SETTINGS = {  # in the file, after the architecture's name → in transformers' config
    "block_count": "num_hidden_layers", "embedding_length": "hidden_size", "context_length": "max_position_embeddings",
    "feed_forward_length": "intermediate_size", "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads", "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "vocab_size": "vocab_size",
}  # fmt: skip
WIDTHS = ("attention.key_length", "attention.value_length", "rope.dimension_count")  # of a head: all the same
ROPE = ("rope.freq_base", "rope.scaling.type", "rope.scaling.factor")


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp writes one kind of network.

    swapped: whether the rows of queries and keys are in the order that its own rotation of positions needs. offset:
    what it adds to the weights of norms. settings: more that the config has; own: more that the file tells.
    """

    model_type: str
    names: dict[str, str] = field(default_factory=lambda: NAMES)
    swapped: bool = False
    offset: float = 0.0
    settings: Callable[[GgufFile, dict[str, Any]], dict[str, Any]] = lambda file, config: {}
    own: tuple[str, ...] = ()


def _llama(file: GgufFile, config: dict[str, Any]) -> dict[str, Any]:
    return {"attention_bias": "blk.0.attn_q.bias" in file.tensors, "mlp_bias": "blk.0.ffn_up.bias" in file.tensors}


def _gemma3(file: GgufFile, config: dict[str, Any]) -> dict[str, Any]:
    width = config["hidden_size"] // config["num_attention_heads"] if config["num_hidden_layers"] == 62 else None
    local = file.settings.get("gemma3.rope.freq_base_swa", 10_000.0)
    return {
        "query_pre_attn_scalar": width or config["head_dim"],  # only the one of 27B has the former
        "sliding_window": file.settings["gemma3.attention.sliding_window"],
        "rope_parameters": {
            "full_attention": config["rope_parameters"],
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        },
    }


ARCHITECTURES = {
    "llama": Architecture("llama", swapped=True, settings=_llama),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "gemma3": Architecture(
        "gemma3_text", NAMES_OF_GEMMA, offset=1.0, settings=_gemma3,
        own=("attention.sliding_window", "rope.freq_base_swa"),
    ),
}  # fmt: skip


def gguf_model(path: str | Path, dtype: torch.dtype) -> PreTrainedModel:
    """The language model in a file, with its weights dequantised to a floating type.

    ImportError for quantised weights without the package gguf; ValueError for a file of another kind, or of settings
    that are not understood; `RefusedError` for a damaged one.
    """
    file = read_gguf(path)
    config = gguf_config(file)
    if any(tensor.type not in PLAIN for tensor in file.tensors.values()):
        try:
            importlib.import_module("gguf")  # before any work
        except ImportError as error:
            raise ImportError(f"{path} is read with the package gguf, which is not here: {INSTALL}") from error
    from transformers import AutoModelForCausalLM

    architecture = ARCHITECTURES[file.settings["general.architecture"]]
    tensors = {
        _name(name, architecture, path): _weights(file, name, tensor, architecture, config).to(dtype)
        for name, tensor in file.tensors.items()
        if name != ROPE_FACTORS
    }
    model = model_of_tensors(AutoModelForCausalLM, config, tensors, path)
    if model.generation_config is not None:
        model.generation_config.eos_token_id = end_ids(file)
    return model


def end_ids(file: GgufFile) -> list[int]:
    """The ids of the tokens that end a text or a turn, as the file names them."""
    keys = (f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
    return sorted({file.settings[key] for key in keys if key in file.settings})


def gguf_config(file: GgufFile) -> PreTrainedConfig:
    """The settings of the network in a file; ValueError for a kind, or a setting, that is not understood."""
    from transformers import AutoConfig

    name = _check_kind(file)
    architecture, told = ARCHITECTURES[name], _told(file, name)
    unknown = told.keys() - {*SETTINGS, *WIDTHS, *ROPE, *architecture.own}
    if unknown := sorted(key for key in unknown if told[key]):  # what is 0 or empty changes nothing
        raise ValueError(f"{file.path} has settings that are not understood ({', '.join(unknown)}): {ELSEWHERE}")
    try:
        config = {SETTINGS[key]: told[key] for key in SETTINGS if key in told}
        config["vocab_size"], config["hidden_size"] = file.tensors["token_embd.weight"].shape
        config.setdefault("num_key_value_heads", config["num_attention_heads"])
        even = config["hidden_size"] // config["num_attention_heads"]
        widths = {told[key] for key in WIDTHS if key in told} or {even}
        (config["head_dim"],) = widths
        blocks = {int(found[1]) for key in file.tensors if (found := re.match(r"blk\.(\d+)\.", key))}
        if (
            not len(blocks) == max(blocks, default=-1) + 1 == config["num_hidden_layers"]
            or config["hidden_size"] != told["embedding_length"]
        ):
            raise RefusedError(f"{file.path} has settings that are not those of its tensors: fetch it again")
        config["rope_parameters"] = _rope(file, told, config["head_dim"])
        config |= architecture.settings(file, config)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        if isinstance(error, RefusedError):
            raise
        raise ValueError(f"{file.path} lacks settings of a {name}, or has other than one has ({error})") from error
    ids = {key: file.settings.get(f"tokenizer.ggml.{name}_token_id") for key, name in IDS.items()}
    tied = "output.weight" not in file.tensors
    return AutoConfig.for_model(architecture.model_type, **config, **ids, tie_word_embeddings=tied)


IDS = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}


def _check_kind(file: GgufFile) -> str:
    """The architecture; ValueError for a file that is not a whole language model of a known one."""
    name, count = file.settings.get("general.architecture"), file.settings.get("split.count", 1)
    if file.settings.get("general.type", "model") != "model" or name in ("clip", "mmproj"):
        kind = file.settings.get("general.type", name)
        raise ValueError(f"{file.path} is no language model but a part of one ({kind}): name the file of the model")
    if count not in (0, 1):
        raise ValueError(f"{file.path} is one of {count} parts: join them with `llama-gguf-split --merge`")
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"{file.path} holds a {name}, and GGUF is read for {known}: take its folder, or {ELSEWHERE}")
    return str(name)


def _told(file: GgufFile, name: str) -> dict[str, Any]:
    return {key.removeprefix(f"{name}."): value for key, value in file.settings.items() if key.startswith(f"{name}.")}


def _rope(file: GgufFile, told: dict[str, Any], width: int) -> dict[str, Any]:
    """Transformers' settings of positions. ValueError for a scaling that is not understood."""
    found = {"rope_type": "default", "rope_theta": told.get("rope.freq_base", 10_000.0)}
    scaling, factor = told.get("rope.scaling.type", "none"), told.get("rope.scaling.factor", 1.0)
    if scaling not in ("none", "linear"):
        raise ValueError(f"the scaling of positions is {scaling!r}")
    if scaling == "linear" and factor != 1.0:
        found |= {"rope_type": "linear", "factor": factor}
    if (tensor := file.tensors.get(ROPE_FACTORS)) is None:
        return found
    factors = torch.frombuffer(bytearray(_bytes(file, tensor)), dtype=torch.float32)
    # All models with such factors have the other three numbers; the factors show whether they hold.
    llama3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    found |= {"rope_type": "llama3", "factor": float(factors.max()), **llama3}
    plain = found["rope_theta"] ** -(torch.arange(0, width, 2) / width)
    place = (8192 / (2 * torch.pi / plain) - 1.0) / (4.0 - 1.0)
    expected = 1 / ((1 - place.clamp(0, 1)) / found["factor"] + place.clamp(0, 1))
    if factors.shape != expected.shape or not torch.allclose(factors, expected, rtol=1e-3):
        raise ValueError("factors of positions that are not Llama 3's")
    return found


def _name(name: str, architecture: Architecture, path: str | Path) -> str:
    """A tensor's name in transformers."""
    if found := re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name):
        if found[2] in architecture.names:
            return f"model.layers.{found[1]}.{architecture.names[found[2]]}.{found[3]}"
    elif (parts := name.rpartition("."))[0] in OUTSIDE:
        return f"{OUTSIDE[parts[0]]}.{parts[2]}"
    raise ValueError(f"{path} holds a tensor that is not understood ({name}): {ELSEWHERE}")


def _weights(
    file: GgufFile, name: str, tensor: GgufTensor, architecture: Architecture, config: PreTrainedConfig
) -> Tensor:
    """The values of a tensor in float32, as transformers orders them."""
    if tensor.type in PLAIN:
        values = torch.frombuffer(bytearray(_bytes(file, tensor)), dtype=PLAIN[tensor.type]).float()
    else:
        import numpy

        gguf: Any = importlib.import_module("gguf")

        rows = numpy.frombuffer(_bytes(file, tensor), dtype=numpy.uint8).reshape(prod(tensor.shape[:-1]), -1)
        values = torch.from_numpy(gguf.dequantize(rows, gguf.GGMLQuantizationType(tensor.type)).astype(numpy.float32))
    values = values.reshape(tensor.shape)
    if architecture.offset and name.endswith("norm.weight"):
        values = values - architecture.offset
    if architecture.swapped and (found := re.search(r"attn_([qk])\.(weight|bias)$", name)):
        heads = config.num_attention_heads if found[1] == "q" else config.num_key_value_heads
        values = values.unflatten(0, (heads, -1, 2)).transpose(1, 2).reshape(tensor.shape)
    return values


def _bytes(file: GgufFile, tensor: GgufTensor) -> bytes:
    with open(file.path, "rb") as opened:
        opened.seek(tensor.start)
        return opened.read(tensor.size)
