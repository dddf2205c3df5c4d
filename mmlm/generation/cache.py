"""A self-attention cache that is allocated once: transformers' dynamic cache with room kept for what is to come."""

from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import CacheLayerMixin, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer


class PreallocatedLayer(DynamicLayer):
    """A DynamicLayer that writes into one buffer `[B, H, capacity, d]` instead of concatenating at each token.

    It looks exactly as long as what was written, so no family needs another mask than with transformers' own cache.
    """

    def __init__(self, capacity: int):
        super().__init__()
        self.capacity = capacity
        self.length = 0
        self.place: Tensor | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self._keys = key_states.new_empty(*key_states.shape[:2], self.capacity, key_states.shape[-1])
        self._values = value_states.new_empty(*value_states.shape[:2], self.capacity, value_states.shape[-1])
        self.is_initialized = True

    def settle(self, place: Tensor, length: int, end: int) -> None:
        """From here on, `length` being written, each update is of one token at `place [1]` and gives `end` positions.

        So the layer looks as if that token were the last of so many; a mask has to hide those that are not written.
        """
        self.place, self.length = place, length
        self.is_compileable = True  # so that transformers does not ask what the mask holds
        self.keys, self.values = self._keys[:, :, :end], self._values[:, :, :end]
        for buffer in (self.keys, self.values):
            buffer[:, :, length:] = 0  # a masked key counts nothing, but not where it is NaN

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends `[B, H, t, d]` keys and values; gives all so far. `RuntimeError` past the capacity."""
        if self.place is not None:
            self.keys.index_copy_(2, self.place, key_states)
            self.values.index_copy_(2, self.place, value_states)
            return self.keys, self.values
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[-2]
        if end > self.capacity:
            raise RuntimeError(f"the cache was made for {self.capacity} positions, but {end} are needed")
        self._keys[:, :, self.length : end] = key_states
        self._values[:, :, self.length : end] = value_states
        self.length = end
        return self._view()

    def _view(self) -> tuple[Tensor, Tensor]:
        self.keys, self.values = self._keys[:, :, : self.length], self._values[:, :, : self.length]
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.length if self.place is None else self.keys.shape[2] - 1

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes what row `beam_idx[i]` was; a longer `beam_idx` repeats rows into a new buffer."""
        if not self.length:
            return
        index = beam_idx.to(self.device)
        if len(index) == self._keys.shape[0]:
            self.keys.copy_(self.keys.index_select(0, index))
            self.values.copy_(self.values.index_select(0, index))
        else:
            self._keys, self._values = self._keys.index_select(0, index), self._values.index_select(0, index)
            self._view()


def preallocated_cache(config: PreTrainedConfig, capacity: int) -> DynamicCache:
    """A cache for `capacity` positions; special layers (a sliding window that is shorter, convolution) stay
    transformers' own."""
    cache = DynamicCache(config=config)
    cache.layers = [PreallocatedLayer(capacity) if _keeps(layer, capacity) else layer for layer in cache.layers]
    return cache


def _keeps(layer: CacheLayerMixin, capacity: int) -> bool:
    """Whether a layer keeps so many keys and values, and does nothing else."""
    if type(layer) is DynamicSlidingWindowLayer:
        return layer.sliding_window >= capacity
    return type(layer) is DynamicLayer
