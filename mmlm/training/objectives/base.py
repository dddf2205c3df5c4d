"""Objective: what a Trainer minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter

from mmlm.model.changes import Changing


@dataclass(frozen=True)
class Part:
    """Some of a step's examples.

    count: targets that the loss is the mean of (tokens, codes, media). loss: computes that mean, a scalar.
    size: how much is read, in the objective's `unit`, for the throughput.
    """

    count: int
    loss: Callable[[], Tensor]
    size: int = 0


class Objective(ABC):
    """What trains, its loss, its evaluation, what it saves, and what identifies the run.

    The gradient of a step is that of the mean over the counts of all its parts. The loss is a function of the seed,
    the step and the weights.

    Preferences (DPO) and distillation differ in the loss of a part, GRPO samples its completions in `parts`, and
    a probe has few `parameters`: each is one more file beside these.

    name: of the run, in the progress bar. module: the network; layers of the kinds `nn.Linear` and `nn.Embedding` in it
    tell Muon what to take. examples: in one pass over the data, and per_step: in one step; None where that is unknown.
    draws: whether parts or losses draw random numbers without a generator of their own, as quantizers and dropout do.
        The trainer then gives them one, seeded for each step.
    spreads: whether `parts` gives this process's share of a step (`ranks.own`), and nothing but the trained weights
        changes in a run; only then may several processes train it.
    partial: whether a part may leave some of what trains without a gradient. sharded: whether the module is split over
        the processes.
    loss_unit: for the plot. preview_every: steps between previews; None for none.
    """

    name: str
    module: nn.Module
    examples: int | None = None
    per_step: int = 1
    draws: bool = False
    spreads: bool = False
    partial: bool = False
    sharded: bool = False
    unit: str = "examples"
    loss_unit: str = "loss"
    preview_every: int | None = None

    def parameters(self) -> dict[str, Parameter]:
        """What trains, by name: all of the module unless overridden. The rest stays frozen during the run."""
        return dict(self.module.named_parameters())

    def state(self) -> dict[str, Tensor]:
        """Other tensors that a run changes and a checkpoint holds: moving averages of a codebook, an EMA of weights.

        They are put back when a step is skipped. Unless overridden, the buffers that the module's state dict holds.
        """
        saved = self.module.state_dict()
        return {name: buffer for name, buffer in self.module.named_buffers() if name in saved}

    def train(self, mode: bool) -> None:
        """Sets training or evaluation mode."""
        self.module.train(mode)

    def changing(self) -> AbstractContextManager[None]:
        """A context for a change of the weights: a model does not write texts with it meanwhile, in any thread."""
        return self.module.changes.changing("trained") if isinstance(self.module, Changing) else nullcontext()

    def steps_in(self, precision: str) -> AbstractContextManager[None]:
        """A context for all steps of a run that compute in this precision, "float32" or "bfloat16"."""
        return nullcontext()

    def begin(self) -> None:  # noqa: B027 - most need nothing
        """Called before the first step of a new run, not of a resumed one."""

    @abstractmethod
    def parts(self, step: int) -> Sequence[Part]:
        """The parts of step `step` (from 0), of which there is one or more; their losses are computed in this order."""

    def after_step(self) -> None:  # noqa: B027
        """Called after each step of the optimizer, not after a skipped one."""

    def evaluate(self) -> dict[str, float]:
        """Figures of the weights as they are, on held-out data; called in evaluation mode, without gradients."""
        return {}

    def figures(self) -> dict[str, float]:
        """Figures of the steps since they were last asked for, the same in all processes; for a line of metrics.

        What they are made of belongs to `state`, so that a resumed run writes the same lines.
        """
        return {}

    def preview(self, folder: Path, step: int) -> None:  # noqa: B027
        """Writes something to look at or to listen to; called as `evaluate` is."""

    def saving(self) -> AbstractContextManager[None]:
        """A context, which all processes enter together, and in which the first one calls `save`."""
        return nullcontext()

    @abstractmethod
    def save(self, output: Path) -> Path:
        """Writes what was trained into the folder `output`, in the form that it is loaded from; returns its path."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What else determines the result, as JSON values: data by content, sizes, fingerprints of frozen parts.

        The trainer adds the settings and the starting weights.
        """
