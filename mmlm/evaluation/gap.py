"""How much a medium helps: the loss of the right text with the right picture or recording, a wrong one, and none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmlm.data.records import Record
from mmlm.evaluation.trials import Encoded, Trials, check_enough, encoded
from mmlm.prompting.processor import IGNORE_INDEX
from mmlm.training.reporting import counted

if TYPE_CHECKING:
    from mmlm.assembly.multimodal_lm import MultimodalLM


@dataclass(frozen=True)
class MediumGap:
    """Mean negative log-likelihood in nats per answer token, and the gap `shuffled - right` with its 95% interval."""

    right: float  # every text with its own picture or recording
    shuffled: float  # every text with that of another record
    without: float  # the same text with none
    gap: float
    interval: tuple[float, float]  # of the gap
    records: int
    tokens: int


def medium_gap(
    model: MultimodalLM,
    records: Sequence[Record],
    modality: str = "image",
    *,
    features: Encoded | None = None,
    batch_size: int = 32,
    seed: int = 0,
    resamples: int = 10_000,
) -> MediumGap:
    """Measure the gap over all texts about the pictures ("image") or recordings ("audio") of `records`, at least two.

    These are captions, transcripts and answers, the last without the words of a recording in the prompt. Media of the
    other modality stay where they are. The end-of-chunk token counts as an answer token, as in training. The wrong
    media are a derangement of the records. A medium that occurs in several records may get its own text there, which
    makes the gap smaller, never larger. The interval is a paired percentile bootstrap over records, not texts, because
    the captions of one picture are not independent. `seed` draws both.

    features: of the media, as `encoded` gives them. By default they are encoded here.
    ValueError where fewer than two records have a text about the medium, and for media that cannot be decoded.
    """
    check_enough(records, modality)
    if features is None:
        features, bad = encoded(model, records, batch_size)
        if bad:
            raise ValueError(next(iter(bad.values())))
    return gap_of(Trials(model, records, features, modality, batch_size, seed), resamples)


def gap_of(trials: Trials, resamples: int = 10_000) -> MediumGap:
    """The gap of records whose media are encoded; see `medium_gap`."""
    model, numbers = trials.model, trials.numbers
    row_of = {number: row for row, number in enumerate(numbers)}
    # Texts of similar length share a batch, so that little of it is padding.
    asked = sorted(trials.asked(), key=lambda one: (len(one.text.answer), one.number))
    sums = np.zeros((3, len(numbers)))
    counts = np.zeros(len(numbers))
    for start in counted(range(0, len(asked), trials.batch_size), "comparing losses, in batches"):
        chosen = asked[start : start + trials.batch_size]
        rows = [row_of[one.number] for one in chosen]
        for condition, giver in enumerate((trials.own, trials.wrong, trials.none)):
            examples = [model.processor.encode(trials.prompt(one, giver), one.text.answer) for one in chosen]
            loss, tokens = answer_losses(model, examples)
            np.add.at(sums[condition], rows, loss)
        np.add.at(counts, rows, tokens)

    low, high = bootstrap_interval(sums[1] - sums[0], counts, resamples=resamples, seed=trials.seed)
    right, shuffled, without = (float(total) for total in sums.sum(axis=1) / counts.sum())
    return MediumGap(right, shuffled, without, shuffled - right, (low, high), len(numbers), int(counts.sum()))


@torch.no_grad()
def answer_losses(model: MultimodalLM, examples: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Each example's summed negative log-likelihood of its labels in nats, `[B]`, and its number of labels, `[B]`."""
    batch = model.processor.collate(examples, padding_side="right")
    logits: Tensor = model(batch, [[part.source for part in example.media] for example in examples]).logits
    assert batch.labels is not None, "collated examples have labels"
    labels = batch.labels[:, 1:].to(logits.device)
    answer = labels != IGNORE_INDEX
    loss = torch.zeros(labels.shape, dtype=torch.float64, device=labels.device)
    loss[answer] = cross_entropy(logits.float(), labels[answer], reduction="none").double()
    return loss.sum(dim=1).cpu().numpy(), answer.sum(dim=1).cpu().numpy()


def bootstrap_interval(
    totals: np.ndarray, counts: np.ndarray, *, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """95% percentile interval of `totals.sum() / counts.sum()`, both `[N]`, when entries are drawn with replacement."""
    generator = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    for index in range(resamples):
        drawn = generator.integers(len(totals), size=len(totals))
        ratios[index] = totals[drawn].sum() / counts[drawn].sum()
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)
