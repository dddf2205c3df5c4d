"""`mmlm eval`: every figure of a model on a set of records, beside its control."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmlm.data import Record, read_records
from mmlm.evaluation.captions import CaptionScores, score_captions, scorers
from mmlm.evaluation.gap import PictureGap, derangement, encode_pictures, picture_gap
from mmlm.prompting.parts import Image

if TYPE_CHECKING:
    from encoders.base import Features
    from mmlm.assembly.multimodal_lm import MultimodalLM


@dataclass(frozen=True)
class AnswerScores:
    """Exact match, 0 to 1: with the right picture, with another record's, and of always giving the commonest answer."""

    right: float
    shuffled: float
    majority: float
    majority_answer: str
    count: int  # questions asked


@dataclass(frozen=True)
class Report:
    """What `evaluate` found; `print` it for the table."""

    loss: PictureGap
    answers: AnswerScores | None = None  # None where the data has no questions
    captions: CaptionScores | None = None  # None where the data has no captions
    shuffled_captions: CaptionScores | None = None
    bad_records: int = 0  # left out because they could not be read

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and texts, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        loss = self.loss
        lines = [
            f"{'':<34}{'right picture':>15}{'wrong picture':>15}{'no picture':>15}",
            f"{'loss, nats per answer token':<34}{loss.right:>15.3f}{loss.shuffled:>15.3f}{loss.without:>15.3f}",
        ]
        if self.answers:
            exact = self.answers
            lines.append(f"{f'exact match, {exact.count} questions':<34}{exact.right:>15.1%}{exact.shuffled:>15.1%}")
        if self.captions and self.shuffled_captions:
            right, wrong = self.captions, self.shuffled_captions
            lines += [
                f"{f'CIDEr, {right.count} pictures':<34}{right.cider:>15.3f}{wrong.cider:>15.3f}",
                f"{'BLEU-4':<34}{right.bleu4:>15.3f}{wrong.bleu4:>15.3f}",
                f"{'ROUGE-L':<34}{right.rouge_l:>15.3f}{wrong.rouge_l:>15.3f}",
            ]
        low, high = loss.interval
        lines.append(
            f"The right picture is worth {loss.gap:.3f} nats per token, 95% interval {low:.3f} to {high:.3f} "
            f"({loss.records} pictures, {loss.tokens} tokens)."
        )
        if self.answers:
            exact = self.answers
            lines.append(f"Always answering {exact.majority_answer!r} would match {exact.majority:.1%}.")
        if self.bad_records:
            lines.append(f"{self.bad_records} more records could not be read and were left out.")
        return "\n".join(lines)


def evaluate(
    model: MultimodalLM | str | Path,
    data: str | Path | Sequence[Record],
    *,
    limit: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    **generation: Any,
) -> Report:
    """Measure `model` on `data`, each figure beside the same model given wrong pictures.

    model: a model, or what `mmlm.load` takes. data: records, or what `mmlm.data.read_records` takes.
    limit: only the first so many records. generation: fields of `GenerationOptions` for the captions and answers.
    Captions are scored only where there are two captioned pictures or more, since CIDEr needs them.
    """
    if isinstance(model, (str, Path)):
        from mmlm.assembly.load import load

        model = load(model)
    if limit is not None and limit < 2:
        raise ValueError(f"limit must leave at least two records to compare, not {limit}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    everything = read_records(data)
    records = everything[:limit]
    captioned = [number for number, record in enumerate(records) if record.captions]
    if len(captioned) > 1:
        scorers()  # a missing extra is known now, not after the work
    features = encode_pictures(model, records, batch_size)
    loss = picture_gap(model, records, features=features, batch_size=batch_size, seed=seed)
    right, wrong = None, None
    if len(captioned) > 1:
        right, wrong = caption_scores(
            model, [records[i] for i in captioned], [features[i] for i in captioned], batch_size, seed, generation
        )
    answers = None
    if any(record.qa for record in records):
        answers = answer_scores(model, records, features, batch_size, seed, generation)
    return Report(loss, answers, right, wrong, len(everything.bad))


def caption_scores(
    model: MultimodalLM,
    records: Sequence[Record],
    features: Sequence[Features],
    batch_size: int,
    seed: int,
    generation: dict[str, Any],
) -> tuple[CaptionScores, CaptionScores]:
    """Scores of the captions against their own picture's references, and against another picture's."""
    captions = model.caption([Image(item) for item in features], batch_size=batch_size, **generation)
    references = [record.captions for record in records]
    wrong = derangement(len(records), seed)
    return score_captions(captions, references), score_captions(captions, [references[i] for i in wrong])


def answer_scores(
    model: MultimodalLM,
    records: Sequence[Record],
    features: Sequence[Features],
    batch_size: int,
    seed: int,
    generation: dict[str, Any],
) -> AnswerScores:
    """Exact match over every question of the records, after `normalize_answer` on both sides."""
    asked = [(number, *pair) for number, record in enumerate(records) for pair in record.qa]
    wrong = derangement(len(records), seed)
    expected = [normalize_answer(answer) for _, _, answer in asked]
    matched = []
    for picture_of in (range(len(records)), wrong):
        pictures = [Image(features[picture_of[number]]) for number, _, _ in asked]
        questions = [question for _, question, _ in asked]
        given = model.answer(pictures, questions, batch_size=batch_size, **generation)
        matched.append(sum(normalize_answer(a) == b for a, b in zip(given, expected, strict=True)) / len(asked))
    answer, count = Counter(expected).most_common(1)[0]
    return AnswerScores(matched[0], matched[1], count / len(asked), answer, len(asked))


def normalize_answer(answer: str) -> str:
    """Lower case, without punctuation at the edges of words, spaces collapsed: "A red  circle." → "a red circle"."""
    return " ".join(word for word in (re.sub(r"^\W+|\W+$", "", word) for word in answer.lower().split()) if word)
