"""Sets of ids that constraints allow, as ranges and as masks, and several constraints of one row."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from mmlm.generation.constraints import Together
from mmlm.generation.constraints.base import Masks

VOCABULARY = 12

RANGES = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 4)).map(lambda one: range(one[0], min(12, sum(one)))))
MASKS = st.lists(st.booleans(), max_size=VOCABULARY).map(torch.tensor).map(torch.Tensor.bool)
SETS = st.one_of(st.none(), RANGES.map(tuple), MASKS)


@dataclass(frozen=True)
class Row:
    """A row that may write `ids`, and ends after `left` tokens."""

    ids: object = None
    left: int = 9
    guided: bool = False
    finished: str | None = None

    def allowed(self):
        return self.ids

    def advance(self, token):
        return replace(self, left=self.left - 1, finished="length" if self.left == 1 else None)


def ids_of(allowed):
    if allowed is None:
        return set(range(VOCABULARY))
    if isinstance(allowed, torch.Tensor):
        return {id for id, good in enumerate(allowed.tolist()) if good}
    return {id for ids in allowed for id in ids}


@given(st.lists(SETS, min_size=1, max_size=4))
def test_a_row_may_write_what_all_of_its_constraints_allow(sets):
    scores = torch.zeros(1, VOCABULARY)
    state = Together.of(*[Row(ids) for ids in sets])
    found = Masks(VOCABULARY, scores.device).apply([state], scores)[0]
    assert set(found.isfinite().nonzero().flatten().tolist()) == set.intersection(*map(ids_of, sets))


def test_rows_of_ranges_and_of_masks_stand_side_by_side():
    sets = [None, (range(2, 4), range(7, 8)), torch.tensor([True, False, True]), (), (range(2, 4), range(7, 8))]
    found = Masks(VOCABULARY, torch.device("cpu")).apply([Row(ids) for ids in sets], torch.zeros(5, VOCABULARY))
    assert [set(row.isfinite().nonzero().flatten().tolist()) for row in found] == [ids_of(ids) for ids in sets]


def test_constraints_of_a_row_advance_together_and_end_with_the_first():
    assert Together.of() is None and Together.of(None) is None
    alone = Row(left=3)
    assert Together.of(None, alone) is alone
    state = Together.of(Row(left=2, guided=True), alone)
    assert state.guided and state.finished is None
    assert state.advance(0).finished is None and state.advance(0).advance(0).finished == "length"
    assert state.states == (Row(left=2, guided=True), alone)  # a state never changes
