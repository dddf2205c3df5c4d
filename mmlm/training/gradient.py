"""The gradient of a step: of the mean loss over the targets of all its parts, in all processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from decoders.codecs.base import NonFiniteLatentsError
from mmlm.training.dtensors import local
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
    sharded: whether the module is split over the processes. FSDP then adds up the gradients of weights in parts, and
        those of the others are added up after the backward pass: during it, DDP's and FSDP's exchanges would come in
        another order in a process that leaves some of `trained` without a gradient.
    """

    def __init__(
        self,
        trained: Sequence[Parameter],
        precision: str,
        device: torch.device,
        max_norm: float,
        partial: bool = False,
        sharded: bool = False,
    ) -> None:
        self.trained, self.precision, self.device, self.max_norm = trained, precision, device, max_norm
        self.losses, self.sharded = Losses(trained), sharded
        by_ddp = world() > 1 and not sharded
        self.together = DistributedDataParallel(self.losses, find_unused_parameters=partial) if by_ddp else None

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
                        # DDP and FSDP give the mean over processes, so each counts its share as often as there are.
                        share = (self.together or self.losses)(part, part.count * world() / max(1, total))
                    with attention_kernels(self.precision, self.device):
                        share.backward()
                loss += share.detach()
        except NonFiniteLatentsError:  # a quantizer's, given latents that are not finite
            return Step(math.nan, math.nan, total, size)
        if self.sharded:
            average([parameter for parameter in self.trained if not isinstance(parameter, DTensor)])
        norm = clip(self.trained, self.max_norm)
        loss, norm = torch.stack([loss, norm.to(loss.dtype)]).tolist()
        return Step(summed(loss)[0] / world(), norm, total, size)

    def _held_back(self) -> AbstractContextManager[None]:
        """Gradients wait for the last part before they are added up."""
        return nullcontext() if self.together is None else self.together.no_sync()


def average(parameters: Sequence[Parameter]) -> None:
    """Gives each gradient the mean over processes; one that no process has stays None, as in a single process."""
    counts = summed(*(parameter.grad is not None for parameter in parameters))
    used = [parameter for parameter, count in zip(parameters, counts, strict=True) if count]
    if not used:
        return
    gradients = [torch.zeros_like(own) if own.grad is None else own.grad for own in used]
    total = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(total)
    for parameter, part in zip(used, (total / world()).split([own.numel() for own in used]), strict=True):
        parameter.grad = part.view_as(parameter).to(parameter.dtype)


def clip(parameters: Sequence[Parameter], max_norm: float) -> Tensor:
    """Scales gradients down to `max_norm`; returns the norm before, a scalar: of all weights, in whatever process."""
    parts = [parameter for parameter in parameters if isinstance(parameter, DTensor)]
    plain = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
    norm = get_total_norm([own.grad for own in plain if own.grad is not None]).to(parameters[0].device)
    if parts:
        square = get_total_norm([local(own.grad) for own in parts if own.grad is not None]).double() ** 2
        dist.all_reduce(square)
        norm = torch.hypot(norm.double(), square.sqrt().to(norm.device))
    clip_grads_with_norm_(plain, max_norm, norm)
    clip_grads_with_norm_(parts, max_norm, norm, foreach=False)
    return norm
