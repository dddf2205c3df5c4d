"""Codes as token ids (mmlm/codes.py): where they lie, their order, and what may follow what."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlm.generation.constraints.codes import CodeGrammar
from mmlm.model.code_places import CodePlaces
from mmlm.prompting.code_layout import CodeLayout, CodeSpan
from mmlm.prompting.vocabulary import ADDED_TOKENS, MediaVocabulary

PICTURE = CodeLayout("image", 10, 1, (2, 3))
SOUND = CodeLayout("audio", 10, 3, max_steps=6)
VOCABULARY = MediaVocabulary(100, ADDED_TOKENS, (PICTURE, SOUND))


def test_where_the_codes_lie():
    """By hand: 100 of the language model, 3 added, then 2 + 10 of the picture, 2 + 30 of sound."""
    spans = VOCABULARY.spans
    assert (spans["image"].begin, spans["image"].end) == (103, 104)
    assert spans["image"].ids_of(0) == range(105, 115)
    assert spans["audio"].begin == 115 and [spans["audio"].ids_of(k).start for k in range(3)] == [117, 127, 137]
    assert VOCABULARY.code_offset == 103 and VOCABULARY.code_rows == 44
    assert 146 in VOCABULARY and 147 not in VOCABULARY and len(VOCABULARY) == 3
    for outside in (99, 103, 150):
        with pytest.raises(ValueError, match="outside"):
            VOCABULARY.token(outside)


def test_the_order_of_writing_by_hand():
    """The delay pattern: with each step of the first codebook, the one before of the second, and so on."""
    codes = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]])
    span = VOCABULARY.spans["audio"]
    k0, k1, k2 = (span.ids_of(book).start for book in range(3))
    rows = [[k0 + 0], [k0 + 1, k1 + 4], [k0 + 2, k1 + 5, k2 + 8], [k0 + 3, k1 + 6, k2 + 9], [k1 + 7, k2 + 0], [k2 + 1]]
    assert span.to_ids(codes) == [115, *(token for row in rows for token in row), 116]
    picture = torch.tensor([[[1, 2, 3], [4, 5, 6]]])
    assert VOCABULARY.spans["image"].to_ids(picture) == [103, 106, 107, 108, 109, 110, 111, 104]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 2**31))
def test_codes_come_back_from_their_ids(books, steps, seed):
    span = CodeSpan(CodeLayout("audio", 7, books), 50)
    codes = torch.randint(7, (books, steps), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(span.to_codes(span.to_ids(codes)), codes)
    picture = CodeSpan(CodeLayout("image", 7, books, (steps, 2)), 50)
    codes = torch.randint(7, (books, steps, 2), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(picture.to_codes(picture.to_ids(codes)), codes)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**31))
def test_whatever_may_be_written_is_a_whole_medium(books, most, seed):
    """Any walk through what is allowed ends, in time, and says codes; and each medium is such a walk."""
    draw = random.Random(seed)
    for layout in (CodeLayout("audio", 4, books, max_steps=most), CodeLayout("image", 4, books, (most, 2))):
        span = CodeSpan(layout, 9)
        state, ids = CodeGrammar.begin(span), [span.begin]
        while not state.closed:
            ids.append(draw.choice([token for allowed in state.allowed() for token in allowed]))
            state = state.advance(ids[-1])
        assert state.allowed() == ()
        codes = span.to_codes(ids)
        assert codes.shape[0] == books and (layout.grid or codes.shape[1] <= most)
        again = CodeGrammar.begin(span)
        for token in span.to_ids(codes)[1:]:
            again = again.advance(token)
        assert again.closed and span.to_ids(codes) == ids


def test_what_may_not_follow_is_refused():
    span = VOCABULARY.spans["audio"]
    state = CodeGrammar.begin(span)
    for wrong in (span.end, span.begin, 127, 5, 200):
        with pytest.raises(ValueError, match="may not follow"):
            state.advance(wrong)
    state = state.advance(117)
    assert state.allowed() == (span.ids_of(0), span.ids_of(1))  # one step more, or the last of the second codebook
    state = state.advance(127)
    assert state.allowed() == (span.ids_of(2),)
    state = state.advance(137)
    assert state.allowed() == (range(116, 117),)


def test_fixed_codes_leave_no_choice():
    span = VOCABULARY.spans["image"]
    state, written = CodeGrammar.begin(span, {(0, 1): 7, (0, 5): 2}), [span.begin]
    seen = []
    while not state.closed:
        (ids,) = state.allowed()
        seen.append(len(ids))
        written.append(ids[-1])
        state = state.advance(ids[-1])
    assert seen == [10, 1, 10, 10, 10, 1, 1]
    assert span.to_codes(written).flatten().tolist() == [9, 7, 9, 9, 9, 2]


def test_places_by_hand_in_one_pass_and_in_several():
    span = VOCABULARY.spans["image"]  # opens with 103, closes with 104
    rows = torch.tensor([[7, 103, 105, 106, 107, 108, 109, 110, 104, 5], [1, 1, 1, 103, 114, 105, 105, 105, 105, 105]])
    expected = torch.tensor([[-1, 0, 1, 2, 3, 4, 5, 6, -1, -1], [-1, -1, -1, 0, 1, 2, 3, 4, 5, 6]])
    assert torch.equal(CodePlaces(span).of(rows), expected)
    for cut in range(1, 10):
        places = CodePlaces(span)
        first = places.of(rows[:, :cut])
        places.repeat(2)
        twice = rows.repeat_interleave(2, 0)
        found = [first.repeat_interleave(2, 0), *(places.of(twice[:, t : t + 1]) for t in range(cut, 10))]
        assert torch.equal(torch.cat(found, dim=1), expected.repeat_interleave(2, 0))
    assert CodePlaces(None).of(rows) is None


@pytest.mark.parametrize("ids", [[], [103, 104], [103, 105, 105, 104], [103, *[117] * 6, 104], [103, *[105] * 7, 104],
                                 [104, *[105] * 6, 104], [103, *[105] * 6, 105]])  # fmt: skip
def test_ids_of_no_picture_are_refused(ids):
    with pytest.raises(ValueError):
        VOCABULARY.spans["image"].to_codes(ids)


@pytest.mark.parametrize(
    "codes",
    [torch.zeros(1, 3, 2).long(), torch.full((1, 2, 3), 10), torch.full((1, 2, 3), -1), torch.zeros(1, 2, 3)],
)
def test_codes_that_do_not_fit_are_refused(codes):
    with pytest.raises(ValueError, match="codes"):
        VOCABULARY.spans["image"].to_ids(codes)
