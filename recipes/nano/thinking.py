"""The tables of docs/nano.md about thinking, tools, notes and JSON, printed: each figure beside the same without help.

    python -m recipes.nano.thinking                       # the shipped weights; about half an hour on a CPU
    python -m recipes.nano.thinking --model runs/nano/thoughts/model --count 200
    python -m recipes.nano.thinking --only json zoom

Everything is asked about scenes of layouts that training never draws. "Without" is the same model with the same
question, which answers at once: no thought, no tool, no note. "Wrong" has the help, and the picture, or the notes, of
the next exercise.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import mmlm
from recipes.nano import data
from recipes.nano.box_exercises import QUESTION, Drawn, box_picture, judging, read_nlvr
from recipes.nano.boxes import told_box
from recipes.nano.conversations import Exercise, Turn
from recipes.nano.evaluate import TITLES, share
from recipes.nano.exercises import exercise, scene_json
from recipes.nano.marks import THOUGHT
from recipes.nano.notes import every_fact, known_notes, written
from recipes.nano.scenes import Scene
from recipes.nano.solving import LONGEST, Solution, asked, solve

VOTES = 8
TEMPERATURE = 0.7
NOTES = 1000
TABLES = ("questions", "arithmetic", "zoom", "json", "pictures", "notes", "lookup", "boxes")
SHOWN = 4  # notes of those that are put into a prompt
Shown = Callable[[Sequence[Exercise]], list[Exercise]]


def evaluate(model: mmlm.MultimodalLM, count: int = 1000, seed: int = 0, only: Sequence[str] = TABLES) -> None:
    """Print tables: of `count` scenes with five questions each, and of half as many exercises of each kind."""
    for name in only:
        if name == "questions":
            evaluate_questions(model, "dev", count, seed)
            evaluate_questions(model, "unseen", count // 2, seed)
        elif name == "lookup":
            evaluate_lookup(model, count // 2, seed)
        elif name == "boxes":
            if (sets := data.sets_folder()) is not None:
                evaluate_boxes(model, read_nlvr(sets, "dev"))
        else:
            evaluate_kind(model, name, count // 2, seed)


def evaluate_questions(model: mmlm.MultimodalLM, split: str, count: int, seed: int) -> None:
    """The questions of docs/nano.md's first table, and votes on those of them that one thought gets wrong."""
    made = scene_exercises(split, count, seed)
    made += [one for one in comparisons(split, count, seed)]
    table(f"{TITLES[split]} ({count}): questions, with a thought")
    with_thought = right(solve(model, made, think=True), made)
    without, wrong = right(solve(model, made, think=False), made), right(solve(model, moved(made), think=True), made)
    for topic in [*sorted({one.topic for one in made}), None]:
        chosen = [
            i for i, one in enumerate(made) if (topic or one.topic) == one.topic and (topic or one.kind == "asked")
        ]
        line(f"questions: {topic}" if topic else "all questions", chosen, with_thought, without, wrong)
    table(f"votes of {VOTES} thoughts (temperature {TEMPERATURE}), on questions of which one thought is wrong")
    failed = [one for one, own in zip(made, with_thought, strict=True) if not own][:200]
    if failed:
        voted, single = votes(model, failed, seed)
        line("right by vote; beside it, one sampled thought", list(range(len(failed))), voted, single, None)


def scene_exercises(split: str, count: int, seed: int) -> list[Exercise]:
    """The questions of `recipes.nano.evaluate` as exercises."""
    found = []
    for index in range(count):
        picture, record = data.scene_example(split, index, seed)
        scene = Scene.from_dict(record["scene"])
        for qa in record["qa"]:
            found.append(
                Exercise("asked", qa["topic"], (Turn("user", (picture, qa["question"])),), qa["answers"][0], scene)
            )
    return found


def comparisons(split: str, count: int, seed: int) -> list[Exercise]:
    made = (exercise(split, index, seed, "thinking") for index in range(count))
    return [one for one in made if one.topic == "comparison"]


