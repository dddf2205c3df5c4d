"""The gradient of a step: of the mean loss over the targets of all its parts, in all processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.parallel import DistributedDataParallel

from decoders.codecs.base import NonFiniteLatentsError
from mmlm.training.objectives.base import Part
from mmlm.training.precision import attention_kernels, computing
from mmlm.training.ranks import summed, world


@dataclass(frozen=True)
class Step:
    """A step's loss, the norm of its gradient before clipping, and the counts and sizes of its parts."""

    loss: float
    norm: float
    count: int
    size: int

    @property
    def is_finite(self) -> bool:
        """Whether the weights may be changed by it."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Losses(nn.Module):
    """The losses of parts as a module over what trains, which torch's DistributedDataParallel can wrap."""

    def __init__(self, trained: Sequence[Parameter]) -> None:
        super().__init__()
        for number, parameter in enumerate(trained):
            self.register_parameter(str(number), parameter)

    def forward(self, part: Part, share: float) -> Tensor:
        """`share` of the loss of a part, a scalar."""
        return part.loss() * share


class Gradient:
    """Accumulates gradients in `trained`, whose `requires_grad` is set; with several processes, by DDP.

    The frozen parts are not DDP's: each process has all of them. Weights of the first process are given to the others.
    partial: whether a part may leave some of `trained` without a gradient, which DDP must then look for.
    """

    def __init__(
        self, trained: Sequence[Parameter], precision: str, device: torch.device, max_norm: float, partial: bool = False
    ) -> None:
        self.trained, self.precision, self.device, self.max_norm = trained, precision, device, max_norm
        self.losses = Losses(trained)
        self.together = DistributedDataParallel(self.losses, find_unused_parameters=partial) if world() > 1 else None

    @torch.enable_grad()
    def of(self, parts: Sequence[Part], draws: AbstractContextManager[Any] | None = None) -> Step:
        """Adds the clipped gradient of the mean loss over the counts of all parts of all processes.

        Gradients are on in here whatever the thread's own setting is: an interrupt may have left it off.
        draws: context of each loss.
        """
        total, size = map(int, summed(sum(part.count for part in parts), sum(part.size for part in parts)))
        loss = torch.zeros((), device=self.device)
        try:
            for number, part in enumerate(parts, start=1):
                with self._held_back() if number < len(parts) else nullcontext():
                    with draws or nullcontext(), computing(self.precision, self.device):
                        # DDP gives the mean over processes, so that each counts its share as often as there are.
                        share = (self.together or self.losses)(part, part.count * world() / max(1, total))
                    with attention_kernels(self.precision, self.device):
                        share.backward()
                loss += share.detach()
        except NonFiniteLatentsError:  # a quantizer's, given latents that are not finite
            return Step(math.nan, math.nan, total, size)
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.max_norm)
        loss, norm = torch.stack([loss, norm.to(loss.dtype)]).tolist()
        return Step(summed(loss)[0] / world(), norm, total, size)

    def _held_back(self) -> AbstractContextManager[None]:
        """Gradients wait for the last part before they are added up."""
        return nullcontext() if self.together is None else self.together.no_sync()
