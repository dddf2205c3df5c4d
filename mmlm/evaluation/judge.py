"""A suite's figures from what was predicted, whoever predicted it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from mmlm.evaluation.cases import Case, Key, SuiteName
from mmlm.evaluation.metrics.bleu import ORDER, bleu
from mmlm.evaluation.metrics.cider import cider
from mmlm.evaluation.metrics.exact import exact_match
from mmlm.evaluation.metrics.measure import Measure
from mmlm.evaluation.metrics.meteor import has_java, meteor
from mmlm.evaluation.metrics.rouge import rouge_l
from mmlm.evaluation.metrics.tokens import paired
from mmlm.evaluation.metrics.upstream import check_scorers
from mmlm.evaluation.metrics.vqa import FEWEST, vqa_accuracy, vqa_match
from mmlm.evaluation.metrics.words import character_errors, check_distance, word_errors

if TYPE_CHECKING:
    from encoders.clip import ClipImageEncoder

NO_PREDICTION = "no prediction"
NO_BLEU = "No caption, or no reference, has more than {} words, so BLEU of higher orders is left out."
NO_VQA = f"VQA accuracy is left out: it needs {FEWEST} answers or more to each question, as VQAv2's annotations have."
NO_JAVA = "METEOR is left out: it needs Java, and there is no `java` here."


@dataclass(frozen=True)
class Figure:
    """One metric with its 95% interval, a bootstrap over the units of the cases."""

    name: str
    value: float
    low: float
    high: float
    lower_is_better: bool


@dataclass(frozen=True)
class Item:
    """One case with what was predicted and its score by each metric. made: a picture that was drawn, as PNG."""

    case: Case
    predicted: str
    scores: dict[str, float]
    made: bytes | None = None

    def to_dict(self) -> dict[str, Any]:
        """Numbers and texts alone, for JSON; a score that an item has not by itself is left out."""
        case = self.case
        scores = {name: value for name, value in self.scores.items() if math.isfinite(value)}
        found = {"key": case.key, "question": case.question, "predicted": self.predicted, "expected": case.expected}
        return {name: value for name, value in (found | {"scores": scores}).items() if value is not None}


@dataclass(frozen=True)
class Judgement:
    """A suite's figures, the first of which ranks the items.

    expected: cases of the references. used: those that are judged. left_out: why the others are not, by key.
    """

    suite: SuiteName
    figures: tuple[Figure, ...]
    items: tuple[Item, ...]
    expected: int
    left_out: Mapping[Key, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def used(self) -> int:
        """How many cases are judged."""
        return len(self.items)

    def to_dict(self) -> dict[str, Any]:
        """Figures and counts, for JSON."""
        return {
            "suite": self.suite,
            "expected": self.expected,
            "used": self.used,
            "figures": [asdict(figure) for figure in self.figures],
            "left_out": [{"key": key, "reason": reason} for key, reason in self.left_out.items()],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        head = f"{self.suite}: {self.used} of {self.expected} expected items"
        names = [f"  {own.name}{' (lower is better)' if own.lower_is_better else ''}" for own in self.figures]
        width = max(map(len, [head, *names])) + 2
        lines = [f"{head:<{width}}  value   95% interval"]
        for name, own in zip(names, self.figures, strict=True):
            lines.append(f"{name:<{width}}{own.value:>7.3f}   {own.low:.3f} to {own.high:.3f}")
        if self.left_out:
            key, reason = next(iter(self.left_out.items()))
            lines.append(f"  {len(self.left_out)} left out; first {key}: {reason}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def check_suite(suite: SuiteName) -> None:
    """`ImportError`, with the extra to install, where a suite's metrics need a package that is missing."""
    if suite == "captions":
        check_scorers()
    if suite == "asr":
        check_distance()


