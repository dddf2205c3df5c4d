"""The joint between the decode loop and whatever restricts a row: grammars, stop strings, choices, budgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from mmlm.generation.result import FinishReason

Allowed = tuple[range, ...] | Tensor
"""A set of token ids: as ranges, a single id being a range of one; or as a mask, bool `[W]`, with no id beyond it."""


class RefusedError(Exception):
    """A token that is allowed may not come after all: so few tokens are left that the row could not be ended behind it,
    or it ends a thought and begins an answer that is restricted.

    To find that out of every token that may come would take too long, so it is said of the one that was chosen. Another
    one is chosen then. instead: an id that may come.
    """

    def __init__(self, instead: int) -> None:
        super().__init__("this token may not come: choose another")
        self.instead = instead


MOST_REFUSED = 16  # tokens of a row in one step, before `instead` comes


class Constraint(Protocol):
    """The state of one row: which ids may come next, and whether the row has ended.

    A state never changes: `advance` gives the next one, so that beams may share and copy states freely. An id that must
    come next is the only one allowed.
    """

    @property
    def finished(self) -> FinishReason | None:
        """Why the row has ended; None while it goes on."""
        ...

    @property
    def guided(self) -> bool:
        """Whether guidance acts on the next token."""
        ...

    def allowed(self) -> Allowed | None:
        """Ids that may come next; None for all."""
        ...

    def advance(self, token: int) -> Self:
        """The state after one more token; RefusedError for an allowed one that may not come after all."""
        ...


@runtime_checkable
class Unending(Protocol):
    """A constraint in whose rows an end token may be read as something else, such as the end of a thought."""

    def at_end(self) -> tuple[Constraint, int] | None:
        """The state and the id with which a row goes on where an end token was chosen; None where that ends it."""
        ...


def ends(state: Constraint) -> bool:
    """Whether an end token would end the row."""
    return not isinstance(state, Unending) or state.at_end() is None


class Masks:
    """What constraints allow, as masks of the vocabulary; each different set of ranges is made into a tensor once."""

    def __init__(self, vocabulary: int, device: torch.device) -> None:
        self.vocabulary, self.device = vocabulary, device
        self._known: dict[tuple[range, ...] | None, Tensor] = {}

    def apply(self, constraints: Sequence[Constraint], scores: Tensor) -> Tensor:
        """Scores `[R, V]` with −inf where the row's constraint does not allow an id."""
        allowed = [None if state.finished else state.allowed() for state in constraints]
        if all(ids is None for ids in allowed):
            return scores
        return scores.masked_fill(torch.stack([self._forbidden(ids) for ids in allowed]), -torch.inf)

    def insist(self, constraints: Sequence[Constraint], before: Tensor, after: Tensor) -> Tensor:
        """Scores `[R, V]` that logits processors changed, with those `before` where one id alone is allowed.

        What must come next is not taken away, even where it repeats what was said.
        """
        allowed = [None if state.finished else state.allowed() for state in constraints]
        must = torch.tensor([isinstance(ids, tuple) and sum(map(len, ids)) == 1 for ids in allowed], device=self.device)
        return torch.where(must.unsqueeze(1), before, after)

    def _forbidden(self, allowed: Allowed | None) -> Tensor:
        if isinstance(allowed, Tensor):
            return ~mask_of(allowed.to(self.device), self.vocabulary)
        if allowed not in self._known:
            self._known[allowed] = ~mask_of(allowed, self.vocabulary).to(self.device)
        return self._known[allowed]


def mask_of(allowed: Allowed | None, vocabulary: int) -> Tensor:
    """A set of ids as bool `[vocabulary]`, True where an id is allowed."""
    if isinstance(allowed, Tensor):
        return torch.nn.functional.pad(allowed, (0, vocabulary - len(allowed)))
    mask = torch.full((vocabulary,), allowed is None)
    for ids in allowed or ():
        mask[ids.start : ids.stop] = True
    return mask
