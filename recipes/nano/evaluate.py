"""The tables of docs/nano.md, printed: every figure beside the same model given the wrong picture.

    python -m recipes.nano.evaluate                  # the shipped weights; a few minutes on a CPU
    python -m recipes.nano.evaluate --model runs/nano/adapters_settled/model

Scenes are drawn anew, from the seed that training's held-out splits have. A wrong picture is the next one of the set.
"""

from __future__ import annotations

import argparse
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import mmlm
from mmlm.data import RecordSet, read_records
from mmlm.evaluation.gap import medium_gap
from mmlm.model.language_model import LanguageModel
from recipes.nano import data
from recipes.nano.judge import judge_caption
from recipes.nano.scenes import Scene, box
from recipes.nano.wording import NUMBERS, phrases, thing_by_thing
from recipes.pretrain.clip import patch_weights

SCENES = {"dev": 1000, "unseen": 500}
TITLES = {"dev": "scenes of unseen layouts", "unseen": "scenes with an unseen colour-shape pair"}
LONGEST = 60  # tokens of an answer or a caption


@dataclass(frozen=True)
class Asked:
    """A question about picture number `picture`; `topic` names its row in the table."""

    picture: int
    topic: str
    question: str
    answer: str


def evaluate(model: mmlm.MultimodalLM, sets: Path | None, scenes: dict[str, int] = SCENES, seed: int = 0) -> None:
    """Print all tables. `scenes`: how many of each held-out split."""
    for split, count in scenes.items():
        evaluate_scenes(model, split, count, seed)
    evaluate_eyes(model, scenes, seed)
    evaluate_reading(model, scenes, seed)
    if sets is None:
        return
    for name in ("easy_vqa", "nlvr"):
        train, dev = (read_records(sets / name / f"{split}-*.tar") for split in ("train", "dev"))
        evaluate_questions(model, name, train, dev)
    evaluate_names(model, read_records(sets / "emoji/dev-*.tar"))


def evaluate_scenes(model: mmlm.MultimodalLM, split: str, count: int, seed: int) -> None:
    pictures, records = zip(*(data.scene_example(split, index, seed) for index in range(count)), strict=True)
    features = model.encode_media(pictures)
    scenes = [Scene.from_dict(record["scene"]) for record in records]
    title(f"{TITLES[split]} ({count})")
    own, other = (
        [judge_caption(text, scene).correct for text, scene in zip(write(model, shown), scenes, strict=True)]
        for shown in (features, rolled(features))
    )
    row("captions with every attribute right", count, share(own), None, share(other))
    for things in (1, 2, 3, 4):
        chosen = [index for index, scene in enumerate(scenes) if len(scene.things) == things]
        right, blind = (share(judged[index] for index in chosen) for judged in (own, other))
        row(f"captions: {NUMBERS[things]} thing{'s' * (things > 1)}", len(chosen), right, None, blind)
    asked = [
        Asked(number, qa["topic"], qa["question"], qa["answers"][0])
        for number, record in enumerate(records)
        for qa in record["qa"]
    ]
    commonest = {
        topic: Counter(one.answer for one in asked if one.topic == topic).most_common(1)[0][0]
        for topic in {one.topic for one in asked}
    }
    print_answers(model, features, asked, [commonest[one.topic] for one in asked], "all questions")


def evaluate_questions(model: mmlm.MultimodalLM, name: str, train: RecordSet, dev: RecordSet) -> None:
    """Answers of a set; the commonest answer is the one that training gives to the very question, else to all."""
    features = model.encode_media([record.image for record in dev])
    known, overall = defaultdict(Counter), Counter()
    for record in train:
        for question, answer in record.qa:
            known[question][answer] += 1
            overall[answer] += 1
    asked = [
        Asked(number, "yes or no" if answer in ("yes", "no") else "other", question, answer)
        for number, record in enumerate(dev)
        for question, answer in record.qa
    ]
    title(f"{name} dev ({len(dev)} pictures)")
    majority = [known.get(one.question, overall).most_common(1)[0][0] for one in asked]
    print_answers(model, features, asked, majority, f"all questions of {name}")


def print_answers(
    model: mmlm.MultimodalLM, features: Sequence, asked: list[Asked], majority: list[str], total: str
) -> None:
    questions = [one.question for one in asked]
    own = reply(model, [features[one.picture] for one in asked], questions)
    wrong = rolled(features)
    other = reply(model, [wrong[one.picture] for one in asked], questions)
    topics = sorted({one.topic for one in asked})
    for topic in [*topics, None] if len(topics) > 1 else [None]:
        chosen = [index for index, one in enumerate(asked) if topic in (None, one.topic)]
        right, common, blind = (
            share(answers[index] == asked[index].answer for index in chosen) for answers in (own, majority, other)
        )
        row(f"questions: {topic}" if topic else total, len(chosen), right, common, blind)


