"""`mmlm eval`: the figures of a model on a set of records, each beside that of a control."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

from mmlm.data import Record, RecordSource, read_records
from mmlm.evaluation.captions import CaptionScores, score_captions, scorers
from mmlm.evaluation.gap import PictureGap, derangement, picture_gap
from mmlm.generation.options import GenerationKeywords, takes_options
from mmlm.prompting.parts import Image

if TYPE_CHECKING:
    from encoders.base import Features
    from mmlm.assembly.multimodal_lm import MultimodalLM

BAD_LIMIT = 0.01  # the share of bad records that is left out without an error, as `read_records` has it


@dataclass(frozen=True)
class AnswerScores:
    """Exact match, 0 to 1: with the right picture, with another record's, and of always giving the commonest answer.

    `majority` is the last of the three.
    """

    right: float
    shuffled: float
    majority: float
    majority_answer: str
    count: int  # questions asked


@dataclass(frozen=True)
class Report:
    """What `evaluate` measured. `print` shows it as a table."""

    loss: PictureGap
    answers: AnswerScores | None = None  # None where the data has no questions
    captions: CaptionScores | None = None  # None where the data has no captions
    shuffled_captions: CaptionScores | None = None
    bad_records: int = 0  # left out because they could not be read

    def to_dict(self) -> dict[str, Any]:
        """Numbers and texts alone, for JSON."""
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
                f"{'ROUGE-L':<34}{right.rouge_l:>15.3f}{wrong.rouge_l:>15.3f}",
            ]
            if right.bleu4 is not None and wrong.bleu4 is not None:
                lines.append(f"{'BLEU-4':<34}{right.bleu4:>15.3f}{wrong.bleu4:>15.3f}")
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


@takes_options
def evaluate(
    model: MultimodalLM | str | Path | Callable[[], MultimodalLM],
    data: RecordSource,
    *,
    limit: int | None = None,
    batch_size: int = 32,
    **generation: Unpack[GenerationKeywords],
) -> Report:
    """Measure `model` on `data`, each figure beside that of the same model with wrong pictures.

    model: a model, what `mmlm.load` takes, or a function that loads one: after everything else has been checked.
    data: records, or what `mmlm.data.read_records` takes. Pictures that cannot be decoded are bad records, too.
    limit: use only the first `limit` records, at least 2.
    generation: options of the captions and answers, by the names of `GenerationOptions`. `seed` also draws the wrong
        pictures and the interval; it is 0 by default.
    Captions are scored only where two or more pictures have captions, because CIDEr needs them.
    """
    if limit is not None and limit < 2:
        raise ValueError(f"limit must leave at least two records to compare, not {limit}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if generation.get("num_return_sequences", 1) != 1:
        raise ValueError("num_return_sequences must be 1: one text per picture is scored")
    seed = generation.get("seed") or 0
    generation["seed"] = seed
    everything = read_records(data)
    if sum(bool(record.captions) for record in everything[:limit]) > 1:
        scorers()  # fails now if pycocoevalcap is missing, not after the work
    model = _loaded(model)
    features, bad = _encoded(model, everything[:limit], batch_size)
    left_out = everything.without(bad).check(BAD_LIMIT).bad
    records = [record for number, record in enumerate(everything[:limit]) if number not in bad]
    captioned = [number for number, record in enumerate(records) if record.captions]
    loss = picture_gap(model, records, features=features, batch_size=batch_size, seed=seed)
    right, wrong = None, None
    if len(captioned) > 1:
        pictures: list[Any] = [Image(features[number]) for number in captioned]
        captions = cast("list[str]", model.caption(pictures, batch_size=batch_size, **generation))
        right, wrong = caption_scores(captions, [records[number].captions for number in captioned], seed)
    answers = None
    if any(record.qa for record in records):

        def answer(pictures: list[Any], questions: list[str]) -> list[str]:
            return cast("list[str]", model.answer(pictures, questions, batch_size=batch_size, **generation))

        answers = answer_scores(answer, records, features, seed)
    return Report(loss, answers, right, wrong, len(left_out))


def _loaded(model: MultimodalLM | str | Path | Callable[[], MultimodalLM]) -> MultimodalLM:
    if isinstance(model, (str, Path)):
        from mmlm.assembly.load import load

        return load(model)
    return cast("MultimodalLM", model() if inspect.isfunction(model) else model)


def _encoded(model: MultimodalLM, records: Sequence[Record], batch_size: int) -> tuple[list[Features], dict[int, str]]:
    """Features of the pictures that can be decoded, and why the others, by their number, cannot."""
    features: list[Features] = []
    bad: dict[int, str] = {}
    for start in range(0, len(records), batch_size):
        pictures = []
        for index, record in enumerate(records[start : start + batch_size], start):
            try:
                pictures.append(Image(record.decode()))
            except ValueError as error:
                bad[index] = str(error)
        features += model.encode_media(pictures)
    return features, bad


def caption_scores(
    captions: Sequence[str], references: Sequence[Sequence[str]], seed: int
) -> tuple[CaptionScores, CaptionScores]:
    """Scores of the captions against the references of their own pictures, and against those of other pictures."""
    wrong = derangement(len(references), seed)
    return score_captions(captions, references), score_captions(captions, [references[number] for number in wrong])


def answer_scores(
    answer: Callable[[list[Any], list[str]], list[str]],
    records: Sequence[Record],
    features: Sequence[Features],
    seed: int,
) -> AnswerScores:
    """Exact match over all questions of the records. `normalize_answer` is applied to both sides.

    answer: (pictures, questions) → answers. features: of each record's picture.
    """
    asked = [(number, *pair) for number, record in enumerate(records) for pair in record.qa]
    questions = [question for _, question, _ in asked]
    expected = [normalize_answer(text) for _, _, text in asked]
    matched = []
    for picture_of in (range(len(records)), derangement(len(records), seed)):
        given = answer([Image(features[picture_of[number]]) for number, _, _ in asked], questions)
        matched.append(sum(normalize_answer(a) == b for a, b in zip(given, expected, strict=True)) / len(asked))
    commonest, count = Counter(expected).most_common(1)[0]
    return AnswerScores(matched[0], matched[1], count / len(asked), commonest, len(asked))


def normalize_answer(answer: str) -> str:
    """In lower case, no punctuation at the edges of words, single spaces: "A red  circle." → "a red circle"."""
    return " ".join(word for word in (re.sub(r"^\W+|\W+$", "", word) for word in answer.lower().split()) if word)
