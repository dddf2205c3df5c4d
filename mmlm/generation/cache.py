"""A self-attention cache that is allocated once: transformers' dynamic cache with room for what is to come."""

from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from mmlm.generation.memory import check_memory


class PreallocatedLayer(DynamicLayer):
    """A DynamicLayer that writes into one buffer `[B, H, capacity, d]` instead of concatenating at each token.

    It appears exactly as long as what was written, so no family needs another mask than with transformers' own cache.
    alike: for how many such layers memory is asked for when this one is made: all of a cache with its first, then none.
    """

    _keys: Tensor
    _values: Tensor

    def __init__(self, capacity: int, alike: int = 0) -> None:
        super().__init__()
        self.capacity, self.alike = capacity, alike
        self.length = 0
        self.place: Tensor | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocates the buffers for keys and values of this shape and type; MemoryLimitError where there is no room."""
        needed = (key_states[:, :, :1].nbytes + value_states[:, :, :1].nbytes) * self.capacity * self.alike
        check_memory(needed, len(key_states), self.capacity, key_states.device)
        self.dtype, self.device = key_states.dtype, key_states.device
        self._keys = key_states.new_empty(*key_states.shape[:2], self.capacity, key_states.shape[-1])
        self._values = value_states.new_empty(*value_states.shape[:2], self.capacity, value_states.shape[-1])
        self.is_initialized = True

    def settle(self, place: Tensor, length: int, end: int) -> None:
        """Fixes the shapes: from now on each update writes one token at `place [1]` and returns `end` positions.

        `length` positions are written so far. The layer then looks as if that token were the last of `end`; a mask has
        to hide the positions that are not written.
        """
        self.place, self.length = place, length
        self.is_compileable = True  # so that transformers does not read the mask's values
        keys, values = self._view(end)
        for buffer in (keys, values):
            buffer[:, :, length:] = 0  # a masked key has no weight, but NaN times zero is NaN

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends `[B, H, t, d]` keys and values; returns all so far. `RuntimeError` past the capacity."""
        if self.place is not None:
            keys, values = self._written()
            keys.index_copy_(2, self.place, key_states)
            values.index_copy_(2, self.place, value_states)
            return keys, values
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[-2]
        if end > self.capacity:
            raise RuntimeError(f"the cache was made for {self.capacity} positions, but {end} are needed")
        self._keys[:, :, self.length : end] = key_states
        self._values[:, :, self.length : end] = value_states
        self.length = end
        return self._view(end)

    def _view(self, end: int) -> tuple[Tensor, Tensor]:
        """Shows the first `end` positions as the layer's keys and values."""
        self.keys, self.values = self._keys[:, :, :end], self._values[:, :, :end]
        return self._written()

    def _written(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None, "something has been written"
        return self.keys, self.values

    @property
    def nbytes(self) -> int:
        """The bytes of its buffers."""
        return self._keys.nbytes + self._values.nbytes if self.is_initialized else 0

    def get_seq_length(self) -> int:
        """Positions that the layer appears to hold before the next token."""
        return self.length if self.place is None else self._written()[0].shape[2] - 1

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes what row `beam_idx[i]` was; a longer `beam_idx` repeats rows into a new buffer."""
        if not self.length:
            return
        index = beam_idx.to(self.device)
        if len(index) == self._keys.shape[0]:
            for part in self._written():
                part.copy_(part.index_select(0, index))
        else:
            self._keys, self._values = self._keys.index_select(0, index), self._values.index_select(0, index)
            self._view(self.length)


class SlotLayer(DynamicLayer):
    """Keys and values `[S, H, P, d]` of rows from many requests, each with a length of its own.

    A step writes one token a row, at the row's own place, and looks as if that token were the last of as many positions
    as are shown; a mask has to hide those that a row has not written. Rows are moved and filled by their owner.
    """

    is_compileable = True  # so that transformers does not read the mask's values

    def __init__(self) -> None:
        super().__init__()
        self.buffers: tuple[Tensor, ...] = ()  # none, or keys and values
        self._shown: tuple[Tensor, Tensor, Tensor, Tensor] | None = None  # rows, places, keys, values

    def reserve(self, rows: int, positions: int, like: tuple[Tensor, Tensor]) -> None:
        """Makes room for so many rows and positions; what is there stays. like: keys and values `[.., H, .., d]`."""
        made = []
        for own, before in zip(like, self.buffers or (None, None), strict=True):
            buffer = own.new_zeros(rows, own.shape[1], positions, own.shape[3])  # NaN times a weight of zero is NaN
            if before is not None:
                buffer[: before.shape[0], :, : before.shape[2]] = before
            made.append(buffer)
        self.buffers = (made[0], made[1])
        self.is_initialized = True

    def show(self, rows: Tensor, places: Tensor, end: int) -> None:
        """Steps are now of rows 0..n−1 (`rows [n]`), write at `places [n]`, and read `end` positions."""
        if self.buffers:
            keys, values = (buffer[: len(rows), :, :end] for buffer in self.buffers)
            self._shown = (rows, places, keys, values)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes `[n, H, 1, d]` keys and values; returns all that are shown."""
        assert self._shown is not None, "`show` comes before a step"
        rows, places, keys, values = self._shown
        keys.transpose(1, 2).index_put_((rows, places), key_states[:, :, 0])
        values.transpose(1, 2).index_put_((rows, places), value_states[:, :, 0])
        return keys, values

    def get_seq_length(self) -> int:
        """Positions that the layer appears to hold before the next token."""
        return 0 if self._shown is None else self._shown[2].shape[2] - 1


def preallocated_cache(config: PreTrainedConfig, capacity: int) -> DynamicCache:
    """A cache for `capacity` positions; special layers (short sliding windows, convolutions) stay transformers' own."""
    cache = DynamicCache(config=config)
    kept = [index for index, layer in enumerate(cache.layers) if _keeps(layer, capacity)]
    for index in kept:
        cache.layers[index] = PreallocatedLayer(capacity, len(kept) if index == kept[0] else 0)
    return cache


def _keeps(layer: object, capacity: int) -> bool:
    """Whether a layer keeps that many keys and values, and does nothing else."""
    if type(layer) is DynamicSlidingWindowLayer:
        return layer.sliding_window >= capacity
    return type(layer) is DynamicLayer
