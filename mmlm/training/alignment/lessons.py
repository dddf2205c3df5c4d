"""Lessons: answers as student and teacher read them, and what the teacher says of them, computed once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data.cache import TensorCache
from mmlm.prompting.processor import IGNORE_INDEX, Example
from mmlm.training.alignment.config import AlignConfig, DistillConfig, RolloutConfig
from mmlm.training.alignment.rollouts import Prompt, Writer, text_prompt
from mmlm.training.alignment.teacher import Target, Teacher, check_perceives
from mmlm.training.config import TrainConfig
from mmlm.training.examples import Examples, prepare, usable_records
from mmlm.training.identity import digest
from mmlm.training.precision import computing, resolve
from mmlm.training.ranks import gathered, is_first, own
from mmlm.training.reporting import Counter
from mmlm.training.rows import Ready
from mmlm.training.shuffle import generator


@dataclass(frozen=True)
class Lesson:
    """An answer with what comes before it, as student and as teacher read it.

    target: what the teacher says of it, where that is known; it does not read it then.
    """

    student: Ready
    teacher: Ready | None = None
    target: Target | None = None


@dataclass(frozen=True)
class Lessons(Sequence[Lesson]):
    """A lesson for each text of each record; their media are encoded, by each model's own encoders.

    examples, others: the records as the student and as the teacher have them; entries: the numbers of a record in both,
    and of its text. digest: of texts and media. known: what the teacher said of them. sampled: answers are those that
    it wrote.
    """

    student: MultimodalLM
    teacher: Teacher
    examples: Examples
    others: Examples
    entries: tuple[tuple[int, int, int], ...]
    digest: str
    known: TensorCache | None = None
    sampled: bool = False

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index):  # noqa: ANN001, ANN204 - as Sequence has it
        answer = self.known[_named(index, "answer")].tolist() if self.sampled and self.known else None
        if self.known is None or not self.told:
            return self.given(index) if answer is None else self.answered(index, answer)
        log_probs, ids = self.known[_named(index, "log_probs")], self.known[_named(index, "ids")]
        read = self._read(index) if answer is None else self.prompt(index).answered(answer)
        return Lesson(read, target=Target(log_probs.float().log_softmax(-1), ids.long()))

    @property
    def told(self) -> bool:
        """Whether all is known that the teacher has to say."""
        return self.known is not None and self.teacher.objective.top_k is not None

    def first(self, count: int) -> Lessons:
        """The first of them, at most so many."""
        return replace(self, entries=self.entries[:count])

    def _read(self, index: int) -> Ready:
        record, _, text = self.entries[index]
        return self.examples.ready([(record, text)])[0]

    def given(self, index: int) -> Lesson:
        """The lesson of the answer that the data give. ValueError where the two models write it in other tokens."""
        record, other, text = self.entries[index]
        own, (theirs,) = self._read(index), self.others.ready([(other, text)])
        if self.teacher.shared.to_teacher(_learned(own.example)) != _learned(theirs.example):
            raise ValueError(
                f"record {self.examples.records[record].key!r}: the teacher writes its answer in other tokens; give "
                "both models the same chat template, or documents that fit into the positions of both"
            )
        return Lesson(own, theirs)

    def prompt(self, index: int) -> Prompt:
        """What comes before the answer, in a conversation before the last one, as the student reads it."""
        record, _, text = self.entries[index]
        return text_prompt(self.student, self.examples, record, text)

    def asked(self, index: int) -> Prompt:
        """The same as the teacher reads it."""
        _, other, text = self.entries[index]
        return text_prompt(self.teacher.model, self.others, other, text)

    def answered(self, index: int, ids: Sequence[int]) -> Lesson:
        """The lesson of another answer, given as the student's ids."""
        theirs = self.asked(index).answered(self.teacher.shared.to_teacher(ids))
        return Lesson(self.prompt(index).answered(ids), theirs)


def _learned(example: Example) -> list[int]:
    """The ids whose distributions are learned: nothing comes before the first."""
    return [own for own in example.labels[1:] if own != IGNORE_INDEX]


def _named(index: int, part: str) -> str:
    return f"{index} {part}"


