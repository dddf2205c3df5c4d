"""What nano learns to think, to call and to write: thoughts and answers against the scene, read in another way."""

import json
import random
import re
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer

import mmlm
from mmlm.assembly import extended
from mmlm.prompting.messages import Message
from mmlm.prompting.parts import Markup
from mmlm.prompting.processor import Processor
from mmlm.prompting.sources import INSTRUCTION
from mmlm.prompting.vocabulary import MediaVocabulary
from recipes.nano.box_exercises import mixed_box, read_nlvr
from recipes.nano.boxes import draw_box, read_boxes, told_box, varied
from recipes.nano.conversations import Exercise, Turn, in_words
from recipes.nano.data import sets_folder, write_scenes
from recipes.nano.drills import recalled, repeated
from recipes.nano.exercises import KINDS, SCENE_SCHEMA, exercise, value, write_exercises
from recipes.nano.marks import MARKS, add_marks, exercise_parts
from recipes.nano.questions import questions
from recipes.nano.rewards import LORA, mixed
from recipes.nano.scenes import sample_scene
from recipes.nano.settings import Recipe
from recipes.nano.sight import read_scene
from recipes.nano.solving import solve
from recipes.nano.stages.package import PACKAGE, unpack
from recipes.nano.stages.rewarded import added_in
from recipes.nano.statements import read
from recipes.nano.thoughts import thought
from recipes.nano.wordings_of_claims import worded

LINES = {"top": 0, "middle": 1, "bottom": 2, "left": 0, "right": 2}
SPOT = {
    "top left": (0, 0), "top middle": (0, 1), "top right": (0, 2),
    "middle left": (1, 0), "middle middle": (1, 1), "middle right": (1, 2),
    "bottom left": (2, 0), "bottom middle": (2, 1), "bottom right": (2, 2),
}  # fmt: skip
# As questions say it: "at the top".
SIDE = {"top": (0, 1), "left": (1, 0), "middle": (1, 1), "right": (1, 2), "bottom": (2, 1)}
WORDS = ("zero", "one", "two", "three", "four")
BESIDE = {
    "above": lambda a, b: a[0] < b[0], "below": lambda a, b: a[0] > b[0],
    "left of": lambda a, b: a[1] < b[1], "right of": lambda a, b: a[1] > b[1],
}  # fmt: skip


def seen(scene):
    """A scene as rows of a table: (row, column), and the words that fit it."""
    return [
        (divmod(thing.cell, 3), {thing.kind.size, thing.kind.colour, thing.kind.shape, "shape", "thing"})
        for thing in scene.things
    ]


def fitting(noun, scene):
    """Where the things are that every word of a noun phrase fits, singular or plural."""
    words = {"cross" if word.startswith("cross") else word.removesuffix("s") for word in noun.split()}
    return [place for place, fits in seen(scene) if words <= fits]


def answer_to(question, scene):
    """The answer read from the words of a question, without the code that made it; None for wordings not known here."""
    yes = {True: "yes", False: "no"}
    if match := re.fullmatch(r"is the (.+) (above|below|left of|right of) the (.+)\?", question):
        (a,), (b,) = fitting(match[1], scene), fitting(match[3], scene)
        return yes[BESIDE[match[2]](a, b)]
    if match := re.fullmatch(r"how many (.+) (?:are there|are in the picture|can you see)\?", question):
        return WORDS[len(fitting(match[1], scene))]
    if match := re.fullmatch(r"are there (more|fewer|as many) (.+) (?:than|as) (.+)\?", question):
        a, b = len(fitting(match[2], scene)), len(fitting(match[3], scene))
        return yes[{"more": a > b, "fewer": a < b, "as many": a == b}[match[1]]]
    if match := re.fullmatch(r"Is this statement true\? There (?:is|are) (.+)\.", question):
        return yes[_stated(match[1], scene)]
    return None


def _stated(said, scene):
    if match := re.fullmatch(r"an? (.+) (above|below|left of|right of) an? (.+)", said):
        pairs = [(a, b) for a in fitting(match[1], scene) for b in fitting(match[3], scene)]
        return any(BESIDE[match[2]](a, b) for a, b in pairs)
    if match := re.fullmatch(r"exactly (one|two|three|four) (.+)", said):
        return len(fitting(match[2], scene)) == WORDS.index(match[1])
    return bool(fitting(re.fullmatch(r"an? (.+)", said)[1], scene))