def evaluate_kind(model: mmlm.MultimodalLM, kind: str, count: int, seed: int) -> None:
    """One kind of exercise: by thought and tool, by the tool alone, by neither, and with the wrong picture or notes."""
    made = [exercise("dev", index, seed, kind, think=True) for index in range(count)]
    table(f"{kind} ({count})")
    every = list(range(count))
    if kind == "json":
        own, wrong = (solve(model, shown, think=False) for shown in (made, moved(made)))
        line("valid JSON, without a grammar", every, [valid(one.answer) for one in own], None, None)
        line("every attribute right", every, scenes_right(own, made), None, scenes_right(wrong, made))
        return
    solved = solve(model, made, think=True)
    helped = right(solved, made)
    alone = right(solve(model, made, think=False), made)
    bare = right(solve(model, made, think=False, tools=False), made) if kind in ("arithmetic", "zoom") else alone
    if kind == "notes":
        bare = right(solve(model, [without_notes(one) for one in made], think=True), made)
    shown = [*map(with_notes_of, made, [*made[1:], made[0]])] if kind == "notes" else moved(made)
    wrong = right(solve(model, shown, think=True), made)
    for topic in [*sorted({one.topic for one in made}), None]:
        chosen = [index for index, one in enumerate(made) if topic in (None, one.topic)]
        line(f"{kind}: {topic or 'all'}", chosen, helped, bare, wrong)
    line(f"{kind}: all, without a thought", every, alone, bare, None)
    if kind == "notes":
        cited = [own.answer == one.answer for own, one in zip(solved, made, strict=True)]
        line("notes: the right one is cited", every, cited, None, None)


def evaluate_lookup(model: mmlm.MultimodalLM, count: int, seed: int) -> None:
    """Questions that need one of a thousand notes: those found by shared words, those of another question, none."""
    rng = random.Random(f"{seed} notes")
    facts = every_fact()
    rng.shuffle(facts)
    known = known_notes(facts, rng)[:NOTES]
    texts, made = [text for text, *_ in known], []
    for text, fact, kind, own in rng.sample(known, min(count, NOTES)):
        question = fact.asked.format(thing=f"{kind.size} {kind.colour} {kind.shape}")
        found = nearest(texts, question)
        turns = (Turn("user", (written(found), question)),)
        made.append(Exercise("notes", "found" if text in found else "missed", turns, own))
    table(f"questions that need a note out of {len(texts)} ({len(made)})")
    helped = right(solve(model, made, think=True), made)
    bare = right(solve(model, [without_notes(one) for one in made], think=True), made)
    shown = [*map(with_notes_of, made, [*made[1:], made[0]])]
    line("answers right", list(range(len(made))), helped, bare, right(solve(model, shown, think=True), made))
    line("the note was found", list(range(len(made))), [one.topic == "found" for one in made], None, None)


def evaluate_boxes(model: mmlm.MultimodalLM, dev: Sequence[Drawn]) -> None:
    """NLVR's sentences about three boxes, each of which nano first tells in words, and then reads again."""
    boxes = [box_picture(picture, number) for _, _, picture, _ in dev for number in range(3)]
    said = list(map(str, model.answer(boxes, QUESTION, batch_size=48, max_new_tokens=LONGEST)))
    told = [said[start : start + 3] for start in range(0, len(said), 3)]
    truth = ["yes" if label else "no" for _, label, _, _ in dev]
    made, wrong, exact = (
        [judging(one[0], list(notes), answer) for one, notes, answer in zip(dev, own, truth, strict=True)]
        for own in (told, [*told[1:], told[0]], [[told_box(box) for box in one[3]] for one in dev])
    )
    whole = [model.template.question_prompt(one[2], f"Is this statement true? {one[0]}") for one in dev]
    bare = [str(answer) == own for answer, own in zip(model.generate(whole, batch_size=48), truth, strict=True)]
    every = list(range(len(dev)))
    table(f"nlvr dev ({len(dev)}), each box told first")
    own, other, known = (right(solve(model, shown, think=True), shown) for shown in (made, wrong, exact))
    line("sentences judged right", every, own, bare, other)
    line("the same without a thought", every, right(solve(model, made, think=False), made), bare, None)
    line("the same with a thought, boxes told by their pixels", every, known, None, None)
    correct = [a == told_box(box) for a, box in zip(said, (box for one in dev for box in one[3]), strict=True)]
    line("boxes told with nothing wrong", list(range(len(correct))), correct, None, None)