def read_lessons(
    student: MultimodalLM, teacher: Teacher, data: Any, cache: Path, config: AlignConfig, progress: bool, images: Any
) -> Lessons:
    """The lessons of records that both models can read. ValueError where there are media that one has no encoder for;
    BadRecordsError where too many are bad."""
    settings = TrainConfig(bad_limit=config.bad_limit)
    given: dict[str, Any] = dict(cache=cache, config=settings, progress=progress)
    records = usable_records(student, data, settings, images)
    check_perceives(teacher.model, records)
    examples = prepare(student, usable_records(teacher.model, records, settings), **given)
    others = prepare(teacher.model, examples.records, **given)
    places = {id(record): place for place, record in enumerate(others.records)}
    entries = tuple(
        (index, places[id(record)], text)
        for index, record in enumerate(examples.records)
        if id(record) in places
        for text in range(len(record.texts))
    )
    if teacher.objective.on != "data" and any(record.document for record in examples.records):
        raise ValueError(f"on: {teacher.objective.on} has answers sampled, and the data hold documents: give on: data")
    return Lessons(student, teacher, examples, others, entries, digest(examples.fingerprint(), entries))


def writer_of(model: MultimodalLM, ids: list[int], objective: DistillConfig, config: AlignConfig) -> Writer:
    """What samples answers, at the temperature of the objective. ids: the tokens that both models know."""
    settings = RolloutConfig(max_new_tokens=objective.max_new_tokens, temperature=objective.temperature)
    writer = Writer(model, settings, config.max_seconds)
    unknown = torch.ones_like(writer.never)
    unknown[ids] = False
    writer.never |= unknown
    return writer


@torch.no_grad()
def taught(lessons: Lessons, sampled: bool, cache: Path, config: AlignConfig, progress: bool) -> Lessons:
    """The lessons with what the teacher says of them, and with answers that it samples, from the cache or computed now.

    Batches are of the same lessons for any number of processes, which share the work: what is made anew has the same
    bits.
    """
    teacher, objective = lessons.teacher, lessons.teacher.objective
    parts = ["answer"] * sampled + ["log_probs", "ids"] * (objective.top_k is not None)
    if not parts:
        return lessons
    draws = (config.seed, objective.max_new_tokens, config.batch_size) if sampled else ()
    precision = resolve(config.precision, teacher.model.device)
    told = (objective.temperature, objective.top_k, precision, draws, teacher.shared)
    folder = cache / f"teacher-{digest(teacher.identity, lessons.digest, *told)}"
    known, size = TensorCache(folder), config.batch_size
    chunks = [range(len(lessons))[start : start + size] for start in range(0, len(lessons), size)]
    writer = writer_of(teacher.model, teacher.shared.teacher, objective, config) if sampled else None
    mine = own(list(enumerate(chunks)))
    with Counter(len(mine), "batches of the teacher", progress and is_first()) as counter:
        for number, chunk in mine:
            counter.update()
            if all(_named(index, part) in known for index in chunk for part in parts):
                continue
            batch = [lessons.given(index) for index in chunk] if writer is None else []
            if writer is not None:
                for index, ids in zip(chunk, _sampled(lessons, writer, chunk, number, config), strict=True):
                    known.add(_named(index, "answer"), torch.tensor(ids, dtype=torch.int32))
                    batch.append(lessons.answered(index, ids))
            if objective.top_k is not None:
                _keep(known, teacher, chunk, batch)
    known.flush()
    gathered(None)  # until all have written theirs
    return replace(lessons, known=TensorCache(folder), sampled=sampled)


def _sampled(lessons: Lessons, writer: Writer, chunk: range, number: int, config: AlignConfig) -> list[list[int]]:
    """What the teacher answers, as the student's ids."""
    seed = generator(config.seed, 5, number).initial_seed()
    with computing(config.precision, writer.model.device):
        rows = writer.write([lessons.asked(index) for index in chunk], seed, 1)
    return [lessons.teacher.shared.to_student(row[0].token_ids) for row in rows]


def _keep(known: TensorCache, teacher: Teacher, chunk: range, batch: Sequence[Lesson]) -> None:
    target, counts = teacher.target([lesson.teacher for lesson in batch if lesson.teacher is not None])
    assert target.ids is not None, "with top_k the likeliest are told apart"
    said = zip(chunk, target.log_probs.split(counts), target.ids.split(counts), strict=True)
    for index, log_probs, ids in said:
        known.add(_named(index, "log_probs"), log_probs.half())
        known.add(_named(index, "ids"), ids.int())


def joined(targets: Sequence[Target], device: torch.device) -> Target:
    """The targets of several rows as one. They have as many columns each."""

    def whole(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts)).to(device)

    ids = [target.ids for target in targets if target.ids is not None]
    return Target(whole([target.log_probs for target in targets]), whole(ids) if ids else None)