def evaluate_eyes(model: mmlm.MultimodalLM, scenes: dict[str, int], seed: int) -> None:
    """The CLIP alone: what it says of each thing from the patch tokens of its cell, by its own text tower."""
    encoder = model.encoders["image"]
    title("the image encoder alone, each thing by its cell's patch tokens, without training")
    for split, count in scenes.items():
        pictures, records = zip(*(data.scene_example(split, index, seed) for index in range(count)), strict=True)
        tokens = [features.tokens[0].float() for features in model.encode_media(pictures)]
        drawn = [Scene.from_dict(record["scene"]) for record in records]
        things = [(number, thing) for number, scene in enumerate(drawn) for thing in scene.things]
        named = [phrases(thing.kind, thing.cell) for _, thing in things]
        weights = patch_weights(torch.tensor([box(thing.cell) for _, thing in things]), math.isqrt(len(tokens[0])))
        seen, wrong = (
            torch.stack([weight @ shown[number] for weight, (number, _) in zip(weights, things, strict=True)])
            @ encoder.model.visual.proj.float()
            for shown in (tokens, rolled(tokens))
        )
        for sort, name in enumerate(("shape", "size", "colour", "size, colour and shape", "place")):
            choices = sorted({own[sort] for own in named})
            texts = encoder.embed_texts(choices)
            right = torch.tensor([choices.index(own[sort]) for own in named])
            own, other = (((side @ texts.T).argmax(1) == right).tolist() for side in (seen, wrong))
            row(f"{TITLES[split]}: {name}, of {len(choices)}", len(things), share(own), None, share(other))


def evaluate_reading(model: mmlm.MultimodalLM, scenes: dict[str, int], seed: int) -> None:
    """The language model alone: the questions of the first table, asked after the scene has been told in words."""
    count = min(300, scenes["dev"])
    records = [data.scene_example("dev", index, seed)[1] for index in range(count)]
    told = [thing_by_thing(Scene.from_dict(r["scene"]), random.Random(f"{seed} {i}")) for i, r in enumerate(records)]
    title(
        "the language model alone, told in words of this scene or, last column, of another "
        f"(questions of {count} scenes of unseen layouts)"
    )
    asked = [(number, qa) for number, record in enumerate(records) for qa in record["qa"]]
    right, wrong = (
        read(model.language_model, [texts[number] for number, _ in asked], [qa["question"] for _, qa in asked])
        for texts in (told, rolled(told))
    )
    judged = [
        (qa["topic"], own == qa["answers"][0], other == qa["answers"][0])
        for (_, qa), own, other in zip(asked, right, wrong, strict=True)
    ]
    for topic in [*sorted({topic for topic, _, _ in judged}), None]:
        chosen = [(own, other) for name, own, other in judged if topic in (None, name)]
        name = f"questions: {topic}" if topic else "all questions"
        row(name, len(chosen), share(own for own, _ in chosen), None, share(other for _, other in chosen))


@torch.no_grad()
def read(host: LanguageModel, told: Sequence[str], questions: Sequence[str], batch_size: int = 64) -> list[str]:
    """Answers of the bare language model, greedy, to questions about what it has just been told."""
    tokenizer, end = host.tokenizer, host.tokenizer.eos_token
    texts = [
        f"{data.as_caption(text)}{end}{data.as_answer(question, '')}"
        for text, question in zip(told, questions, strict=True)
    ]
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    answers = [""] * len(texts)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = tokenizer([texts[i] for i in chosen], padding=True, padding_side="left", return_tensors="pt")
        written = host.model.generate(
            batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=12, do_sample=False
        )
        for index, ids in zip(chosen, written[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
            ids = ids[: ids.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in ids else ids
            answers[index] = tokenizer.decode(ids).strip()
    return answers


def evaluate_names(model: mmlm.MultimodalLM, dev: RecordSet) -> None:
    """Emoji names: exact, by words, and how much more likely the right picture makes them."""
    features = model.encode_media([record.image for record in dev])
    names = [record.captions[0] for record in dev]
    title(f"emoji dev ({len(dev)} pictures, names never seen in training)")
    own, other = write(model, features), write(model, rolled(features))
    for figure, measure in (("names exactly right", str.__eq__), ("words shared with the name (F1)", word_f1)):
        row(figure, len(dev), share(map(measure, own, names)), None, share(map(measure, other, names)))
    gap = medium_gap(model, dev, features={"image": features})
    print(
        f"\nLoss of the right names, nats a token: {gap.right:.3f} with the right picture, {gap.shuffled:.3f} with a "
        f"wrong one,\n{gap.without:.3f} with none; gap {gap.gap:.3f} (95% interval {gap.interval[0]:.3f} to "
        f"{gap.interval[1]:.3f})."
    )


def write(model: mmlm.MultimodalLM, features: Sequence) -> list[str]:
    return model.caption(list(features), batch_size=64, max_new_tokens=LONGEST)


def reply(model: mmlm.MultimodalLM, features: Sequence, questions: list[str]) -> list[str]:
    """Answers in the order of the questions; asked by length, so that batches hold little padding."""
    order = sorted(range(len(questions)), key=lambda index: len(questions[index]))
    answers = model.answer(
        [features[index] for index in order], [questions[index] for index in order], batch_size=64, max_new_tokens=20
    )
    found = [""] * len(questions)
    for index, answer in zip(order, answers, strict=True):
        found[index] = answer
    return found


def rolled(features: Sequence) -> list:
    return [*features[1:], features[0]]


def word_f1(said: str, name: str) -> float:
    """Harmonic mean of precision and recall over distinct words."""
    a, b = set(said.lower().split()), set(name.lower().split())
    return 2 * len(a & b) / max(1, len(a) + len(b))


def share(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def title(text: str, medium: str = "picture") -> None:
    print(f"\n### {text}\n\n| figure | n | right {medium} | commonest answer | wrong {medium} |")
    print("| --- | --- | --- | --- | --- |")


def row(name: str, count: int, own: float, commonest: float | None, other: float | None) -> None:
    common, wrong = ("" if value is None else f"{value:.1%}" for value in (commonest, other))
    print(f"| {name} | {count} | **{own:.1%}** | {common} | {wrong} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="a preset or a folder")
    arguments = parser.parse_args()
    evaluate(mmlm.load(arguments.model), data.sets_folder())


if __name__ == "__main__":
    main()
