"""How much the picture helps: the loss of the right text with the right picture, with a wrong one, and without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmlm.data.records import Record
from mmlm.prompting.parts import Image, Part
from mmlm.prompting.processor import IGNORE_INDEX

if TYPE_CHECKING:
    from encoders.base import Features
    from mmlm.assembly.multimodal_lm import MultimodalLM


@dataclass(frozen=True)
class PictureGap:
    """Mean negative log-likelihood in nats per answer token, and the gap `shuffled - right` with its 95% interval."""

    right: float  # every text with its own picture
    shuffled: float  # every text with another record's picture
    without: float  # the same text with no picture
    gap: float
    interval: tuple[float, float]  # of the gap
    records: int
    tokens: int


def picture_gap(
    model: MultimodalLM,
    records: Sequence[Record],
    *,
    features: Sequence[Features] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    resamples: int = 10_000,
) -> PictureGap:
    """Measure the gap over all captions and answers of `records`, at least two.

    The end-of-chunk token counts as an answer token, as in training. The wrong pictures are a derangement of the
    records. A picture that occurs in several records may get its own text there, which makes the gap smaller, never
    larger. The interval is a paired percentile bootstrap over records, not texts, because the captions of one picture
    are not independent. `seed` draws both.

    features: each record's picture as `encode_pictures` gives it, `[1, S, D]`. By default they are encoded here.
    ValueError where there are fewer than two records, or none has a text.
    """
    if not all(isinstance(record, Record) for record in records):
        raise TypeError("records are what mmlm.data.read_records gives")
    if len(records) < 2:
        raise ValueError(f"a wrong picture needs at least two records, got {len(records)}")
    texts = [(number, *text) for number, record in enumerate(records) for text in prompts(model, record)]
    if not texts:
        raise ValueError("no record has a caption or a question with an answer")
    features = encode_pictures(model, records, batch_size) if features is None else features
    wrong = derangement(len(records), seed)

    # Texts of similar length share a batch, so that little of it is padding.
    texts.sort(key=lambda text: (len(text[2]), text[0]))
    sums = np.zeros((3, len(records)))
    counts = np.zeros(len(records))
    for start in range(0, len(texts), batch_size):
        chosen = texts[start : start + batch_size]
        rows = [number for number, _, _ in chosen]
        for condition, pictures in enumerate((rows, [wrong[number] for number in rows], None)):
            examples = [
                model.processor.encode(parts if pictures else without_pictures(parts), target)
                for _, parts, target in chosen
            ]
            media = [[features[number]] for number in pictures] if pictures else [[] for _ in chosen]
            loss, tokens = answer_losses(model, examples, media)
            np.add.at(sums[condition], rows, loss)
        np.add.at(counts, rows, tokens)

    low, high = bootstrap_interval(sums[1] - sums[0], counts, resamples=resamples, seed=seed)
    right, shuffled, without = sums.sum(axis=1) / counts.sum()
    return PictureGap(
        right=float(right),
        shuffled=float(shuffled),
        without=float(without),
        gap=float(shuffled - right),
        interval=(low, high),
        records=len(records),
        tokens=int(counts.sum()),
    )


def prompts(model: MultimodalLM, record: Record) -> list[tuple[list[Part], str]]:
    """The (prompt, answer) pairs of a record: its captions, then its questions. `Image(None)` marks the picture."""
    picture = Image(None)
    found = [(model.template.caption_prompt(picture), caption) for caption in record.captions]
    return found + [(model.template.question_prompt(picture, question), answer) for question, answer in record.qa]


def without_pictures(parts: Sequence[Part]) -> list[Part]:
    """The same prompt without its pictures and their tokens."""
    return [part for part in parts if not isinstance(part, Image)]


@torch.no_grad()
def answer_losses(model: MultimodalLM, examples: Sequence, media: Sequence[list]) -> tuple[np.ndarray, np.ndarray]:
    """Each example's summed negative log-likelihood of its labels in nats, `[B]`, and its number of labels, `[B]`."""
    batch = model.processor.collate(examples, padding_side="right")
    logits: Tensor = model(batch, media).logits
    assert batch.labels is not None, "collated examples have labels"
    labels = batch.labels[:, 1:].to(logits.device)
    answer = labels != IGNORE_INDEX
    loss = torch.zeros(labels.shape, dtype=torch.float64, device=labels.device)
    loss[answer] = cross_entropy(logits.float(), labels[answer], reduction="none").double()
    return loss.sum(dim=1).cpu().numpy(), answer.sum(dim=1).cpu().numpy()


def encode_pictures(model: MultimodalLM, records: Sequence[Record], batch_size: int = 32) -> list[Features]:
    """Frozen features of each record's picture, encoded `batch_size` at a time."""
    features = []
    for start in range(0, len(records), batch_size):
        features += model.encode_media([Image(record.decode()) for record in records[start : start + batch_size]])
    return features


def derangement(count: int, seed: int) -> list[int]:
    """A permutation of `range(count)` without a fixed point: one random cycle through all of it."""
    order = np.random.default_rng(seed).permutation(count)
    wrong = np.empty(count, dtype=int)
    wrong[order] = np.roll(order, -1)
    return wrong.tolist()


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
