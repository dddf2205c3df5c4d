"""Whispers of CTranslate2, which faster-whisper uses: a folder or hub id with config.json and model.bin.

model.bin is little-endian. Version (u32), kind of model (text), revision (u32); number of tensors (u32), and of each
its name (text), rank (u8), sizes (u32 each), type (u8), number of bytes (u32) and bytes; number of aliases (u32), and
of each the alias and the name that it stands for (texts). A text is its length (u16), its bytes and a NUL that counts.
Integers have a tensor of scales beside them, by which they were multiplied: int8 one for each row, int16 one for all.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encoders.model_files import ModelFiles
from encoders.sizes import RefusedError
from encoders.whisper_forms.parts import OTHER, Parts, dimensions, said, tied
from encoders.whisper_forms.vocabulary import check_vocabulary

WEIGHTS = "model.bin"
KIND = "WhisperSpec"
SCALE = "_scale"
MOST_TENSORS = 100_000
HALF = "it is damaged, or half a download"
OLDEST = 4  # version of the file from which on types and aliases are written so
TYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
NAMES = {  # of CTranslate2 → of openai-whisper
    "encoder/conv1": "encoder.conv1",
    "encoder/conv2": "encoder.conv2",
    "encoder/position_encodings/encodings": "encoder.positional_embedding",
    "encoder/layer_norm": "encoder.ln_post",
    "decoder/embeddings": "decoder.token_embedding",
    "decoder/position_encodings/encodings": "decoder.positional_embedding",
    "decoder/layer_norm": "decoder.ln",
    "decoder/projection": "proj_out",
}
LAYER = {  # several names: layers of equal width in one, row after row
    "self_attention/layer_norm": ["attn_ln"],
    "self_attention/linear_0": ["attn.query", "attn.key", "attn.value"],
    "self_attention/linear_1": ["attn.out"],
    "attention/layer_norm": ["cross_attn_ln"],
    "attention/linear_0": ["cross_attn.query"],
    "attention/linear_1": ["cross_attn.key", "cross_attn.value"],
    "attention/linear_2": ["cross_attn.out"],
    "ffn/layer_norm": ["mlp_ln"],
    "ffn/linear_0": ["mlp.0"],
    "ffn/linear_1": ["mlp.2"],
}
LAST = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
IN_LAYER = re.compile(r"(encoder|decoder)/layer_(\d+)/(.+)/(weight|bias|gamma|beta)")


def read(files: ModelFiles, config: Mapping[str, Any]) -> Parts:
    """The parts of a model of CTranslate2 with this config.json; weights of 8 and 16 bits become float32.

    ValueError for a damaged file, another kind of model, and one with other tokens.
    """
    tensors = tensors_in(files.need(WEIGHTS))
    state = tied(dict(_converted(tensors)))
    heads = [int(tensors[name]) if name in tensors else None for name in ("encoder/num_heads", "decoder/num_heads")]
    dims = dimensions(state, *heads)
    check_vocabulary(files, dims.n_vocab)
    return Parts(dims, state, **said(config, "suppress_ids", files.name))


def tensors_in(path: Path) -> dict[str, Tensor]:
    """All tensors of a model.bin by their names and aliases, as they are.

    `RefusedError` for a tensor that the file has no bytes for; ValueError for another file.
    """
    with open(path, "rb") as file:
        file_size = path.stat().st_size
        [version] = _unpack(file, "I")
        if version < OLDEST:
            raise ValueError(f"{path.name} is of version {version}: convert the model again with a later CTranslate2")
        if (kind := _text(file)) != KIND:
            raise ValueError(f"{path.name} is a {kind[:40]} of CTranslate2, no Whisper: {OTHER}")
        _, count = _unpack(file, "II")
        if count > MOST_TENSORS:
            raise RefusedError(f"{path.name} tells of {count:,} tensors, which no Whisper has")
        tensors = {}
        for _ in range(count):
            name = _text(file)
            [rank] = _unpack(file, "B")
            shape = _unpack(file, f"{rank}I")
            number, size = _unpack(file, "BI")
            if size > file_size - file.tell():
                raise RefusedError(f"{path.name} ends within {name}: {HALF}")
            data = bytearray(size)
            file.readinto(data)
            tensors[name] = torch.frombuffer(data, dtype=TYPES[number]).reshape(shape)
        for _ in range(_unpack(file, "I")[0]):
            alias, name = _text(file), _text(file)
            if name not in tensors:
                raise ValueError(f"{path.name} has no {name!r} for {alias!r} to stand for: {HALF}")
            tensors |= {alias + end: tensors[name + end] for end in ("", SCALE) if name + end in tensors}
    return tensors


def _converted(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Tensors of floating point by openai-whisper's names; those that it has not keep their own."""
    for name, tensor in tensors.items():
        if not tensor.ndim or name.endswith(SCALE):  # settings, and what `_exact` reads
            continue
        whole, (module, _, last) = _exact(tensors, name), name.rpartition("/")
        if (match := IN_LAYER.fullmatch(name)) is not None and match[3] in LAYER:
            own = LAYER[match[3]]
            for part, piece in zip(own, whole.chunk(len(own)), strict=True):
                # A bias of keys adds the same to all of a query's scores, which changes nothing; Whispers have none.
                if not (part.endswith("attn.key") and last == "bias"):
                    yield f"{match[1]}.blocks.{match[2]}.{part}.{LAST[last]}", piece
        elif name in NAMES:
            yield NAMES[name], whole
        else:
            yield (f"{NAMES[module]}.{LAST[last]}" if module in NAMES and last in LAST else name), whole


def _exact(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """A tensor as it is, or what its integers stand for."""
    tensor, scale = tensors[name], tensors.get(name + SCALE)
    if tensor.is_floating_point() or scale is None:
        return tensor
    return tensor.float() / scale.float().reshape(-1, *[1] * (tensor.ndim - 1))


def _text(file: BufferedReader) -> str:
    [length] = _unpack(file, "H")
    [text] = _unpack(file, f"{length}s")
    return text[:-1].decode()


def _unpack(file: BufferedReader, form: str) -> tuple[Any, ...]:
    try:
        return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))
    except struct.error as error:
        raise ValueError(f"{WEIGHTS} ends early: {HALF}") from error
