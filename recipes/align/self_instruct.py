"""Self-instruct on nano: what questions that a model wrote itself are worth beside those of people.

    python -m recipes.align.self_instruct --seed 0            # and 1, 2
    python -m recipes.align.self_instruct --trial             # few scenes and steps: whether it runs

New adapters between nano's frozen parts learn from drawn scenes with captions, and from a twentieth of their questions:
to answer them, and as documents in which the question is learned as well, since a model that only answers cannot ask.
They write questions and answers about all of the scenes, with that twentieth as the examples, and new adapters learn
from both. The controls learn from the twentieth alone, and from all questions. Each learns for as many steps, in which
captions and questions come equally often: fewer questions come round more often. Judged by greedy answers about other
scenes, exact match. What was written is judged by all that `recipes.nano.questions` asks about its scene; a further
control learns from what may be asked of it, with the right answers in place of the model's.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mmlm
from mmlm.data import Record, RecordSet, read_records
from mmlm.generation.answers import normalized
from mmlm.model.config import FusionConfig, ResamplerConfig
from mmlm.prompting import Image, PromptTemplate
from mmlm.training import TrainConfig
from mmlm.training.alignment.self_instruct import SelfInstructConfig, self_instruct
from recipes.nano.data import scene_example, write_scenes
from recipes.nano.questions import questions as questions_about
from recipes.nano.scenes import Scene

ROOT = Path(__file__).resolve().parents[2]
SHARE = 0.05  # of the questions, that are given
LONGEST = 16  # tokens of an answer
ASKED = 400  # times that all kinds of questions about a scene are drawn, for nearly all that may be asked
CONFIG = TrainConfig(
    batch_size=32, learning_rate=4e-3, optimizer="muon", eval_every=10**6, save_every=200, keep=1, keep_best=False
)

# Questions at a low temperature are well formed; answers on which all attempts agree are right more often.
WRITING = SelfInstructConfig(temperature=0.7, votes=8, agreement=1.0)


@dataclass(frozen=True)
class Sizes:
    """Scenes to learn from and to judge by, and the steps of each training."""

    training: int = 2000
    held_out: int = 300
    steps: int = 400


TRIAL = Sizes(24, 8, 3)


def few_of(records: RecordSet, share: float, seed: int) -> RecordSet:
    """A record for each of a share of the questions, drawn by lot."""
    asked = questions_of(records)
    return RecordSet(tuple(random.Random(f"{seed} few").sample(asked, max(1, round(share * len(asked))))))


def questions_of(records: Sequence[Record]) -> list[Record]:
    """A record for each question, without captions."""
    return [replace(record, captions=(), qa=(pair,)) for record in records for pair in record.qa]


def documents_of(records: Sequence[Record]) -> list[Record]:
    """Documents, a picture and its question with the answer, of which all text is learned."""
    form = PromptTemplate().question
    found = []
    for record in records:
        assert record.source is not None, "each question is about a picture"
        texts = (form.format(question=question) + answer for question, answer in record.qa)
        found += [Record(f"{record.key} document", document=(Image(record.source), text)) for text in texts]
    return found


@dataclass(frozen=True)
class Corrected:
    """A question that was written and may be asked about its training scene. record: with the right answer."""

    record: Record
    topic: str
    was_right: bool


def corrected(written: Path) -> list[Corrected]:
    """What may be asked of the questions that were written."""
    found = []
    lines = map(json.loads, (written / "metadata.jsonl").read_text().splitlines())
    for record, line in zip(read_records(written).records, lines, strict=True):
        number = int(line["id"].split()[-1])
        scene = Scene.from_dict(scene_example("train", number, 0)[1]["scene"])
        rng = random.Random(number)
        known = {own.question: own for _ in range(ASKED) for own in questions_about(scene, rng)}
        for question, answer in record.qa:
            if own := known.get(question):
                right = normalized(own.answer) == normalized(answer)
                found.append(Corrected(replace(record, qa=((question, own.answer),)), own.topic, right))
    return found


def told(known: Sequence[Corrected]) -> None:
    """Print how many of them were answered rightly, and what they are about."""
    right = sum(own.was_right for own in known)
    print(f"{len(known)} of them may be asked about their scenes, and {right} of these were answered rightly")
    print("| about | questions | answered rightly |\n| --- | --- | --- |")
    for topic, count in Counter(own.topic for own in known).most_common():
        good = sum(own.was_right for own in known if own.topic == topic)
        print(f"| {topic} | {count} | {good / count:.1%} |")


def mixed(records: RecordSet, questions: Sequence[Record]) -> RecordSet:
    """Captions of the records and questions, the fewer repeated until both are equally many."""
    described = [replace(record, qa=()) for record in records]
    count = max(len(described), len(questions))
    return RecordSet(tuple(own[place % len(own)] for own in (described, questions) for place in range(count)))


def taught(records: RecordSet, questions: Sequence[Record], output: Path, steps: int, seed: int) -> mmlm.MultimodalLM:
    """New adapters, taught; a finished run is loaded."""
    if not (output / "done").exists():
        model = mmlm.assemble(
            "preset:nano/language_model",
            "preset:nano/image_encoder",
            resampler=ResamplerConfig(depth=0),
            fusion=FusionConfig(heads=8, dim_head=32),
            seed=seed,
        )
        own: dict = dict(config=CONFIG, steps=steps, seed=seed, cache=str(output.parent / "features"), progress=False)
        mmlm.train(model, mixed(records, questions), output=output, **own)
        (output / "done").touch()
    return mmlm.load(output / "model")


def exact(model: mmlm.MultimodalLM, records: Sequence[Record]) -> float:
    """The share of greedy answers that are those of the records."""
    asked = questions_of(records)
    said = model.answer(
        [record.image for record in asked], [record.qa[0][0] for record in asked], max_new_tokens=LONGEST, batch_size=64
    )
    assert isinstance(said, list), "several questions give several answers"
    right = (normalized(str(own)) == normalized(record.qa[0][1]) for own, record in zip(said, asked, strict=True))
    return sum(right) / len(asked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trial", action="store_true", help="few scenes and steps")
    parser.add_argument("--output", type=Path, default=ROOT / "runs/self-instruct")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--questions", type=int, default=8, help="written about each scene")
    parser.add_argument("--shots", type=int, default=2, help="examples before each")
    given = parser.parse_args()
    sizes = TRIAL if given.trial else Sizes()
    scenes = given.output / f"scenes-{sizes.training}"
    write_scenes(scenes, {"train": sizes.training, "dev": sizes.held_out}, seed=0)
    training, held_out = (read_records(scenes / f"{split}-*.tar") for split in ("train", "dev"))
    few = few_of(training, SHARE, given.seed)
    output = given.output / f"{sizes.training}-{sizes.steps}-seed{given.seed}"
    asking = [*few.records, *documents_of(few.records)]
    teacher = taught(training, asking, output / "asking", sizes.steps, given.seed)

    own = output / f"written-{given.questions}-{given.shots}"
    if not (own / "metadata.jsonl").exists():
        config = replace(WRITING, questions=given.questions, shots=given.shots, seed=given.seed)
        self_instruct(teacher, training, [record.qa[0] for record in few], own, config=config)
    counts = json.loads((own / "counts.json").read_text())
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    written = questions_of(read_records(own).records) if counts["kept"] else []
    known = corrected(own) if written else []
    told(known)
    learned = {
        "a twentieth": (few.records, "few"),
        "and what it wrote": ([*few.records, *written], f"few-and-{own.name}"),
        "and what may be asked of it, answered rightly": (
            [*few.records, *(one.record for one in known)],
            f"few-and-{own.name}-corrected",
        ),
        "all": (questions_of(training), "all"),
    }
    shares = {}
    print("| learned from | questions | exact match |\n| --- | --- | --- |")
    for name, (asked, folder) in learned.items():
        model = taught(training, asked, output / folder, sizes.steps, given.seed)
        shares[name] = exact(model, held_out.records)
        print(f"| {name} | {len(asked):,} | {shares[name]:.1%} |", flush=True)
    gap = shares["all"] - shares["a twentieth"]
    if gap > 0:
        print(f"of the gap {(shares['and what it wrote'] - shares['a twentieth']) / gap:.0%} closed")


if __name__ == "__main__":
    main()