@pytest.fixture(scope="module")
def scenes():
    made = []
    for index in range(400):
        rng = random.Random(index)
        scene = sample_scene(rng)
        made.append((scene, questions(scene, rng)))
    return made


@pytest.fixture(scope="module")
def exercises():
    return {kind: [exercise("train", index, 3, kind, think=True) for index in range(150)] for kind in KINDS}


@pytest.fixture(scope="module")
def tokenizer():
    found = AutoTokenizer.from_pretrained(PACKAGE / "language_model")
    add_marks(found)
    return found


def test_a_thought_begins_with_everything_there_is_and_is_short(scenes, tokenizer):
    for scene, asked in scenes:
        for question in asked:
            text = thought(scene, question.work)
            *things, ground = text.partition(";")[0].split(", ")
            said = [re.fullmatch(r"(\w+ \w+) (\w+) (\w+) (\w+)", one) for one in things]
            there = [(SPOT[one[1]], {*one.groups()[1:], "shape", "thing"}) for one in said]
            assert there == seen(scene) and ground == f"on {scene.background}"
            assert len(tokenizer(text)["input_ids"]) <= 130


def test_what_is_concluded_is_so(scenes):
    judged = Counter()
    for scene, asked in scenes:
        for question in asked:
            *_, last = question.work.split("; ")
            assert (
                last == question.answer
                or last.endswith((f": {question.answer}", question.answer))
                or (question.topic in ("colour", "shape", "size") and question.answer in last.split())
            )
            if (truth := answer_to(question.question, scene)) is not None:
                assert question.answer == truth, question
                judged[question.topic] += 1
    assert min(judged[topic] for topic in ("relation", "count", "statement")) > 100


def test_what_fits_is_what_the_words_say_and_is_told_by_what_is_asked(scenes):
    """Each step of the work is read again: things, each with its number, its row or column, an attribute, or "no"."""
    checked = Counter()
    for scene, asked in scenes:
        for question in asked:
            fits = []
            for step in question.work.split("; ")[:-1]:
                noun, _, things = step.partition(": ")
                if not things:
                    assert WORDS.index(step) == len(fits)
                    continue
                said = [one.rsplit(" ", 4) for one in things.split(", ")]
                assert [(SPOT[place], {*words}) for place, *words, _ in said] == [
                    (place, words - {"shape", "thing"}) for place, words in seen(scene)
                ]
                fits = [(SPOT[place], words, value) for place, *words, value in said if value != "no"]
                assert [place for place, *_ in fits] == fitting(noun, scene)
                if question.topic in ("colour", "shape", "size"):
                    assert all(value in words for _, words, value in fits)
                    kind = "attribute"
                elif axis := re.search("(above|below)|(left of|right of)", question.question):
                    assert all(LINES[value] == place[0 if axis[1] else 1] for place, _, value in fits)
                    kind = "line"
                else:
                    assert [value for *_, value in fits] == list(WORDS[1 : len(fits) + 1])
                    kind = "number"
                checked[kind] += 1
    assert min(checked[kind] for kind in ("attribute", "line", "number")) > 200


def test_comparisons_are_true(exercises):
    compared = [one for one in exercises["thinking"] if one.topic == "comparison"]
    assert len(compared) > 10
    for one in compared:
        assert one.answer == answer_to(one.question, one.scene)


def test_sums_are_of_what_is_seen(exercises):
    for one in exercises["arithmetic"]:
        call = json.loads(re.search("<tool_call>(.*)</tool_call>", one.turns[2].content[0])[1])
        assert call["name"] == "calculator"
        prices = list(map(int, re.findall(r"\d+", one.question)))
        if one.topic == "price":
            truth = len(fitting(re.match("each of the (.+) costs", one.question)[1], one.scene)) * prices[0]
        elif one.topic == "sum":
            truth = len(fitting(re.search(r"\d (.+) elsewhere", one.question)[1], one.scene)) + prices[0]
        else:
            first, second = re.match(r"the (.+) cost \d+ each, the (.+) \d+ each", one.question).groups()
            truth = len(fitting(first, one.scene)) * prices[0] + len(fitting(second, one.scene)) * prices[1]
        assert int(one.answer) == value(call["arguments"]["expression"]) == truth and 100 <= truth <= 999


