"""The tensors in a TorchScript archive, of which nothing is run: neither its code nor its pickle."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encoders.guarded import plain_pickle
from encoders.sizes import RefusedError, check_deflation


def is_torchscript(path: str | Path) -> bool:
    """Whether a file is such an archive."""
    return zipfile.is_zipfile(path) and any(_entries(path, "constants.pkl"))


def torchscript_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a module and the modules in it, by their dotted names: parameters, buffers and others.

    `RefusedError` for a pickle that holds more than modules, tensors and plain values, or tensors beyond their bytes.
    """
    check_deflation(path)
    with zipfile.ZipFile(path) as file:
        pickled = next(_entries(path, "data.pkl"))
        folder = pickled.removesuffix("data.pkl")
        storages: dict[str, Tensor] = {}

        def storage(reference: Any) -> Tensor:
            _, kind, key, *_ = reference
            if key not in storages:
                data = bytearray(file.read(f"{folder}data/{key}"))
                storages[key] = torch.frombuffer(data, dtype=kind) if data else torch.empty(0, dtype=kind)
            return storages[key]

        root = plain_pickle(file.read(pickled), _allowed, storage)
    return dict(_tensors(root, ""))


class _Module:
    """What stands for every class of the archive: its attributes."""

    parts: dict[str, Any]

    def __setstate__(self, parts: dict[str, Any]) -> None:
        self.parts = parts


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride), default=0) < 0 or (0 not in size and last >= len(storage)):
        raise RefusedError(f"it holds a tensor {list(size)} without the bytes for it")
    return storage.as_strided(size, stride, offset)


def _same(value: Any, *_: Any) -> Any:
    return value


_NAMES: dict[str, Any] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "collections.OrderedDict": OrderedDict,
    **{f"torch.{kind}Storage": getattr(torch, dtype) for kind, dtype in {
        "Half": "half", "Float": "float", "Double": "double", "BFloat16": "bfloat16", "Bool": "bool", "Byte": "uint8",
        "Char": "int8", "Short": "short", "Int": "int", "Long": "long"}.items()},
    **{f"torch.jit._pickle.{name}": _same for name in (
        "build_boollist", "build_doublelist", "build_intlist", "build_tensorlist", "restore_type_tag")},
}  # fmt: skip


def _allowed(module: str, name: str) -> Any:
    """What a name in the pickle means; None for one that has no place there."""
    return _Module if module.partition(".")[0] == "__torch__" else _NAMES.get(f"{module}.{name}")


def _entries(path: str | Path, name: str) -> Iterator[str]:
    """The entries of a zip file with this name in its one folder."""
    with zipfile.ZipFile(path) as file:
        yield from (entry for entry in file.namelist() if entry.partition("/")[2] == name)


def _tensors(part: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(part, Tensor):
        yield name, part
    elif isinstance(part, _Module):
        for own, value in part.parts.items():
            yield from _tensors(value, f"{name}.{own}" if name else own)
