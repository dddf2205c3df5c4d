"""A model as judge: what it says in both orders decides, and a judge of places decides nothing."""

import pytest
import torch

from mmlm.data import Record, RecordSet
from mmlm.training.alignment.judging import judged_pairs, model_judge
from support.alignment import asked, pairs
from support.training_objectives import COLOURS, png, tiny_model


def longer(shown):
    return [len(one.first) - len(one.second) for one in shown]


def answers(records):
    return [(record.texts[0].answer, record.rejected) for record in records]


def test_the_preferred_answer_is_the_chosen_one_whichever_stood_first():
    """red, green / green, blue / blue, yellow / yellow, red: the longer one wins, by at least a margin."""
    wins = [("green", "red"), ("green", "blue"), ("yellow", "blue"), ("yellow", "red")]
    assert answers(judged_pairs(RecordSet(pairs()[:4]), longer)) == wins
    assert answers(judged_pairs(RecordSet(pairs()[:4]), longer, margin=2)) == [wins[0], wins[2], wins[3]]
    assert [record.qa[0][0] for record in judged_pairs(pairs(), longer)] == ["what colour?"] * 8
    caption = RecordSet((Record("c", png("red"), ("a",), rejected="long"),))
    assert answers(judged_pairs(caption, longer)) == [("long", "a")]


def test_a_judge_who_looks_at_the_place_is_not_believed():
    with pytest.raises(ValueError, match="prefers no answer in both orders"):
        judged_pairs(pairs(), lambda shown: [1.0] * len(shown))

    def leaning(shown):
        """Of the first answer in doubt: a difference of one letter does not outweigh its place."""
        return [value + 1.5 for value in longer(shown)]

    left = judged_pairs(RecordSet(pairs()[:4]), leaning)
    assert answers(left) == [("green", "red"), ("yellow", "blue"), ("yellow", "red")]


def test_a_model_is_asked_with_the_picture_in_both_orders():
    """Its log-odds are those of its own forward pass, and change with the picture."""
    model, (record, *_) = tiny_model(), pairs()
    with torch.no_grad():
        for name, parameter in model.added_parameters():
            parameter.add_(0.8 if "gate" in name else 0)
    shown = []
    judge = model_judge(model)

    def ask(comparisons):
        shown.extend(comparisons)
        return judge(comparisons)

    try:
        judged_pairs(RecordSet((record,)), ask)
    except ValueError as error:
        assert "in both orders" in str(error)
    assert [(one.first, one.second) for one in shown] == [("red", "green"), ("green", "red")]
    (said,) = judge(shown[:1])
    text = "what colour?\nAnswer 1: red\nAnswer 2: green\nWhich answer is better, 1 or 2?"
    sums = []
    for answer in "12":
        example = model.processor.encode(model.template.question_prompt(record.image, text), answer)
        batch = model.processor.collate([example])
        with torch.no_grad():
            logits = model(batch, [example.media]).logits.double().log_softmax(-1)
        labels = [own for own in example.labels if own != -100]
        sums.append(float(sum(row[own] for row, own in zip(logits, labels, strict=True))))
    assert said == pytest.approx(sums[0] - sums[1], abs=1e-4)
    other = Record("other", png(COLOURS["blue"]), qa=record.qa, rejected=record.rejected)
    assert judge([type(shown[0])(other, "red", "green")])[0] != pytest.approx(said, abs=1e-6)


def test_what_cannot_be_judged_is_told():
    with pytest.raises(ValueError, match="'p0' has not two texts"):
        judged_pairs(asked(pairs()), longer)
    with pytest.raises(ValueError, match="said 1 things of 16"):
        judged_pairs(pairs(), lambda shown: [1.0])
