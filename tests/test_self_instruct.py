"""Self-instruct: what is kept of what a model writes, by hand; what is written down; the same from the same seed."""

import json
from collections import Counter

import pytest

from mmlm.data import Record, RecordSet, read_records
from mmlm.generation.result import GenerationResult, Usage
from mmlm.tasks.votes import voted
from mmlm.training.alignment.likeness import rouge_l, words_of
from mmlm.training.alignment.self_instruct import (
    DROPPED,
    Asked,
    SelfInstructConfig,
    consistent,
    finished,
    self_instruct,
)
from support import scripted
from support.training_objectives import COLOURS, png, tiny_model

EXAMPLES = [("what colour?", "red"), ("is it blue?", "no"), ("how many?", "one"), ("where?", "left")]


def result(text: str, ended: bool = True) -> GenerationResult:
    return GenerationResult(text, (1,), (-1.0,), "stop" if ended else "length", Usage(1, 1, 1, 1))


def agreed(*answers: str) -> GenerationResult:
    return voted([result(answer) for answer in answers])


def test_rouge_by_hand():
    first, second = words_of("Is there a red circle?"), words_of("is there a blue circle")
    assert rouge_l(first, second) == pytest.approx(4 / 5)  # all words but one, in order
    # "what color ring" is the longest common subsequence: 3 of 5 and 3 of 4 words.
    longer = rouge_l(words_of("what color is the ring"), words_of("what ring color ring"))
    assert longer == pytest.approx(2 * (3 / 5) * (3 / 4) / (3 / 5 + 3 / 4))
    assert rouge_l(first, words_of("?!")) == 0 and rouge_l(first, first) == 1


def test_questions_that_end_and_say_something_are_asked_once():
    counts = Counter()
    rows = [
        [result(" what colour? "), result("What colour"), result("is it"), result("?"), result("is it red", False)],
        [result("what colour?")],  # of another picture, which may be asked the same
    ]
    asked = list(finished(rows, counts))
    assert asked == [Asked(0, "what colour?"), Asked(0, "is it"), Asked(1, "what colour?")]
    assert counts == {"written": 6, "duplicate": 1, "empty": 1, "unfinished": 1}


def test_answers_have_to_agree_and_questions_to_differ():
    config = SelfInstructConfig(votes=5, agreement=0.6)
    table = [
        (Asked(0, "is there a red circle?"), agreed("Yes.", "yes", " yes", "no", "no"), "kept"),
        (Asked(0, "is there a blue circle?"), agreed("no", "no", "no", "no", "no"), "duplicate"),  # ROUGE-L 0.8
        (Asked(0, "what is on the left?"), agreed("a ring", "ring", "star", "cross", "heart"), "inconsistent"),
        (Asked(0, "what shape is it?"), agreed("ring", "ring", "", "", ""), "inconsistent"),  # silence is no vote
        (Asked(1, "is there a blue circle?"), agreed("two", "2", "Two", "two!", "3"), "kept"),
        (Asked(1, "how many?"), agreed("", "", "", "", ""), "unanswered"),
    ]
    counts = Counter()
    found = consistent([one for one, _, _ in table], [own for _, own, _ in table], 2, config, counts)
    assert [[question for question, _ in own] for own in found] == [
        ["is there a red circle?"],
        ["is there a blue circle?"],
    ]
    assert found[0][0][1].lower().strip(".") == "yes"
    assert counts == Counter(why for *_, why in table)


def test_a_question_dropped_for_its_answers_is_no_reason_to_drop_another():
    config, counts = SelfInstructConfig(votes=2, agreement=1.0), Counter()
    asked = [Asked(0, "is there a red circle?"), Asked(0, "is there a blue circle?")]
    found = consistent(asked, [agreed("yes", "no"), agreed("no", "no")], 1, config, counts)
    assert found == [[("is there a blue circle?", "no")]]


def pictures(count: int) -> RecordSet:
    return RecordSet(tuple(Record(f"r{i}", png(COLOURS[name]), ("c",)) for i, name in zip(range(count), COLOURS)))


def test_what_is_written_down_is_what_was_said(tmp_path):
    """A model that follows a script: two pictures, one of which it answers with what it does not keep."""
    model = scripted.model(None)
    config = SelfInstructConfig(questions=2, votes=3, shots=2, batch_size=1, seed=3)
    with scripted.Script(model, "what colour is it?", "red", "is it big?", "") as script:
        made = self_instruct(model, pictures(2), EXAMPLES, tmp_path / "own", progress=False, config=config)
    prompts = [scripted.said(prompt, model) for prompt in script.prompts]
    shown = [f"Question:{question} Short answer:{answer}" for question, answer in EXAMPLES]
    for place in (0, 2):  # the examples before a question, each whole, and no answer after it
        assert sum(own in prompts[place] for own in shown) == 2 and prompts[place].endswith("Question:")
    assert prompts[1].endswith("Question:what colour is it? Short answer:") and prompts[1].count("Question:") == 1
    none = dict.fromkeys(DROPPED, 0)
    assert made.counts == {"written": 4, "kept": 1, **none, "duplicate": 2, "unanswered": 1}
    assert json.loads((tmp_path / "own/counts.json").read_text()) == made.counts
    records = read_records(made.data)
    assert [record.qa for record in records] == [(("what colour is it?", "red"),)]
    assert records[0].image == pictures(2)[0].image
    with pytest.raises(FileExistsError, match="new output"):
        self_instruct(model, pictures(2), EXAMPLES, tmp_path / "own", progress=False, config=config)


def babbling():
    """A tiny model that writes nothing but a few letters, and ends soon."""
    model = tiny_model()
    likely = [
        *model.processor.tokenizer("ab ", add_special_tokens=False)["input_ids"],
        model.language_model.stop_ids[0],
    ]

    def hook(module, given, output):
        output.logits[..., likely] += 30
        return output

    model.language_model.model.register_forward_hook(hook)
    return model


def test_the_same_seed_writes_the_same_and_everything_is_counted(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, name in enumerate(COLOURS):
        (folder / f"{number}.png").write_bytes(png(COLOURS[name], dot=number))
    texts = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        config = SelfInstructConfig(questions=4, votes=1, alike=1.0, answer_tokens=4, batch_size=3, seed=seed)
        made = self_instruct(babbling(), folder, EXAMPLES, tmp_path / name, progress=False, config=config)
        assert made.counts["written"] == 16 == made.counts["kept"] + sum(made.counts[why] for why in DROPPED)
        assert made.counts["kept"] == sum(len(record.qa) for record in made.records) > 0
        assert [record.image for record in read_records(made.data)] == [record.image for record in made.records]
        texts.append([(record.image, record.qa) for record in made.records])
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("settings", "message"), [({"votes": 0}, "votes"), ({"agreement": 1.5}, "agreement"), ({"alike": 0.0}, "alike")]
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        SelfInstructConfig(**settings)


def test_too_few_examples_are_told_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="3 shots need as many examples, not 1"):
        self_instruct(tiny_model(), tmp_path / "missing", EXAMPLES[:1], tmp_path / "out")
