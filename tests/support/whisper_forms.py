"""Tiny random Whispers of transformers' own class, and the forms in which people have them."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration
from transformers.convert_slow_tokenizer import bytes_to_unicode
from whisper.tokenizer import get_encoding

SIZES = dict(
    vocab_size=51865, num_mel_bins=80, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
    decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, max_source_positions=50,
    max_target_positions=24,
)  # fmt: skip


def upstream(seed: int = 0, **sizes: Any) -> WhisperForConditionalGeneration:
    """A random model of transformers' class. Its biases and norms are drawn too, so that each is seen in the result."""
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(WhisperConfig(**SIZES | sizes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("encoder.embed_positions.weight"):
                parameter.normal_(std=0.3).add_(1.0 if "norm.weight" in name else 0.0)
    return model


def save_upstream(model: WhisperForConditionalGeneration, folder: Path, form: str = "safetensors") -> Path:
    """As transformers writes a folder: in "safetensors" or "bin" (also "old"), and each of them in "shards"."""
    model.save_pretrained(folder, max_shard_size="3MB" if "shards" in form else "1GB")
    if "bin" in form:
        state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        for file in folder.glob("model*"):
            file.unlink()
        names = sorted(state)
        parts = [names[::2], names[1::2]] if "shards" in form else [names]
        files = [f"pytorch_model-{n + 1:05}-of-00002.bin" if "shards" in form else "pytorch_model.bin" for n in (0, 1)]
        for file, part in zip(files, parts, strict=False):
            content = {name: state[name] for name in part}
            torch.save(content, folder / file, _use_new_zipfile_serialization="old" not in form)
        if "shards" in form:
            owner = {name: file for file, part in zip(files, parts, strict=True) for name in part}
            write_json(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": owner})
    return folder


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def letters(size: int) -> list[str]:
    """The tokens of openai-whisper's tokenizer with so many, as byte-level tokenizers spell them."""
    encoding = get_encoding("gpt2" if size == 51864 else "multilingual", 100 if size == 51866 else 99)
    spelled = bytes_to_unicode()
    return ["".join(spelled[byte] for byte in encoding.decode_single_token_bytes(number)) for number in range(size)]


# CTranslate2's, written by what its own documentation and files say

PLACES = {
    "self_attn_layer_norm": "self_attention/layer_norm", "self_attn.out_proj": "self_attention/linear_1",
    "encoder_attn_layer_norm": "attention/layer_norm", "encoder_attn.q_proj": "attention/linear_0",
    "encoder_attn.out_proj": "attention/linear_2", "final_layer_norm": "ffn/layer_norm", "fc1": "ffn/linear_0",
    "fc2": "ffn/linear_1",
}  # fmt: skip
TYPES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4, "bfloat16": 5}


def places(model: WhisperForConditionalGeneration) -> dict[str, list[torch.Tensor]]:
    """CTranslate2's names, and the tensors of a model that stand there, row after row."""
    found = {}

    def put(place: str, *modules: torch.nn.Module) -> None:
        names = {"weight": "gamma", "bias": "beta"} if isinstance(modules[0], torch.nn.LayerNorm) else {}
        for name in dict(modules[0].named_parameters()):
            rows = [getattr(module, name) for module in modules]
            rows = [torch.zeros(len(module.weight)) if row is None else row for row, module in zip(rows, modules)]
            found[f"{place}/{names.get(name, name)}"] = rows

    for side, network in (("encoder", model.model.encoder), ("decoder", model.model.decoder)):
        put(f"{side}/layer_norm", network.layer_norm)
        found[f"{side}/position_encodings/encodings"] = [network.embed_positions.weight]
        for index, layer in enumerate(network.layers):
            own = layer.self_attn
            put(f"{side}/layer_{index}/self_attention/linear_0", own.q_proj, own.k_proj, own.v_proj)
            for name, place in PLACES.items():
                if side == "decoder" or not name.startswith("encoder_attn"):
                    put(f"{side}/layer_{index}/{place}", layer.get_submodule(name))
            if side == "decoder":
                other = layer.encoder_attn
                put(f"{side}/layer_{index}/attention/linear_1", other.v_proj, other.k_proj)
                for rows in (found[f"{side}/layer_{index}/attention/linear_1/{name}"] for name in ("weight", "bias")):
                    rows.reverse()  # keys come first, and have no bias to begin with
    put("encoder/conv1", model.model.encoder.conv1)
    put("encoder/conv2", model.model.encoder.conv2)
    put("decoder/embeddings", model.model.decoder.embed_tokens)
    return found


@torch.no_grad()
def save_ctranslate2(
    model: WhisperForConditionalGeneration, folder: Path, form: str = "float16", **config: Any
) -> Path:
    """Writes a folder of CTranslate2 in one of its types, such as "int8_float16", and rounds the model to it."""
    weights, _, others = form.partition("_")
    others = others or ("float32" if weights.startswith("int") else weights)
    written: dict[str, Any] = {"decoder/pre_norm": np.int8(1), "decoder/activation": np.int8(3)}
    for name, tensors in places(model).items():
        values, kind = torch.cat(tensors).float(), weights if name.endswith("/weight") else others
        if kind.startswith("int"):
            rows = values.flatten(1)
            scale = 127 / rows.abs().amax(dim=1, keepdim=True) if kind == "int8" else 1024 / rows.abs().max()
            whole = (rows * scale).round().to(getattr(torch, kind))
            written[name] = whole.reshape(values.shape)
            written[f"{name}_scale"] = scale.flatten() if kind == "int8" else np.float32(scale)
            rounded = (whole.float() / scale).reshape(values.shape)
        else:
            written[name] = rounded = values.to(getattr(torch, kind))
        for tensor, part in zip(tensors, rounded.split([len(tensor) for tensor in tensors]), strict=True):
            tensor.copy_(part)
    for side in ("encoder", "decoder"):
        written[f"{side}/num_heads"] = np.int16(getattr(model.config, f"{side}_attention_heads"))
    folder.mkdir(parents=True, exist_ok=True)
    tied = {"decoder/projection/weight": "decoder/embeddings/weight"}
    (folder / "model.bin").write_bytes(ctranslate2_file(written, tied))
    write_json(folder / "config.json", {"suppress_ids_begin": [220, 50257], "lang_ids": [50259], **config})
    return folder


def ctranslate2_file(
    tensors: dict[str, Any], aliases: dict[str, str], kind: str = "WhisperSpec", version: int = 6
) -> bytes:
    """The bytes of a model.bin."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value.encode()) + 1) + value.encode() + b"\0"

    parts = [struct.pack("<I", version), text(kind), struct.pack("<II", 3, len(tensors))]
    for name, value in sorted(tensors.items()):
        if isinstance(value, torch.Tensor):  # NumPy has no bfloat16
            type_name, data = (
                str(value.dtype).removeprefix("torch."),
                bytes(value.contiguous().view(torch.uint8).numpy()),
            )
        else:
            value = np.asarray(value)
            type_name, data = value.dtype.name, value.tobytes()
        parts += [text(name), struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)]
        parts += [struct.pack("<BI", TYPES[type_name], len(data)), data]
    parts += [struct.pack("<I", len(aliases)), *(text(alias) + text(name) for alias, name in aliases.items())]
    return b"".join(parts)