def nearest(texts: Sequence[str], question: str) -> list[str]:
    """The notes that share most words with a question, rare ones counting most."""
    spread = Counter(word for text in texts for word in set(text.rstrip(".").split()))
    words = set(question.rstrip("?").split())
    rated = sorted(texts, key=lambda text: -sum(1 / spread[word] for word in words & set(text.rstrip(".").split())))
    return rated[:SHOWN]


def votes(model: mmlm.MultimodalLM, made: Sequence[Exercise], seed: int) -> tuple[list[bool], list[bool]]:
    """Of each exercise whether the commonest answer of some sampled thoughts is right, and whether the first is."""
    prompts = [asked(model, one, think=True, tools=True) for one in made]
    written = model.generate(
        prompts, do_sample=True, temperature=TEMPERATURE, num_return_sequences=VOTES, max_new_tokens=LONGEST, seed=seed
    )
    said = [[result.text.rpartition(THOUGHT)[2].strip() for result in several] for several in written]
    voted = [Counter(answers).most_common(1)[0][0] == one.answer for answers, one in zip(said, made, strict=True)]
    return voted, [answers[0] == one.answer for answers, one in zip(said, made, strict=True)]


def moved(made: Sequence[Exercise]) -> list[Exercise]:
    """The exercises, each with the pictures of the next one that has as many."""
    found = []
    for index, one in enumerate(made):
        others = [*made[index + 1 :], *made[:index]]
        other = next((own for own in others if len(shown(own)) == len(shown(one)) and own.scene != one.scene), one)
        pictures = iter(shown(other))
        turns = tuple(
            replace(turn, content=tuple(part if isinstance(part, str) else next(pictures) for part in turn.content))
            if turn.role == "user"
            else turn
            for turn in one.turns
        )
        found.append(replace(one, turns=turns))
    return found


def shown(one: Exercise) -> list:
    """The pictures that a user shows."""
    return [part for turn in one.turns if turn.role == "user" for part in turn.content if not isinstance(part, str)]


def without_notes(one: Exercise) -> Exercise:
    return replace(one, turns=(replace(one.turns[0], content=one.turns[0].content[1:]), *one.turns[1:]))


def with_notes_of(one: Exercise, other: Exercise) -> Exercise:
    """An exercise with the notes of another one, which come first."""
    content = (other.turns[0].content[0], *one.turns[0].content[1:])
    return replace(one, turns=(replace(one.turns[0], content=content), *one.turns[1:]))


def right(solutions: Sequence[Solution], made: Sequence[Exercise]) -> list[bool]:
    """Whether each answer is right, whatever it cites."""
    return [uncited(own.answer) == uncited(one.answer) for own, one in zip(solutions, made, strict=True)]


def uncited(answer: str) -> str:
    return re.sub(r" \[\d+\]$", "", answer)


def valid(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def scenes_right(solutions: Sequence[Solution], made: Sequence[Exercise]) -> list[bool]:
    """Whether each JSON says the scene, whatever its spaces."""
    found = []
    for own, one in zip(solutions, made, strict=True):
        assert one.scene is not None, "scenes are told as JSON"
        found.append(valid(own.answer) and json.loads(own.answer) == json.loads(scene_json(one.scene)))
    return found


def table(text: str) -> None:
    print(f"\n### {text}\n\n| figure | n | with | without | wrong picture or note |\n| --- | --- | --- | --- | --- |")


def line(
    name: str, chosen: Sequence[int], own: Sequence[bool], without: Sequence[bool] | None, wrong: Sequence[bool] | None
) -> None:
    shares = (
        "" if column is None else f"{share(column[index] for index in chosen):.1%}" for column in (without, wrong)
    )
    print(
        f"| {name} | {len(chosen)} | **{share(own[index] for index in chosen):.1%}** | {' | '.join(shares)} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="a preset or a folder")
    parser.add_argument("--count", type=int, default=1000, help="scenes; the questions are five times as many")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=TABLES, help="these tables")
    arguments = parser.parse_args()
    evaluate(mmlm.load(arguments.model), arguments.count, only=arguments.only)


if __name__ == "__main__":
    main()