def test_a_sum_is_read_as_it_is_written():
    assert value("3*127") == 381 and value("347+3") == 350 and value("2*101+1*499") == 701
    with pytest.raises(ValueError):
        value("__import__('os')")


def test_zoom_shows_the_card_that_is_asked_about(exercises):
    for one in exercises["zoom"][:25]:
        sheet, near = one.pictures
        call = json.loads(re.search("<tool_call>(.*)</tool_call>", one.turns[2].content[0])[1])
        left, top, right, bottom = (share * sheet.width for share in call["arguments"]["box"])
        assert near.size == (64, 64) == (round(right - left), round(bottom - top)) and sheet.size == (256, 256)
        assert read_scene(near) == one.scene


def test_json_is_the_scene(exercises):
    for one in exercises["json"]:
        read = json.loads(one.answer)
        assert list(read) == SCENE_SCHEMA["required"]
        there = [(SPOT[thing.pop("place")], {*thing.values(), "shape", "thing"}) for thing in read["things"]]
        assert there == seen(one.scene) and read["background"] == one.scene.background


def test_one_note_answers_and_no_other(exercises):
    """A note read as (thing, what is said of it, value), and a question as the first two."""
    stuff = re.compile(
        r"the (?:(\w+) of the )?((?:small|large) \w+ \w+|shape .+?)(?: is (called|made of))?(?: is (\w+)\.|$| (\w+)\.)"
    )
    for one in exercises["notes"]:
        notes = [stuff.fullmatch(note).groups() for note in re.findall(r"\[\d\] (.+?\.)", one.turns[0].content[0])]
        name, cited = re.fullmatch(r"(\w+) \[(\d)\]", one.answer).groups()
        asked = re.fullmatch(r"(?:what|who) is (.+?)( called| made of)?\?", one.question)
        about, thing = stuff.fullmatch(asked[1]).groups()[:2]
        if one.topic == "seen":
            spot = {**SPOT, **SIDE}[thing.split("the ")[1]]
            (thing,) = [
                f"{own.kind.size} {own.kind.colour} {own.kind.shape}"
                for own in one.scene.things
                if divmod(own.cell, 3) == spot
            ]
        said = about or asked[2].strip()
        fitting_notes = [
            (number, value or other)
            for number, (own, kind, fact, value, other) in enumerate(notes, start=1)
            if (kind, own or fact) == (thing, said)
        ]
        assert fitting_notes == [(int(cited), name)]
        thought = one.turns[-1].content[0].removeprefix("<think>").partition("</think>")[0]
        (written,) = [part for part in one.turns[0].content if str(part).startswith("[1]")]
        *before, fact = [line.removesuffix(".") for line in written.splitlines()[: int(cited)]]
        read = ", ".join([*(f"{note} no" for note in before), f"{fact} yes"])
        assert thought.split("; ")[-1] == f"{fact.removeprefix(f'[{cited}] ')}: {read}"
        assert len(notes) >= 2


def test_in_words_the_list_is_given_and_what_follows_is_learned(exercises):
    for kind in ("thinking", "arithmetic"):
        for one in exercises[kind]:
            given, said = in_words(one)
            assert given.count("<think>") == 1 and one.question in given
            assert given.endswith(f"on {one.scene.background};") and said.startswith(" ")
            assert said.endswith(f"</think>{one.answer}" if kind == "thinking" else "}}</tool_call>")
    for one in exercises["notes"]:
        given, said = in_words(one)
        assert said.endswith(f"</think>{one.answer}") and ("<think>" in given) == (one.topic == "seen")
        assert re.search(r": \[1\] ", said) and given.startswith("[1] ")


