"""A teacher: an assembled model, and how likely it finds each token of an answer, for a student to learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data.records import RecordSet
from mmlm.model.identity import identity_of
from mmlm.prompting.vocabulary import MediaVocabulary
from mmlm.training.alignment.config import DistillConfig
from mmlm.training.alignment.distances import bucketed
from mmlm.training.alignment.scored import answer_logits
from mmlm.training.identity import digest
from mmlm.training.precision import computing
from mmlm.training.rows import Ready


@dataclass(frozen=True)
class Shared:
    """The ids `[V]` of the tokens that student and teacher both know, in the same order.

    Language models of one tokenizer may have more or fewer spare rows behind its tokens, so that what is added to them
    has other ids; and they may hear or not.
    """

    student: list[int]
    teacher: list[int]

    @classmethod
    def of(cls, student: MediaVocabulary, teacher: MediaVocabulary) -> Shared:
        """Those of two vocabularies over one tokenizer."""
        both, plain = [own for own in student.tokens if own in teacher.tokens], min(student.offset, teacher.offset)
        student_ids, teacher_ids = ([*range(plain), *map(own.id, both)] for own in (student, teacher))
        return cls(student_ids, teacher_ids)

    def to_teacher(self, ids: Sequence[int]) -> list[int]:
        """Ids of the student as the teacher has them. ValueError for one that it does not know."""
        return _translated(ids, self._to_teacher)

    def to_student(self, ids: Sequence[int]) -> list[int]:
        """Ids of the teacher as the student has them. ValueError for one that it does not know."""
        return _translated(ids, self._to_student)

    @cached_property
    def _to_teacher(self) -> dict[int, int]:
        return dict(zip(self.student, self.teacher, strict=True))

    @cached_property
    def _to_student(self) -> dict[int, int]:
        return dict(zip(self.teacher, self.student, strict=True))


def _translated(ids: Sequence[int], known: dict[int, int]) -> list[int]:
    try:
        return [known[own] for own in ids]
    except KeyError as error:
        raise ValueError(f"the id {error} is of one model's vocabulary alone") from error


@dataclass(frozen=True)
class Target:
    """What a teacher says of N tokens: log-probabilities `[N, V]` of all tokens that both models know; or, with ids
    `[N, k]` (places among these), those of the likeliest k and, last, of all others together, `[N, k + 1]`."""

    log_probs: Tensor
    ids: Tensor | None = None

    def of(self, log_probs: Tensor) -> Tensor:
        """The log-probabilities of another model, `[N, V]`, in the same form."""
        return log_probs if self.ids is None else bucketed(log_probs, self.ids)

    def likeliest(self) -> Tensor:
        """The place of the likeliest token, `[N]`."""
        return self.log_probs.argmax(-1) if self.ids is None else self.ids[:, 0]


class Teacher:
    """A model that tells a student of its distributions. `identity` is that of all its weights and settings.

    shared: the tokens that it tells of.

    ValueError, before anything is computed, where it cannot teach this student.
    """

    def __init__(self, model: MultimodalLM, student: MultimodalLM, objective: DistillConfig, precision: str) -> None:
        check_teacher(student, model)
        self._model: MultimodalLM | None = model
        self.objective, self.precision = objective, precision
        self.shared = Shared.of(student.language_model.vocabulary, model.language_model.vocabulary)
        added = [(name, digest(tensor)) for name, tensor in sorted(model.added_parameters())]
        self.identity = digest(identity_of(model), str(model.language_model.dtype), added)

    @property
    def model(self) -> MultimodalLM:
        """The model, until it is released."""
        assert self._model is not None, "all that it is asked for is known when it is released"
        return self._model

    def release(self) -> None:
        """Gives the model up: its memory is free, unless somebody else holds it."""
        self._model = None

    @torch.no_grad()
    def target(self, ready: Sequence[Ready]) -> tuple[Target, list[int]]:
        """What it says of the learned tokens of all examples, row by row, and how many tokens each row has."""
        with computing(self.precision, self.model.device):
            logits, _, counts = answer_logits(self.model, ready)
        found = distribution(logits, self.shared.teacher, self.objective.temperature)
        if self.objective.top_k is None:
            return Target(found), counts
        ids = found.topk(min(self.objective.top_k, found.shape[1]), dim=-1).indices
        return Target(bucketed(found, ids), ids), counts


def distribution(logits: Tensor, ids: list[int], temperature: float) -> Tensor:
    """Log-probabilities `[N, V]` of the tokens `ids` among logits, at a temperature."""
    columns = torch.tensor(ids, device=logits.device)
    return (logits[:, columns] / temperature).log_softmax(-1)


def check_teacher(student: MultimodalLM, teacher: MultimodalLM) -> None:
    """ValueError, naming what differs, for a teacher with another tokenizer than the student's; and for itself."""
    if teacher is student:
        raise ValueError("the student is its own teacher: load the teacher as a second model")
    own, other = (model.processor.tokenizer for model in (student, teacher))
    ids, others = own.get_vocab(), other.get_vocab()
    if apart := sorted(token for token in ids.keys() | others.keys() if ids.get(token) != others.get(token)):
        some = ", ".join(f"{token!r} ({ids.get(token)}, {others.get(token)})" for token in apart[:3])
        raise ValueError(
            f"the teacher has another tokenizer than the student: {len(apart):,} tokens have not the same id, such as "
            f"{some}; distillation needs language models of one tokenizer"
        )


def check_perceives(teacher: MultimodalLM, records: RecordSet) -> None:
    """ValueError where records hold media that the teacher has no encoder for."""
    used = {modality for record in records for modality, _ in record.places}
    if lacking := sorted(used - set(teacher.encoders)):
        raise ValueError(
            f"the teacher has no {lacking[0]} encoder, and the data hold such media: choose another teacher, or data "
            "without them"
        )
