"""Several constraints of one row at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from mmlm.generation.constraints.base import Allowed, Constraint, mask_of
from mmlm.generation.result import FinishReason


@dataclass(frozen=True)
class Together:
    """A row that all of `states` restrict: it may write what each allows, and ends with the first that has finished."""

    states: tuple[Constraint, ...]

    @classmethod
    def of(cls, *states: Constraint | None) -> Constraint | None:
        """The states that there are: None for none, the one itself for one."""
        found = tuple(state for state in states if state is not None)
        return cls(found) if len(found) > 1 else next(iter(found), None)

    @property
    def finished(self) -> FinishReason | None:
        """Why the first of them has finished."""
        return next((state.finished for state in self.states if state.finished is not None), None)

    @property
    def guided(self) -> bool:
        """Whether guidance acts on the next token, for any of them."""
        return any(state.guided for state in self.states)

    def allowed(self) -> Allowed | None:
        """Ids that each of them allows."""
        sets = [ids for state in self.states if (ids := state.allowed()) is not None]
        if len(sets) < 2:
            return next(iter(sets), None)
        reach = min(map(_reach, sets))
        masks = [ids[:reach] if isinstance(ids, Tensor) else mask_of(ids, reach) for ids in sets]
        device = next((ids.device for ids in sets if isinstance(ids, Tensor)), masks[0].device)
        return torch.stack([mask.to(device) for mask in masks]).all(0)

    def advance(self, token: int) -> Self:
        """All of them after one more token."""
        return replace(self, states=tuple(state.advance(token) for state in self.states))


def _reach(allowed: Allowed) -> int:
    """No id from here on is in the set."""
    return len(allowed) if isinstance(allowed, Tensor) else max((span.stop for span in allowed), default=0)
