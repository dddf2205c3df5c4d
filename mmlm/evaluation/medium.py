"""What pictures, or recordings, are worth to a model: what it writes with the right ones, and with those of others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from encoders.texts import normalize_answer
from mmlm.evaluation.gap import MediumGap, gap_of
from mmlm.evaluation.metrics.captions import CaptionScores, score_captions
from mmlm.evaluation.metrics.words import word_error_rate
from mmlm.evaluation.trials import MEDIUM, Asked, Trials, derangement


@dataclass(frozen=True)
class AnswerScores:
    """Exact match, 0 to 1: with the right medium, with another record's, and of always giving the commonest answer.

    `majority` is the last of the three.
    """

    right: float
    shuffled: float
    majority: float
    majority_answer: str
    count: int  # questions asked, or media with a caption


@dataclass(frozen=True)
class TranscriptScores:
    """Word error rates of what the adapters let the language model write down, by `word_error_rate`.

    whole: the share of transcripts without an error, by exact match.
    """

    right: float
    shuffled: float  # against the words of other recordings
    whisper: float | None  # of the audio encoder's own Whisper, greedy; None where it has no decoder
    count: int  # recordings
    whole: AnswerScores


@dataclass(frozen=True)
class MediumReport:
    """Figures of one medium, each None where the data have no texts for it. `print` shows them as a table.

    medium: "picture" or "recording". answers: to written questions; replies: to those that recordings ask.
    labels: exact match of captions, where at least two records share one.
    """

    medium: str
    loss: MediumGap
    answers: AnswerScores | None = None
    replies: AnswerScores | None = None
    transcripts: TranscriptScores | None = None
    captions: CaptionScores | None = None
    shuffled_captions: CaptionScores | None = None
    labels: AnswerScores | None = None

    def __str__(self) -> str:
        loss, medium = self.loss, self.medium
        heads = (f"right {medium}", f"wrong {medium}", f"no {medium}")
        lines = [f"{'':<34}" + "".join(f"{head:>17}" for head in heads)]
        lines.append(
            _row("loss, nats per answer token", *(f"{x:.3f}" for x in (loss.right, loss.shuffled, loss.without)))
        )
        matches = {"questions": self.answers, "spoken questions": self.replies, "captions": self.labels}
        if self.transcripts is not None:
            matches["transcripts"] = self.transcripts.whole
        for what, exact in matches.items():
            if exact is not None:
                lines.append(_row(f"exact match, {exact.count} {what}", f"{exact.right:.1%}", f"{exact.shuffled:.1%}"))
        if (said := self.transcripts) is not None:
            lines.append(
                _row(f"word error rate, {said.count} transcripts", f"{said.right:.1%}", f"{said.shuffled:.1%}")
            )
        lines += self._caption_rows()
        low, high = loss.interval
        lines.append(
            f"The right {medium} is worth {loss.gap:.3f} nats per token, 95% interval {low:.3f} to {high:.3f} "
            f"({loss.records} {medium}s, {loss.tokens} tokens)."
        )
        for what, exact in matches.items():
            if exact is not None:
                lines.append(f"Always {exact.majority_answer!r} would match {exact.majority:.1%} of the {what}.")
        if said is not None and said.whisper is not None:
            lines.append(f"The audio encoder's own Whisper has a word error rate of {said.whisper:.1%}.")
        return "\n".join(lines)

    def _caption_rows(self) -> list[str]:
        if (right := self.captions) is None or (wrong := self.shuffled_captions) is None:
            return []
        rows = [
            _row(f"CIDEr, {right.count} {self.medium}s", f"{right.cider:.3f}", f"{wrong.cider:.3f}"),
            _row("ROUGE-L", f"{right.rouge_l:.3f}", f"{wrong.rouge_l:.3f}"),
        ]
        if right.bleu4 is not None and wrong.bleu4 is not None:
            return [*rows, _row("BLEU-4", f"{right.bleu4:.3f}", f"{wrong.bleu4:.3f}")]
        return [*rows, "BLEU-4 is left out: no caption, or no reference, has four words."]


def _row(name: str, *values: str) -> str:
    return f"{name:<34}" + "".join(f"{value:>17}" for value in values)


def measure(trials: Trials, options: dict[str, Any]) -> MediumReport:
    """All figures of one medium. options: of the texts that the model writes, by the names of `GenerationOptions`."""
    right, wrong, labels = _captions(trials, options)
    return MediumReport(
        MEDIUM[trials.modality],
        gap_of(trials),
        _answers(trials, trials.asked("question"), options),
        _answers(trials, trials.asked("reply"), options),
        _transcripts(trials, options),
        right,
        wrong,
        labels,
    )


def _answers(trials: Trials, asked: Sequence[Asked], options: dict[str, Any]) -> AnswerScores | None:
    if not asked:
        return None
    right, shuffled = (trials.written(asked, giver, options) for giver in (trials.own, trials.wrong))
    return match_scores(right, shuffled, [[one.text.answer] for one in asked])


def _captions(
    trials: Trials, options: dict[str, Any]
) -> tuple[CaptionScores | None, CaptionScores | None, AnswerScores | None]:
    """Scores of the captions against those of their own media, and of other media; and how many are matched exactly."""
    asked = trials.asked("caption")
    references: dict[int, list[str]] = {}
    for one in asked:
        references.setdefault(one.number, []).append(one.text.answer)
    if len(references) < 2:
        return None, None, None
    # The captions of a medium are asked for by one prompt.
    written = trials.written(list({one.number: one for one in asked}.values()), trials.own, options)
    expected = list(references.values())
    order = derangement(len(expected), trials.seed)
    right, wrong = (score_captions(written, own) for own in (expected, [expected[number] for number in order]))
    every = [text for texts in expected for text in {normalize_answer(text) for text in texts}]
    recurring = len(set(every)) < len(every)
    return right, wrong, match_scores(written, [written[n] for n in order], expected) if recurring else None


def _transcripts(trials: Trials, options: dict[str, Any]) -> TranscriptScores | None:
    asked = trials.asked("transcript")
    expected = [one.text.answer for one in asked]
    if len(asked) < 2 or not any(text.strip() for text in expected):
        return None
    written = trials.written(asked, trials.own, options)
    order = derangement(len(expected), trials.seed)
    said = None
    if trials.model.transcribes:
        # Greedily: the tries at higher temperatures would take several times as long on short recordings.
        transcribe = trials.model.transcriber.transcribe
        heard = (transcribe(trials.records[one.number].audio, temperatures=(0.0,)) for one in asked)
        said = [transcript.text for transcript in heard]
    return TranscriptScores(
        word_error_rate(written, expected),
        word_error_rate(written, [expected[number] for number in order]),
        None if said is None else word_error_rate(said, expected),
        len(asked),
        match_scores(written, [written[number] for number in order], [[text] for text in expected]),
    )


def match_scores(right: Sequence[str], shuffled: Sequence[str], expected: Sequence[Sequence[str]]) -> AnswerScores:
    """Exact match with one of the texts expected of each, after `normalize_answer`.

    right, shuffled: what was written with the right media, and with wrong ones.
    """
    wanted = [{normalize_answer(text) for text in texts} for texts in expected]
    commonest, count = Counter(text for texts in wanted for text in sorted(texts)).most_common(1)[0]
    found = [
        sum(normalize_answer(a) in texts for a, texts in zip(given, wanted, strict=True)) for given in (right, shuffled)
    ]
    return AnswerScores(found[0] / len(wanted), found[1] / len(wanted), count / len(wanted), commonest, len(wanted))