def test_drills_are_determined_where_they_are_learned():
    """A repeated word is that of a period before; a word of a line follows every line that began alike."""
    learned = Counter()
    for index in range(200):
        ids, known = repeated(random.Random(index), range(100, 300))
        period = known.index(True) - 1
        assert 4 <= period <= 24 and ids[period:] == ids[:-period] and all(known[period + 1 :])
        ids, known = recalled(random.Random(index), range(100, 300), 7)
        lines = " ".join(map(str, ids)).split(" 7")[:-1]
        half = len(lines) // 2
        given, said = ([tuple(map(int, line.split())) for line in own] for own in (lines[:half], lines[half:]))
        assert sorted(given) == sorted(said) and not any(known[: len(ids) // 2])
        flags = iter(known[len(ids) // 2 :])
        for line in said:
            for at, word in enumerate((*line, 7)):
                follows = {(*other, 7)[at] for other in given if other[:at] == line[:at]}
                known_here = next(flags)
                assert follows == {word} or not known_here or given == said
                learned["yes" if known_here else "no"] += 1
    assert learned["yes"] > 4 * learned["no"] > 1000


def test_only_one_picture_has_it(exercises):
    asked = [one for one in exercises["pictures"] if one.topic == "which"]
    assert len(asked) > 20
    for one in asked:
        noun = re.fullmatch(r"which picture has an? (.+)\?", one.question)[1]
        has = [bool(fitting(noun, read_scene(picture))) for picture in one.pictures[:3]]
        assert [("first", "second", "third")[index] for index, found in enumerate(has) if found] == [one.answer]


SQUARE, CIRCLE = np.ones((20, 20), bool), np.hypot(*np.mgrid[-9.5:10, -9.5:10]) < 10


def picture(*items):
    """A picture of NLVR, from (box, left, top, mask, colour) alone."""
    pixels = np.full((100, 400, 3), 211, np.uint8)
    pixels[:, 100:150] = pixels[:, 250:300] = 128
    for box, left, top, mask, colour in items:
        pixels[top : top + 20, 150 * box + left : 150 * box + left + 20][mask] = colour
    return Image.fromarray(pixels)


def test_boxes_are_read_from_their_pixels_and_told():
    yellow, black, blue = (255, 255, 0), (0, 0, 0), (0, 153, 255)
    shown = picture(
        (0, 40, 80, SQUARE, blue), (0, 40, 59, SQUARE, yellow), (1, 80, 10, CIRCLE, black), (1, 10, 80, SQUARE, blue)
    )  # fmt: skip
    boxes = read_boxes(shown)
    assert list(map(told_box, boxes)) == [
        "tower: blue, yellow",
        "medium blue square touching bottom, medium black circle touching right",
        "nothing",
    ]
    for number, box in enumerate(boxes):
        drawn = picture().crop((0, 0, 400, 100))
        drawn.paste(draw_box(box), (150 * number, 0))
        assert read_boxes(drawn)[number] == box


def test_a_varied_sentence_says_the_same_of_varied_boxes():
    shown = picture((0, 40, 80, CIRCLE, (0, 0, 0)), (1, 80, 10, CIRCLE, (0, 0, 0)), (2, 10, 80, SQUARE, (0, 153, 255)))
    boxes, seen = read_boxes(shown), set()
    for index in range(60):
        said, moved = varied("There are 2 black circles, and no Yellow one.", boxes, random.Random(index))
        colour, shape, other = re.fullmatch(r"There are 2 (\w+) (\w+)s, and no (\w+) one\.", said).groups()
        items = [(item.colour, item.shape) for box in moved for item in box]
        assert items.count((colour, shape)) == 2 and len(items) == 3 and other[0].isupper()
        assert other.lower() not in {colour for colour, _ in items}
        seen.add((colour, shape))
    assert len(seen) == 9


def test_sentences_of_people_are_read_into_what_they_claim():
    yellow, black, blue = (255, 255, 0), (0, 0, 0), (0, 153, 255)
    towers = read_boxes(picture(
        (0, 40, 80, SQUARE, blue), (0, 40, 59, SQUARE, yellow), (0, 40, 38, SQUARE, yellow),
        (1, 40, 80, SQUARE, blue), (2, 40, 80, SQUARE, black), (2, 40, 59, SQUARE, blue),
    ))  # fmt: skip
    things = read_boxes(picture(
        (0, 80, 30, CIRCLE, blue), (0, 30, 30, SQUARE, blue), (1, 30, 80, CIRCLE, black), (2, 10, 10, CIRCLE, blue),
    ))  # fmt: skip
    # What is claimed of each, the mark behind each box, and whether it is true.
    told = {
        "There are 2 towers with a blue block at the base": ("blue one at base", "one two no", True, towers),
        "There is exactly one tower with a blue block at the base": ("blue one at base", "one two no", False, towers),
        "there is one tower which has a yellow block above a blue block": ("yellow on blue", "one no no", True, towers),
        "There is a blue tower.": ("only blue", "no one no", True, towers),
        "there is 1 tower with 2 yellow blocks stacked together": ("yellow two stacked", "one no no", True, towers),
        "There is no black block as the top of a tower.": ("black one at top", "no no no", True, towers),
        "The top of a tower is yellow": ("yellow one at top", "one no no", True, towers),
        "There is a blue circle touching the wall.": ("blue circle touching wall", "one no no", True, things),
        "there are exactly two blue objects not touching any edge": (
            "blue item not touching wall", "no no two", True, things
        ),
        "Each box has at least 1 blue item": ("blue item at least one", "one no two", False, things),
        "one of the grey square contains exactly two objects": ("item exactly two", "one no no", True, things),
    }  # fmt: skip
    for sentence, (condition, ends, true, boxes) in told.items():
        claim = read(sentence)
        thought, found = claim.thought(boxes)
        assert found == true and claim.words.endswith(f": {condition}"), sentence
        claimed, *each, end = thought.split("; ")
        assert claimed == claim.words and end.endswith(claim.quantity.words)
        assert [one.rpartition(" ")[2] for one in each] == ends.split(), thought
    assert read("the colors of the towers rhyme") is None


def test_what_is_read_of_sentences_is_what_people_said_of_them():
    if (sets := sets_folder()) is None:
        pytest.skip("NLVR is not here")
    known = [(read(sentence), boxes, label) for sentence, label, _, boxes in read_nlvr(sets, "dev")]
    agreed = [claim.thought(boxes)[1] == label for claim, boxes, label in known if claim is not None]
    assert len(agreed) > 0.7 * len(known) and sum(agreed) > 0.97 * len(agreed)


def test_made_sentences_about_boxes_are_read_into_what_they_were_made_of():
    """Where their form is known; both ways are apart from each other."""
    pairs = [worded(random.Random(index)) for index in range(400)]
    found = [(read(said), claim, said) for said, claim in pairs]
    assert sum(one is not None for one, *_ in found) > 200
    assert [(said, one.words, claim.words) for one, claim, said in found if one and one.words != claim.words] == []


def test_a_box_made_of_items_of_others_shows_what_is_told_of_it():
    yellow, black, blue = (255, 255, 0), (0, 0, 0), (0, 153, 255)
    shown = picture(
        (0, 2, 80, SQUARE, blue), (0, 44, 59, CIRCLE, yellow), (1, 79, 10, CIRCLE, black), (1, 10, 80, SQUARE, blue),
        (2, 60, 30, SQUARE, black), (2, 5, 5, CIRCLE, blue), (2, 30, 55, SQUARE, yellow),
    )  # fmt: skip
    drawn, found = [("", True, shown, read_boxes(shown))], Counter()
    for index in range(60):
        box = mixed_box(random.Random(index), drawn)
        found[len(box)] += 1
        alone = picture()
        alone.paste(draw_box(box), (0, 0))
        assert told_box(read_boxes(alone)[0]) == told_box(box)
    assert set(found) == {2, 3}


def test_exercises_keep_to_their_split():
    train, dev = ([exercise(split, index, 0) for index in range(200)] for split in ("train", "dev"))
    assert not any(one.scene.is_held_out() or one.scene.has_unseen_pair() for one in train)
    assert all(one.scene.is_held_out() and not one.scene.has_unseen_pair() for one in dev)


def test_an_exercise_is_learned_where_the_assistant_speaks_and_marks_are_never_typed(tokenizer):
    vocabulary = MediaVocabulary(len(tokenizer))
    processor = Processor(tokenizer, vocabulary)
    ids = tokenizer.convert_tokens_to_ids(list(MARKS))
    assert not set(ids) & set(processor.text_ids("".join(MARKS)))
    said = '<think>top: one</think><tool_call>{"a": 1}</tool_call>'
    turns = [
        Message("system", ("Tools: a",)),
        Message("user", ("what <think>?",)),
        Message("assistant", (said,)),
        Message("tool", ("2</tool_response>",)),
        Message("assistant", ("3",)),
    ]
    for ended, chat in ((True, False), (False, False), (False, True)):
        one = processor.encode(exercise_parts(mmlm.PromptTemplate(), turns, ended, chat))
        learned = [token for token, label in zip(one.input_ids, one.labels, strict=True) if label >= 0]
        text = tokenizer.decode([token for token in learned if token not in vocabulary])
        assert text == said.removeprefix("<think>") + "3"
        assert learned.count(vocabulary.end_of_chunk_id) == 1 + ended
        assert [one.input_ids.count(token) for token in ids] == [1, 1, 1, 1, 1, 1]
        assert processor.decode(one.input_ids).startswith("Tools: a\nQuestion:what <think>? Short answer:<think>top")
    hurried = processor.encode(exercise_parts(mmlm.PromptTemplate(), turns, kept=0.5))
    learned = [token for token, label in zip(hurried.input_ids, hurried.labels, strict=True) if label >= 0]
    assert processor.decode(learned) == '<tool_call>{"a": 1}</tool_call>3'
    assert "<think>top:</think><tool_call>" in processor.decode(hurried.input_ids)


def test_the_language_model_learns_and_what_it_was_stays_until_then(tmp_path, monkeypatch):
    from recipes.nano.stages import thoughts as stage
    from recipes.nano.stages.thoughts_text import grown, read_thoughts

    unpack(PACKAGE, Recipe(), tmp_path)
    write_exercises(tmp_path / "exercises", {"train": 12, "dev": 2}, 0)
    for name in ("thoughts_data", "more_data"):
        monkeypatch.setattr(stage, name, lambda recipe, output: [f"{tmp_path}/exercises/train-*.tar"])
    recipe = Recipe()
    recipe.thoughts.steps, recipe.thoughts.more_steps, recipe.thoughts.batch_size = 2, 1, 4
    recipe.thoughts.texts, recipe.thoughts.text_steps, recipe.thoughts.drill_steps = 64, 1, 1
    nano = mmlm.load("nano")
    before = stage.thinker(recipe, tmp_path, grown(recipe, tmp_path), tmp_path / "ears_more/model")
    prompt = ["Question:what is red? Short answer:"]
    batches = [model.processor.collate([model.processor.encode(prompt)]) for model in (nano, before)]
    plain = [
        model(replace(batch, labels=None), [[]]).logits for model, batch in zip((nano, before), batches, strict=True)
    ]
    offset = nano.language_model.vocabulary.offset
    assert torch.equal(plain[0][..., :offset], plain[1][..., :offset])
    monkeypatch.setattr(stage.data, "sets_folder", lambda: None)
    read_thoughts(recipe, tmp_path)
    stage.train_thoughts(recipe, tmp_path)
    stage.train_thoughts_more(recipe, tmp_path)
    after = mmlm.load(tmp_path / "thoughts_more/model")
    rows = [model.language_model.model.get_input_embeddings().weight for model in (before, after)]
    assert rows[0].shape == rows[1].shape == (offset, 192) and not torch.equal(*rows)
    assert all(torch.equal(weight, weight.half().float()) for weight in after.language_model.model.parameters())
    assert "<tool_call>" in after.language_model.tokenizer.chat_template
    assert after.encoders["image"].fingerprint() == nano.encoders["image"].fingerprint()


def test_thoughts_and_codes_are_learned_in_the_same_steps(tmp_path, monkeypatch):
    """What is saved lies half-way between the weights before, and those that the last checkpoint holds."""
    from recipes.nano.stages import together as stage

    unpack(PACKAGE, Recipe(), tmp_path)
    write_exercises(tmp_path / "exercises", {"train": 12, "dev": 2}, 0)
    write_scenes(tmp_path / "neat", {"train": 8, "dev": 2}, 0, settled=True, loose=0, side=128)
    monkeypatch.setattr(stage, "last_data", lambda recipe, output: [f"{tmp_path}/exercises/train-*.tar"])
    drawn = [f"{tmp_path}/neat/{split}-*.tar" for split in ("train", "dev")]
    monkeypatch.setattr(stage, "writing_data", lambda recipe, output: ([drawn[0]], [drawn[1]]))
    recipe = Recipe()
    recipe.thoughts.last_steps, recipe.thoughts.batch_size, recipe.writing.batch_size = 1, 4, 2
    stage.train_together(recipe, tmp_path)
    (first, *_, last) = map(json.loads, (tmp_path / "together/metrics.jsonl").read_text().splitlines())
    assert first["held_out_loss"] < 0.2 and first["held_out_loss_image"] < 0.5  # it can do both before
    (checkpoint,) = (tmp_path / "together/checkpoints").glob("step-*")
    trained = load_file(checkpoint / "model.safetensors")
    before, after = weights_of(mmlm.load("nano")), weights_of(mmlm.load(tmp_path / "together/model"))
    assert before.keys() == after.keys() == trained.keys()
    for name, own in before.items():
        hears = name.startswith("resamplers.audio.")  # these exercises have no sound
        assert hears or not torch.equal(own, trained[name]), name
        # The language model is rounded to float16.
        torch.testing.assert_close(after[name], (own + trained[name]) / 2, rtol=2**-11, atol=1e-6)


def weights_of(model):
    """What was added, and the language model's own, by the names in a checkpoint."""
    own = {f"language_model.{name}": weight for name, weight in model.language_model.model.named_parameters()}
    return {name: weight.detach() for name, weight in {**dict(model.added_parameters()), **own}.items()}


def test_what_rewards_taught_goes_into_the_weights_and_drawings_stay(nano):
    """By two LoRA drawn by lot: texts are then those of the one that was taught, and codes those of before."""
    before = mmlm.load("nano")
    taught = extended(before, lora=LORA)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in taught.added_parameters():
            if name.startswith("language_model.lora.") and name.endswith("up"):
                weight.normal_(std=0.02, generator=draw)
    prompts = [["a red ring"], ["Draw:", "a large blue star"]]
    said, drawn = logits_of(taught, prompts, codes=False), logits_of(before, prompts, codes=True)
    assert (said - logits_of(before, prompts, codes=False)).abs().max() > 1
    made = added_in(before, taught)
    torch.testing.assert_close(logits_of(made, prompts, codes=False), said, rtol=0, atol=1e-3)
    torch.testing.assert_close(logits_of(made, prompts, codes=True), drawn, rtol=0, atol=1e-3)


@torch.no_grad()
def logits_of(model, prompts, codes):
    batch = model.processor.collate([model.processor.encode(prompt) for prompt in prompts])
    batch.labels = None
    return model(batch, [[] for _ in prompts], codes=codes).logits[batch.attention_mask.bool()]


def test_notes_that_rewards_teach_are_of_both_kinds_and_have_one_name_each():
    records = mixed(20, 0).records
    assert len({record.key for record in records}) == len(records) == 20
    for number, record in enumerate(records):
        asked, said = record.messages
        notes = str(asked.content[0])
        assert ("<think>" not in said.content[0]) and re.fullmatch(r".+ \[(\d+)\]", said.content[0])
        own, place = said.content[0].rstrip("]").split(" [")
        assert own in notes.splitlines()[int(place) - 1] and (INSTRUCTION in notes) == (number % 2 == 0)


def test_rewards_teach_a_stage_of_nano(tmp_path, monkeypatch):
    """In one step; it draws what it drew before."""
    from recipes.nano.stages import rewarded as stage

    unpack(PACKAGE, Recipe(), tmp_path)
    recipe = Recipe()
    recipe.rewards.steps, recipe.rewards.batch_size = 1, 2
    monkeypatch.setattr(stage, "NOTES_READ", replace(stage.NOTES_READ, generations=2, thinking=20))
    stage.train_rewarded(recipe, tmp_path)
    before, made = mmlm.load("nano"), mmlm.load(tmp_path / "rewarded/model")
    text = "in the middle a large red circle, on a white background"
    assert made.language_model.lora_config.rank == before.language_model.lora_config.rank + LORA.rank
    assert np.array_equal(made.draw(text, temperature=0.1), before.draw(text, temperature=0.1))


def test_adapters_that_learn_alone_leave_all_else(tmp_path, monkeypatch):
    """Of what both stages changed in the attention to media 65% are saved; texts without media stay."""
    from recipes.nano.stages import looking as stage

    unpack(PACKAGE, Recipe(), tmp_path)
    write_exercises(tmp_path / "exercises", {"train": 12, "dev": 2}, 0)
    for name in ("digits", "learned_before"):
        monkeypatch.setattr(stage, name, lambda *_: [])
    monkeypatch.setattr(stage, "exercises", lambda output: [f"{tmp_path}/exercises/train-*.tar"])
    for folder in ("exercises_json", "settled"):
        write_exercises(tmp_path / folder, {"train": 4}, 1)
    recipe = Recipe()
    recipe.looking.steps, recipe.looking.more_steps, recipe.thoughts.batch_size = 1, 1, 4
    stage.train_looking(recipe, tmp_path)
    stage.train_looking_more(recipe, tmp_path)
    before, first, last, made = (
        weights_of(mmlm.load(path))
        for path in (
            "nano",
            *(tmp_path / f"{name}/model" for name in ("looking", "looking_more/steps", "looking_more")),
        )
    )
    assert before.keys() == made.keys()
    for name, own in before.items():
        looks = name.startswith(("fusion.", "resamplers.image."))  # these exercises have no sound
        assert torch.equal(own, first[name]) != looks and torch.equal(first[name], last[name]) != looks, name
        share = 0.0 if ".ff." in name or name.endswith(".ff_gate") else 0.65
        torch.testing.assert_close(made[name], own + share * (last[name] - own))
    models = [mmlm.load(path) for path in ("nano", tmp_path / "looking_more/model")]
    for codes in (False, True):
        assert torch.equal(*(logits_of(model, [["a red ring"]], codes) for model in models))


class Scripted:
    """A model that writes, turn by turn, what a table has for the question; and keeps the prompts that it is given."""

    template = mmlm.PromptTemplate()

    def __init__(self, said):
        self.said, self.prompts = said, []

    def generate(self, prompts, **options):
        self.prompts += prompts
        own = (next(self.said[key] for key in self.said if key in str(prompt)) for prompt in prompts)
        return [SimpleNamespace(text=next(texts)) for texts in own]


def test_what_is_called_is_run_and_its_result_is_read():
    sheet = Image.new("RGB", (256, 256))
    sheet.paste((255, 0, 0), (13, 13, 77, 77))

    def asked(question, *content):
        return Exercise("zoom", "", (Turn("system", ("Tools: both",)), Turn("user", (*content, question))), "")

    times = '{"name": "calculator", "arguments": {"expression": "2*127"}}'
    model = Scripted({
        "sum": iter([f"two</think><tool_call>{times}</tool_call>", "254"]),
        "near": iter(['<tool_call>{"name": "zoom", "arguments": {"box": [0.05, 0.05, 0.3, 0.3]}}</tool_call>', "red"]),
        "wrong": iter(['<tool_call>{"name": "zoom", "arguments": {"box": [0.5, 0.5, 0.5]}}</tool_call>', "no idea"]),
        "plain": iter(["so</think>yes"]),
    })  # fmt: skip
    made = [asked("sum?"), asked("near?", sheet), asked("wrong?", sheet), asked("plain?")]
    done = solve(model, made, think=True)
    assert [one.answer for one in done] == ["254", "red", "no idea", "yes"]
    assert [len(one.calls) for one in done] == [1, 1, 1, 0]
    assert done[0].calls[0][1] == "254" and done[2].calls[0][1] == "error"
    near = done[1].calls[0][1].source
    assert near.size == (64, 64) and near.getcolors() == [(64 * 64, (255, 0, 0))]
    assert all(prompt[0] == "Tools: both\n" and prompt[-1] == Markup("<think>") for prompt in model.prompts)
