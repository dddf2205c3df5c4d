"""Typed containers of modules, and typed access to a layer's weight."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from typing import Any, Generic, TypeVar, cast

from torch import Tensor, nn

from encoders.base import plain_values

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


class ModuleSequence(nn.ModuleList, Generic[M]):
    """An `nn.ModuleList` that knows the type of its modules."""

    def __init__(self, modules: Iterable[M] | None = None) -> None:
        super().__init__(modules)

    def __getitem__(self, index: int) -> M:
        return cast(M, super().__getitem__(index))

    def __iter__(self) -> Iterator[M]:
        return cast(Iterator[M], super().__iter__())


def weight_of(layer: nn.Module) -> Tensor:
    """The `weight` of an embedding or an output head; of a quantised one, the values that it stands for."""
    weight: Any = layer.weight
    weight = weight() if callable(weight) else weight  # torch's quantised layers give it when they are asked
    assert isinstance(weight, Tensor)
    return plain_values(weight)
