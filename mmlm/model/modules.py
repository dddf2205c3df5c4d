"""Modules by name, all of one type."""

from __future__ import annotations

from collections.abc import ItemsView, Mapping, ValuesView
from typing import Generic, TypeVar, cast

from torch import nn

M = TypeVar("M", bound=nn.Module)


class ModuleMap(nn.ModuleDict, Generic[M]):
    """An `nn.ModuleDict` that knows the type of its modules, and has `get`."""

    def __init__(self, modules: Mapping[str, M] | None = None) -> None:
        super().__init__(modules)

    def __getitem__(self, key: str) -> M:
        return cast(M, super().__getitem__(key))

    def get(self, key: str) -> M | None:
        """The module of this name, or None."""
        return self[key] if key in self else None

    def items(self) -> ItemsView[str, M]:
        """Names and modules, in order."""
        return cast(ItemsView[str, M], super().items())

    def values(self) -> ValuesView[M]:
        """The modules, in order."""
        return cast(ValuesView[M], super().values())
