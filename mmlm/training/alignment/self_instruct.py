"""Self-instruct: a model writes questions about pictures and answers them; what agrees with itself becomes data.

After Wang et al. 2022 (2212.10560): questions follow a few examples in the context, and near duplicates are dropped by
ROUGE-L. Answers are those of self-consistency (Wang et al. 2022, 2203.11171): asked again, without the examples,
several samples have to agree.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decoders.values import check_kinds
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data.media import find_media
from mmlm.data.records import FileSlice, Record, RecordSet
from mmlm.data.written import fields_of, suffix_of
from mmlm.generation.answers import normalized
from mmlm.generation.result import GenerationResult
from mmlm.prompting.parts import END_OF_CHUNK, Image
from mmlm.training.alignment.config import check
from mmlm.training.alignment.likeness import rouge_l, words_of
from mmlm.training.checks import check_output
from mmlm.training.reporting import counted

DROPPED = ("unfinished", "empty", "duplicate", "unanswered", "inconsistent")
"""Why a question is dropped: no end within its tokens; no words; as another one about its picture; its answers are
empty; they do not agree."""


@dataclass(frozen=True, kw_only=True)
class SelfInstructConfig:
    """How a model writes questions and answers.

    questions: sampled about each picture. shots: examples that stand before each, drawn anew for each picture.
    temperature: of the questions. question_tokens, answer_tokens: at most, of a question and of an answer.
    votes: samples that answer a question. agreement: the share of them that has to give the answer, compared as
        `mmlm evaluate` compares answers. answer_temperature: of these samples.
    alike: ROUGE-L (0–1) from which two questions about a picture are duplicates; the first one stays.
    batch_size: pictures at a time. seed: of all draws.
    """

    questions: int = 4
    shots: int = 3
    temperature: float = 1.0
    question_tokens: int = 48
    votes: int = 5
    agreement: float = 0.8
    answer_temperature: float = 0.7
    answer_tokens: int = 16
    alike: float = 0.7
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        check_kinds(self)
        for name in ("questions", "votes", "question_tokens", "answer_tokens", "batch_size"):
            check(self, name, getattr(self, name) >= 1, "must be at least 1")
        for name in ("shots", "seed"):
            check(self, name, getattr(self, name) >= 0, "must not be negative")
        for name in ("temperature", "answer_temperature"):
            check(self, name, 0 < getattr(self, name) < float("inf"), "must be above 0 and finite")
        for name in ("agreement", "alike"):
            check(self, name, 0 < getattr(self, name) <= 1, "must be above 0, and at most 1")


@dataclass(frozen=True)
class Instructions:
    """What a model wrote. data: a folder for `mmlm.train`, with records in its metadata.jsonl; records: those.

    counts: how many questions were "written", how many are "kept", and how many were dropped for each of DROPPED.
    """

    data: Path
    records: RecordSet
    counts: dict[str, int]


@dataclass(frozen=True)
class Asked:
    """A question about picture number `picture`."""

    picture: int
    question: str


def self_instruct(
    model: MultimodalLM,
    pictures: Any,
    examples: Sequence[tuple[str, str]],
    output: str | os.PathLike,
    *,
    progress: bool = True,
    config: SelfInstructConfig | None = None,
) -> Instructions:
    """Questions with answers that `model` writes about pictures, in the form that `mmlm train` reads.

    pictures: anything `mmlm.data.media.find_media` takes: folders, files, tars, records. examples: questions with
    answers, about other pictures, which show the model what is asked; of them it sees the texts alone.
    output: a new folder that gets `metadata.jsonl`, `counts.json`, and those pictures that are no files of their own.
    FileExistsError where it has such data; ValueError for too few examples or no pictures.
    """
    config, output = config or SelfInstructConfig(), check_output(output)
    if (path := output / "metadata.jsonl").exists():
        raise FileExistsError(f"{path} exists: name a new output, or remove it")
    if config.shots > len(examples):
        raise ValueError(f"{config.shots} shots need as many examples, not {len(examples)}: give more, or fewer shots")
    places = find_media(pictures, "image")
    counts: Counter[str] = Counter({name: 0 for name in ("written", "kept", *DROPPED)})
    starts = range(0, len(places), config.batch_size)
    found: list[Record] = []
    for start in counted(starts, "self-instruct", progress):
        shown = places[start : start + config.batch_size]
        sources = [place.read() if isinstance(place, FileSlice) else place for place in shown]
        pairs = written(model, sources, examples, config, start, counts)
        for number, place in enumerate(shown):
            if pairs[number]:
                found.append(Record(f"picture {start + number}", place, qa=tuple(pairs[number])))
    output.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(line, ensure_ascii=False) for line in _lines(found, output)]
    _write(output / "counts.json", json.dumps(counts, indent=2) + "\n")
    _write(path, "".join(f"{line}\n" for line in lines))
    return Instructions(output, RecordSet(tuple(found)), dict(counts))


def written(
    model: MultimodalLM,
    pictures: Sequence[bytes],
    examples: Sequence[tuple[str, str]],
    config: SelfInstructConfig,
    start: int,
    counts: Counter[str],
) -> list[list[tuple[str, str]]]:
    """The questions with answers about each of some pictures, of which the first is number `start`; adds to counts."""
    asked = list(finished(questions_about(model, pictures, examples, config, start), counts))
    if not asked:
        return [[] for _ in pictures]
    answers = model.answer(
        [pictures[one.picture] for one in asked],
        [one.question for one in asked],
        votes=config.votes,
        temperature=config.answer_temperature,
        max_new_tokens=config.answer_tokens,
        seed=_seed(config, "answers", start),
        details=True,
        batch_size=config.batch_size,
    )
    assert isinstance(answers, list), "several questions give several answers"
    return consistent(asked, answers, len(pictures), config, counts)  # pyright: ignore[reportArgumentType] - votes


def questions_about(
    model: MultimodalLM,
    pictures: Sequence[bytes],
    examples: Sequence[tuple[str, str]],
    config: SelfInstructConfig,
    start: int,
) -> list[list[GenerationResult]]:
    """What the model writes where a question stands, `config.questions` times for each picture."""
    before, after = model.template.question.split("{question}", 1)
    prompts = []
    for number, picture in enumerate(pictures, start):
        shown = random.Random(_seed(config, "shots", number)).sample(list(examples), config.shots)
        shots = [part for question, own in shown for part in (f"{before}{question}{after}{own}", END_OF_CHUNK)]
        prompts.append([*shots, Image(picture), *[before] * bool(before)])
    rows = model.generate(
        prompts,
        do_sample=True,
        temperature=config.temperature,
        num_return_sequences=config.questions,
        max_new_tokens=config.question_tokens,
        stop=[after.strip() or "\n"],
        seed=_seed(config, "questions", start),
        batch_size=config.batch_size,
    )
    assert isinstance(rows, list), "several prompts give several results"
    return [row if isinstance(row, list) else [row] for row in rows]


def finished(rows: Sequence[Sequence[GenerationResult]], counts: Counter[str]) -> Iterator[Asked]:
    """The questions that ended and say something, each once a picture; counts what is written and what is dropped."""
    for picture, row in enumerate(rows):
        known = set()
        for result in row:
            counts["written"] += 1
            question = " ".join(result.answer.split())
            words = words_of(question)
            if result.finish_reason != "stop":
                counts["unfinished"] += 1
            elif not words:
                counts["empty"] += 1
            elif words in known:
                counts["duplicate"] += 1
            else:
                known.add(words)
                yield Asked(picture, question)


def consistent(
    asked: Sequence[Asked],
    answers: Sequence[GenerationResult],
    pictures: int,
    config: SelfInstructConfig,
    counts: Counter[str],
) -> list[list[tuple[str, str]]]:
    """The questions of each picture whose answers agree, without near duplicates; counts what is kept and dropped.

    answers: to each question what was voted for. An attempt that says nothing counts against it.
    """
    found: list[list[tuple[str, str]]] = [[] for _ in range(pictures)]
    for one, voted in zip(asked, answers, strict=True):
        own, kept = normalized(voted.answer), found[one.picture]
        if not own:
            counts["unanswered"] += 1
        elif voted.votes[own] < config.agreement * config.votes:
            counts["inconsistent"] += 1
        elif any(rouge_l(words_of(one.question), words_of(other)) >= config.alike for other, _ in kept):
            counts["duplicate"] += 1
        else:
            counts["kept"] += 1
            kept.append((one.question, voted.answer.strip()))
    return found


def _lines(records: Sequence[Record], output: Path) -> Iterator[dict[str, Any]]:
    """The fields of each record; a picture that is no file of its own is written into the folder."""
    for number, record in enumerate(records):
        place = record.source
        assert place is not None, "each is about a picture"
        if isinstance(place, FileSlice) and place.whole:
            name = os.path.relpath(place.path, output)
        else:
            data = record.image
            name = f"{number:06d}.{suffix_of(place, data)}"
            (output / name).write_bytes(data)
        yield fields_of(record, [name], members=False)


def _write(path: Path, text: str) -> None:
    """Writes a file next to its place, then moves it there."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _seed(config: SelfInstructConfig, purpose: str, number: int) -> int:
    """A seed for each purpose and place, so that no two draw alike."""
    return random.Random(f"{config.seed} {purpose} {number}").getrandbits(31)
