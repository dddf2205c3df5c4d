"""A step of decoding, recorded once and repeated: on a GPU as a CUDA graph, on a CPU as a tape of torch functions.

Between the kernels of a step lies a language model's Python, hundreds of modules and calls, which on a GPU takes longer
than the kernels. What is recorded goes the same way again, on the same memory. So from the first step on all shapes
stay: the cache hands out its whole buffers, a mask hides what is not written yet, and where the next token goes is a
tensor. To a language model this looks like padding, which every family knows, and not like another kind of cache.
"""

import threading
from collections.abc import Callable

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from mmlm.acceleration.tape import NoValues, Tape
from mmlm.generation.cache import PreallocatedLayer
from mmlm.model.acceleration import Pass

ROOM = 128  # positions, at least, that steps are recorded for; then again for twice as many as there are
SHORT = 16  # tokens, up to which no step is recorded
LONGEST = 2048  # positions of a text whose steps are recorded

_one_graph_at_a_time = threading.Lock()  # CUDA captures no two


class RecordedStep:
    """Steps of one request, after its prompt: the first runs as ever, the second is recorded, all others repeat it.

    All look at `end` positions, of which as many are hidden as are not written.
    """

    def __init__(self, cache: DynamicCache, mask: Tensor, positions: Tensor, length: int, end: int):
        """`length` positions are written; `mask` and `positions [R, capacity]` of these and of all that may follow."""
        self.end = end
        self.place = torch.tensor([length], device=mask.device)
        self.mask = mask[:, : self.end].clone()
        self.mask[:, length:] = 0
        self.positions = positions[:, length : length + 1].clone()
        self.ids = torch.zeros_like(self.positions)
        self.started = False
        self.repeat: Callable[[], Tensor] | None = None
        for layer in cache.layers:
            layer.settle(self.place, length, self.end)

    def __call__(self, tokens: Tensor, run: Pass) -> Tensor:
        """Logits [R, V] after `tokens [R]`; the same `run` each time."""
        self.ids[:, 0] = tokens
        if self.repeat is not None:
            return self.repeat()
        if not self.started:
            self.started = True
            return self._step(run)
        if self.ids.is_cuda:
            self.repeat = self._graph(run)
            return self.repeat()
        with Tape() as tape:
            logits = self._step(run)
        self.repeat = tape.repeat(logits)
        return logits

    def _graph(self, run: Pass) -> Callable[[], Tensor]:
        graph = torch.cuda.CUDAGraph()
        with _one_graph_at_a_time, torch.cuda.graph(graph, capture_error_mode="thread_local"), NoValues():
            logits = self._step(run)

        def repeat() -> Tensor:
            graph.replay()
            return logits.clone()  # the next step writes over them

        return repeat

    def _step(self, run: Pass) -> Tensor:
        self.mask.index_fill_(1, self.place, 1)
        logits = run(self.ids, self.mask, self.positions)
        self.place += 1
        self.positions += 1
        return logits


class RecordedSteps:
    """All steps of one request after its prompt, in stages: each looks at twice as many positions as the last."""

    def __init__(self, cache: DynamicCache, mask: Tensor, positions: Tensor, length: int, room: int = ROOM):
        self.cache, self.mask, self.positions, self.length, self.room = cache, mask, positions, length, room
        self.stage: RecordedStep | None = None

    def __call__(self, tokens: Tensor, run: Pass) -> Tensor:
        """Logits [R, V] after `tokens [R]`; the same `run` each time."""
        start, self.length = self.length, self.length + 1
        if self.stage is None or start == self.stage.end:
            end = min(self.mask.shape[1], max(2 * start, start + self.room))
            self.stage = RecordedStep(self.cache, self.mask, self.positions, start, end)
        return self.stage(tokens, run)


def can_record(cache: DynamicCache, mask: Tensor) -> bool:
    """Whether steps can be recorded; another question is whether they give the same."""
    short = mask.shape[1] <= LONGEST
    return short and has_settling_layers(cache) and not torch.is_autocast_enabled(mask.device.type)


def has_settling_layers(cache: DynamicCache) -> bool:
    """Whether all layers' shapes can stay; not those of a sliding window, a convolution or a state."""
    return all(isinstance(layer, PreallocatedLayer) for layer in cache.layers)
