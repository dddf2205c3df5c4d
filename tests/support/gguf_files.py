"""Files of GGUF, written in a few lines: settings, tensors of float32 and Q8_0, and whole models of four families."""

import struct
from pathlib import Path

import numpy as np
import torch

TYPES = {bool: (7, "?"), int: (5, "i"), float: (6, "f")}
Q8_0 = 8


class Raw(int):
    """A length that a header tells, in place of the true one."""


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def value(one, with_type: bool = True) -> bytes:
    if isinstance(one, str):
        kind, data = 8, text(one)
    elif isinstance(one, list):
        kind = 9
        first = 8 if isinstance(one[0], str) else TYPES[type(one[0])][0]
        data = struct.pack("<IQ", first, len(one)) + b"".join(value(item, False) for item in one)
    else:
        kind, form = TYPES[type(one)]
        data = struct.pack(f"<{form}", one)
    return (struct.pack("<I", kind) if with_type else b"") + data


def q8_0(tensor: torch.Tensor) -> tuple[bytes, torch.Tensor]:
    """Blocks of 32 values, a scale of 16 bits and 32 bytes, and the values that they stand for."""
    blocks = tensor.detach().float().reshape(-1, 32)
    scales = (blocks.abs().amax(1, keepdim=True) / 127).half()
    whole = (blocks / scales.float()).round().clamp(-127, 127).to(torch.int8)
    data = np.concatenate([scales.numpy().view(np.uint8), whole.numpy().view(np.uint8)], axis=1)
    return data.tobytes(), (scales.float() * whole).reshape(tensor.shape)


def write(path: Path, settings: dict, tensors: dict[str, torch.Tensor], quantised: tuple[str, ...] = ()) -> Path:
    """A file of version 3. quantised: the tensors that are written as Q8_0."""
    entries, body = b"", b""
    for name, tensor in tensors.items():
        kind, data = (
            (Q8_0, q8_0(tensor)[0]) if name in quantised else (0, tensor.float().contiguous().numpy().tobytes())
        )
        shape = tuple(reversed(tensor.shape))
        entries += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(body))
        body += data + bytes(-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(settings))
    head += b"".join(text(key) + value(one) for key, one in settings.items()) + entries
    path.write_bytes(head + bytes(-len(head) % 32) + body)
    return path


# Models, by what llama.cpp's converter does with their folders

PLACES = [
    ("model.embed_tokens.", "token_embd."), ("model.norm.", "output_norm."), ("lm_head.", "output."),
    ("model.layers.", "blk."), (".input_layernorm.", ".attn_norm."), (".self_attn.q_proj.", ".attn_q."),
    (".self_attn.k_proj.", ".attn_k."), (".self_attn.v_proj.", ".attn_v."), (".self_attn.o_proj.", ".attn_output."),
    (".self_attn.q_norm.", ".attn_q_norm."), (".self_attn.k_norm.", ".attn_k_norm."), (".mlp.gate_proj.", ".ffn_gate."),
    (".mlp.up_proj.", ".ffn_up."), (".mlp.down_proj.", ".ffn_down."),
]  # fmt: skip
NORMS = [(".post_attention_layernorm.", ".ffn_norm.")]
NORMS_OF_GEMMA = [
    (".post_attention_layernorm.", ".post_attention_norm."), (".pre_feedforward_layernorm.", ".ffn_norm."),
    (".post_feedforward_layernorm.", ".post_ffw_norm."),
]  # fmt: skip


def tensors_of(model, family: str) -> dict[str, torch.Tensor]:
    made = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        heads = {"q_proj": model.config.num_attention_heads, "k_proj": model.config.num_key_value_heads}
        if family == "llama" and (count := heads.get(name.split(".")[-2])):
            tensor = tensor.reshape(count, 2, -1, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
        if family == "gemma3" and name.endswith("norm.weight"):
            tensor = tensor + 1
        for ours, theirs in PLACES + (NORMS_OF_GEMMA if family == "gemma3" else NORMS):
            name = name.replace(ours, theirs)
        made[name] = tensor.detach().clone()
    return made


def settings_of(model, family: str) -> dict:
    config = model.config
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    told = {
        "block_count": config.num_hidden_layers, "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size, "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads, "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps, "rope.freq_base": float(rope["rope_theta"]),
    }  # fmt: skip
    told |= {"rope.dimension_count": head} if family == "llama" else {"attention.key_length": head}
    if family == "gemma3":
        told |= {"attention.sliding_window": config.sliding_window, "attention.value_length": head}
    return {"general.architecture": family, **{f"{family}.{key}": one for key, one in told.items()}}


def tokens_of(tokenizer, pre: str = "gpt-2") -> dict:
    """The settings of a byte-level tokenizer of `support.families`."""
    core = tokenizer.backend_tokenizer
    vocabulary = sorted(core.get_vocab().items(), key=lambda item: item[1])
    special = {token.content for token in core.get_added_tokens_decoder().values()}
    ids = {"eos": tokenizer.eos_token_id, "bos": tokenizer.bos_token_id}
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [token for token, _ in vocabulary],
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token, _ in vocabulary],
        **{f"tokenizer.ggml.{name}_token_id": one for name, one in ids.items() if one is not None},
    }  # fmt: skip


def model_file(path: Path, model, family: str, tokenizer, quantised: tuple[str, ...] = (), **changes) -> Path:
    """A model with its tokenizer in one file; changes: other settings, with None for one that is left out."""
    settings = settings_of(model, family) | tokens_of(tokenizer) | changes
    settings = {key: one for key, one in settings.items() if one is not None}
    return write(path, settings, tensors_of(model, family), quantised)
