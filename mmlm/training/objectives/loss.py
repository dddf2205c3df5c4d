"""Any module with a loss by step: what recipes train that make an encoder or a language model from nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmlm.training.objectives.base import Objective, Part


class LossObjective(Objective):
    """`loss_at(step)`, a scalar, over all parameters of a module.

    loss_at: must depend on the step and the weights alone. What it draws from torch's global generators comes from
        others, seeded for the step.
    save: writes the trained module into a folder and returns what it wrote.
    identity: the settings and data that `loss_at` uses, as JSON values (see `mmlm.training.identity.digest`).
    """

    unit = "steps"
    draws = True

    def __init__(
        self,
        name: str,
        module: nn.Module,
        loss_at: Callable[[int], Tensor],
        save: Callable[[Path], Path],
        identity: dict[str, Any],
    ) -> None:
        self.name, self.module, self.loss_at = name, module, loss_at
        self._save, self._identity = save, identity

    def parts(self, step: int) -> list[Part]:
        return [Part(1, lambda: self.loss_at(step), 1)]

    def save(self, output: Path) -> Path:
        return self._save(output)

    def identity(self) -> dict[str, Any]:
        return self._identity
