"""Texts that share a row: each gets the logits, the loss and the gradient that it has in a row of its own."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from encoders.base import Features
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.model.segments import begins, positions, separating_mask
from mmlm.prompting.processor import Example
from mmlm.training.rows import Ready, batch_of, in_rows, room_in
from support import families, parts
from support.training_objectives import metrics, run, tiny_model

TOGETHER = {"bloom", "lfm2"}  # ALiBi of a mask of its own; a convolution over the row
WINDOWED = {"gemma2", "gemma3"}  # attention that reaches less far than the texts here are long


def test_masks_and_positions_of_two_texts_by_hand():
    segments = torch.tensor([[1, 1, 2, 2, 2, 0], [1, 2, 2, 0, 0, 0]])
    assert begins(segments).int().tolist() == [[1, 0, 1, 0, 0, 1], [1, 1, 0, 1, 0, 0]]
    assert positions(segments).tolist() == [[0, 1, 0, 1, 2, 0], [0, 0, 1, 0, 0, 0]]
    seen = separating_mask(segments, torch.float32)[0, 0] == 0
    assert seen.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    left = torch.tensor([[0, 0, 1, 1, 1]])
    assert positions(left).tolist() == [[0, 0, 0, 1, 2]], "rows that are padded on the left count as before"


def texts(model: MultimodalLM) -> list[Ready]:
    """Two pictures in one text, none in the second, and words before the picture of the third; a last one alone."""
    prompts = [*parts.prompts(), [parts.picture(4), "what?"]]
    answers = ["a dog", "nothing at all", "two", "red"]
    examples = [model.processor.encode(*pair) for pair in zip(prompts, answers, strict=True)]
    return [Ready(example, model.encode_media(example.media)) for example in examples]


def loss_and_gradients(model: MultimodalLM, rows: list[list[Ready]]) -> tuple[Tensor, dict[str, Tensor]]:
    loss = model(*batch_of(model.processor, rows)).loss
    named = dict(model.added_parameters())
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return loss.detach(), {name: own for name, own in zip(named, gradients, strict=True) if own is not None}


def assert_same_as_alone(model: MultimodalLM) -> None:
    ready = texts(model)
    loss, gradients = loss_and_gradients(model, [[one] for one in ready])
    packed, also = loss_and_gradients(model, [ready[:3], ready[3:]])
    torch.testing.assert_close(packed, loss, rtol=1e-5, atol=0)
    assert gradients.keys() == also.keys()
    scale: dict[str, float] = {}  # of each kind of weight: the gradient of a gate is a sum that may all but cancel
    for name, gradient in gradients.items():
        kind = name.rpartition(".")[2]
        scale[kind] = max(scale.get(kind, 0.0), float(gradient.abs().max()))
    for name, gradient in gradients.items():
        atol = 1e-5 * scale[name.rpartition(".")[2]]
        torch.testing.assert_close(also[name], gradient, rtol=1e-4, atol=atol, msg=name)


@pytest.mark.parametrize("family", list(families.FAMILIES))
def test_every_family_that_keeps_texts_apart_learns_the_same_of_them(family):
    model = parts.build(family)
    room = room_in(model, 1000)
    assert (room is None) == (family in TOGETHER), "found by running it"
    padded = family in TOGETHER | WINDOWED
    assert len(in_rows(model, texts(model), room)) == (4 if padded else 1)
    if not padded:
        assert_same_as_alone(model)


@pytest.mark.parametrize("way", parts.WAYS)
def test_media_are_seen_by_their_own_text_in_every_way(way):
    model = parts.build("llama", visibility=way)
    assert_same_as_alone(model)


@pytest.mark.parametrize("way", parts.WAYS)
@torch.no_grad()
def test_what_one_text_and_its_media_are_does_not_reach_the_others(way):
    """Bit for bit."""
    model = parts.build("qwen2", visibility=way)
    ready = texts(model)
    other = model.processor.encode(["lie: ", parts.picture(9), "y"], "ten")
    changed = [*ready[:2], Ready(other, model.encode_media(other.media)), ready[3]]
    assert len(other.input_ids) == len(ready[2].example.input_ids)
    logits = []
    for rows in ([ready], [changed]):
        batch, media = batch_of(model.processor, rows)
        logits.append(model(replace(batch, labels=None), media).logits[0])
    differ = (logits[0] != logits[1]).any(-1).nonzero().flatten()
    placed = model.media_context(*batch_of(model.processor, [ready])).placed(batch_of(model.processor, [ready])[0])
    own = (placed.attention_mask[0] == 3).nonzero().flatten()
    assert len(differ) and set(differ.tolist()) <= set(own.tolist())


def test_the_text_before_does_not_predict_how_the_next_one_begins():
    model = parts.shared("llama")
    document = [Ready(Example([65, 66, 67], [65, 66, 67], []), []) for _ in range(2)]
    batch, _ = batch_of(model.processor, [document])
    assert batch.labels.tolist() == [[65, 66, 67, -100, 66, 67]]


@given(st.lists(st.integers(2, 40), min_size=1, max_size=30), st.integers(5, 60))
def test_every_text_has_a_place_and_rows_have_room(lengths, room):
    config = SimpleNamespace()
    model = SimpleNamespace(language_model=SimpleNamespace(config=config))
    ready = [Ready(Example([7] * length, [7] * length, []), []) for length in lengths]
    rows = in_rows(model, ready, room)
    assert sorted(id(one) for row in rows for one in row) == sorted(map(id, ready))
    for row in rows:
        assert len(row) == 1 or sum(len(one.example.input_ids) for one in row) <= room
    assert len(rows) <= 2 * -(-sum(lengths) // room) + sum(length > room for length in lengths), "first fit"
    config.sliding_window = max(lengths) - 1
    assert in_rows(model, ready, room) == [[one] for one in ready], "a shared row has no window"


def test_training_with_shared_rows_is_training(tmp_path):
    for name, room in (("alone", None), ("shared", 64)):
        run(tiny_model(), tmp_path / name, log_every=1, learning_rate=1e-3, row_length=room)
    for one, other in zip(metrics(tmp_path / "alone"), metrics(tmp_path / "shared"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_a_run_says_where_rows_are_not_shared(tmp_path, caplog):
    run(tiny_model("bloom"), tmp_path, steps=1, row_length=64)
    assert "BloomForCausalLM does not keep texts of one row apart" in caplog.text


def test_features_of_a_text_keep_their_order():
    model = parts.shared("gpt2")
    marked = [Features(torch.full((1, 5, 24), float(number))) for number in range(3)]
    image = model.processor.encode([parts.picture(1), "x"], "y")
    ready = [Ready(image, [own]) for own in marked]
    _, media = batch_of(model.processor, [[ready[2], ready[0]], [ready[1]]])
    assert [[float(own.tokens[0, 0, 0]) for own in row] for row in media] == [[2.0, 0.0], [1.0]]
