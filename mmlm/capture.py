"""A step of decoding as one CUDA graph: to start its hundreds of kernels one by one takes longer than they run.

A graph repeats what was recorded once, on the same memory. So from the first step on all shapes stay: the cache hands
out its whole buffers, a mask hides what is not written yet, and where the next token goes is a tensor. To a language
model this looks like padding, which every family knows, and not like another kind of cache.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from mmlm.cache import PreallocatedLayer

Pass = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Ids [R, 1], attention mask [R, capacity] and position ids [R, 1] → logits [R, V]."""


class CapturedStep:
    """Steps of one request, after its prompt: the first runs as ever, the second is recorded, all others repeat it.

    Without a GPU all run as ever, on the same shapes.
    """

    def __init__(self, cache: DynamicCache, mask: Tensor, positions: Tensor, length: int):
        """`mask [R, capacity]` of the prompt, `length` long, and of what follows; `positions [R, capacity]`."""
        self.place = torch.tensor([length], device=mask.device)
        self.mask = mask.clone()
        self.mask[:, length:] = 0
        self.positions = positions[:, length : length + 1].clone()
        self.ids = torch.zeros_like(self.positions)
        self.logits: Tensor | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        for layer in cache.layers:
            layer.settle(self.place)

    def __call__(self, tokens: Tensor, run: Pass) -> Tensor:
        """Logits [R, V] after `tokens [R]`; the same `run` each time."""
        self.ids[:, 0] = tokens
        if self.graph is None and self.logits is not None and self.ids.is_cuda:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may go on
                self._step(run)
            self.graph = graph
        if self.graph is None:
            self._step(run)
        else:
            self.graph.replay()
        return self.logits.clone()  # the next step writes over them

    def _step(self, run: Pass) -> None:
        self.mask.index_fill_(1, self.place, 1)
        self.logits = run(self.ids, self.mask, self.positions)
        self.place += 1
        self.positions += 1


def has_settling_layers(cache: DynamicCache) -> bool:
    """Whether all layers' shapes can stay; not those of a sliding window, a convolution or a state."""
    return all(isinstance(layer, PreallocatedLayer) for layer in cache.layers)
