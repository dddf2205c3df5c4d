"""A decoding step, recorded once and replayed: on a GPU as a CUDA graph, on a CPU as a tape of torch functions.

Between the kernels of a step runs the language model's Python code, hundreds of modules and calls, which on a GPU takes
longer than the kernels. A recording replays the same calls on the same memory, so all shapes must stay fixed from the
first step on: the cache returns its whole buffers, a mask hides the positions that are not written yet, and the
position of the next token is a tensor. To a language model this looks like padding, which every family supports, and
not like another kind of cache.
"""

import threading
from collections.abc import Callable

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from mmlm.acceleration.tape import NoValues, Tape
from mmlm.generation.cache import PreallocatedLayer
from mmlm.model.acceleration import Pass

ROOM = 128  # a recording covers at least so many further positions, and at least as many as are written
SHORT = 16  # new tokens up to which no step is recorded
LONGEST = 2048  # positions up to which the steps of a text are recorded

_one_graph_at_a_time = threading.Lock()  # CUDA cannot capture two graphs at once


class RecordedStep:
    """Steps of one request after its prompt: the first runs plainly, the second is recorded, all others replay it.

    All attend to `end` positions; those that are not written yet are masked.
    """

    def __init__(self, cache: DynamicCache, mask: Tensor, positions: Tensor, length: int, end: int):
        """cache: preallocated, with `length` positions written; mask, positions: `[R, capacity]`, later ones too."""
        self.end = end
        self.place = torch.tensor([length], device=mask.device)
        self.mask = mask[:, : self.end].clone()
        self.mask[:, length:] = 0
        self.positions = positions[:, length : length + 1].clone()
        self.ids = torch.zeros_like(self.positions)
        self.started = False
        self.repeat: Callable[[], Tensor] | None = None
        for layer in cache.layers:
            assert isinstance(layer, PreallocatedLayer), "see can_record"
            layer.settle(self.place, length, self.end)

    def __call__(self, tokens: Tensor, run: Pass) -> Tensor:
        """Logits `[R, V]` after `tokens [R]`; `run` must be the same pass each time."""
        self.ids[:, 0] = tokens
        if self.repeat is not None:
            return self.repeat()
        if not self.started:
            self.started = True
            return self._step(run)
        self.repeat = record(lambda: self._step(run), self.ids.device)
        return self.repeat()

    def _step(self, run: Pass) -> Tensor:
        self.mask.index_fill_(1, self.place, 1)
        logits = run(self.ids, self.mask, self.positions)
        self.place += 1
        self.positions += 1
        return logits


class RecordedSteps:
    """All steps of one request after its prompt, in stages, each with twice as many positions as the last."""

    def __init__(self, cache: DynamicCache, mask: Tensor, positions: Tensor, length: int, room: int = ROOM):
        self.cache, self.mask, self.positions, self.length, self.room = cache, mask, positions, length, room
        self.stage: RecordedStep | None = None

    def __call__(self, tokens: Tensor, run: Pass) -> Tensor:
        """Logits `[R, V]` after `tokens [R]`; `run` must be the same pass each time."""
        start, self.length = self.length, self.length + 1
        if self.stage is None or start == self.stage.end:
            end = min(self.mask.shape[1], max(2 * start, start + self.room))
            self.stage = RecordedStep(self.cache, self.mask, self.positions, start, end)
        return self.stage(tokens, run)


def can_record(cache: DynamicCache, mask: Tensor) -> bool:
    """Whether the steps of a text `[R, capacity]` can be recorded, without asking whether their logits stay the same.

    All layers of the cache must be able to keep their shapes, which sliding windows, convolutions and states are not.
    """
    short = mask.shape[1] <= LONGEST
    fixed = all(isinstance(layer, PreallocatedLayer) for layer in cache.layers)
    return short and fixed and not torch.is_autocast_enabled(mask.device.type)


def record(step: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """A function that repeats a step on the memory that the step works on now, without its Python code.

    On a CPU recording runs the step, and the returned function gives that step's result when it is called first.
    """
    if device.type == "cuda":
        return _graph(step)
    with Tape() as tape:
        first: list[Tensor] = [step()]
    repeat = tape.repeat(first[0])
    return lambda: first.pop() if first else repeat()


def _graph(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    graph = torch.cuda.CUDAGraph()
    with _one_graph_at_a_time, torch.cuda.graph(graph, capture_error_mode="thread_local"), NoValues():
        logits = step()

    def repeat() -> Tensor:
        graph.replay()
        return logits.clone()  # the next step overwrites them

    return repeat