def judge(
    suite: SuiteName,
    cases: Sequence[Case],
    predictions: Mapping[Key, str],
    *,
    left_out: Mapping[Key, str] | None = None,
    language: str = "en",
    clip: ClipImageEncoder | None = None,
    seed: int = 0,
) -> Judgement:
    """The figures of a suite of texts: "captions", "vqa", "asr" or "spoken".

    predictions: by the keys of the cases. Cases without one are left out and counted, as those of `left_out` are.
    language: of transcripts, which their normaliser follows. clip: adds the CLIP score of captions, for which the cases
    need pictures. seed: of the intervals.
    ValueError for predictions of what is no case, and where no case has one.
    """
    known = {case.key for case in cases}
    if strange := [key for key in predictions if key not in known]:
        raise ValueError(
            f"{len(strange)} of {len(predictions)} predictions are of nothing in the references: first {strange[0]!r}"
        )
    used = [case for case in cases if case.key in predictions]
    if not used:
        raise ValueError(f"none of {len(cases)} expected items has a prediction")
    said = [predictions[case.key] for case in used]
    measures, notes = measures_of(suite, used, said, language)
    if clip is not None and suite == "captions":
        measures.append(_clip_score(clip, used, said))
        notes.append(seen_by(clip))
    reasons = {case.key: NO_PREDICTION for case in cases if case.key not in predictions} | dict(left_out or {})
    return judgement(suite, used, said, measures, expected=len(cases), left_out=reasons, notes=notes, seed=seed)


def judgement(
    suite: SuiteName,
    used: Sequence[Case],
    said: Sequence[str],
    measures: Sequence[Measure],
    *,
    expected: int,
    left_out: Mapping[Key, str],
    notes: Sequence[str] = (),
    made: Sequence[bytes] | None = None,
    seed: int = 0,
) -> Judgement:
    """The figures of measures with their intervals, and each item's scores. made: a picture for each item."""
    units = [case.key if case.unit is None else case.unit for case in used]
    figures = tuple(
        Figure(own.name, own.value, *own.interval(units, seed), lower_is_better=own.lower_is_better) for own in measures
    )
    items = tuple(
        Item(case, text, {own.name: float(own.items[n]) for own in measures}, None if made is None else made[n])
        for n, (case, text) in enumerate(zip(used, said, strict=True))
    )
    return Judgement(suite, figures, items, expected, left_out, tuple(notes))


def measures_of(
    suite: SuiteName, cases: Sequence[Case], said: Sequence[str], language: str = "en"
) -> tuple[list[Measure], list[str]]:
    """A suite's metrics of texts, and what must be said of them."""
    expected = [case.expected for case in cases]
    if suite == "captions":
        captions = paired(said, expected)
        found = [cider(captions), *(orders := bleu(captions)), rouge_l(captions)]
        notes = [NO_BLEU.format(len(orders))] if len(orders) < ORDER else []
        return (found + [meteor(captions)], notes) if has_java() else (found, [*notes, NO_JAVA])
    if suite == "vqa":
        fewest = min(len(own) for own in expected)
        if fewest < FEWEST:
            return [vqa_match(said, expected)], [NO_VQA]
        return [vqa_accuracy(said, expected), vqa_match(said, expected)], []
    if suite == "asr":
        words = [own[0] for own in expected]
        return [word_errors(said, words, language), character_errors(said, words, language)], []
    if suite == "spoken":
        return [exact_match(said, expected)], []
    raise ValueError(f"the suite {suite!r} is not judged by texts")


def _clip_score(clip: ClipImageEncoder, cases: Sequence[Case], said: Sequence[str]) -> Measure:
    from mmlm.evaluation.looking import embedded_pictures, embedded_texts
    from mmlm.evaluation.metrics.clip_score import PREFIX, clip_score

    pictures = embedded_pictures(clip, [picture_of(case) for case in cases])
    return clip_score(pictures, embedded_texts(clip, [PREFIX + text for text in said]))


def seen_by(clip: ClipImageEncoder) -> str:
    """Which CLIP gave scores, for scores of two cannot be compared."""
    return f"As seen by the CLIP {clip.name or 'of the model'} ({clip.fingerprint()})."


def picture_of(case: Case) -> bytes:
    """The encoded picture of a case. ValueError where it has none."""
    if case.picture is None:
        raise ValueError("the CLIP score needs the pictures: give their folder with images=")
    return case.picture if isinstance(case.picture, bytes) else case.picture.read()
