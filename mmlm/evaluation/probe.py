"""Linear probes: how much of a label a linear classifier reads from the features of a frozen encoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from encoders.base import FrozenEncoder
from encoders.media.image import load_image
from encoders.media.sound import load_audio
from mmlm.evaluation.labelled import Labelled
from mmlm.evaluation.metrics.measure import mean_of
from mmlm.training.reporting import counted

PENALTIES = tuple(10.0**power for power in range(-5, 3))  # of which one is chosen on a part of the training set
HELD = 0.2  # the share of the training set that chooses it
BATCH = 32


@dataclass(frozen=True)
class ProbeReport:
    """Accuracy of a linear probe on media that it was not trained on, 0 to 1, with its 95% interval.

    chance: of always giving the label that is commonest in training. penalty: the weight decay that was chosen.
    unseen: how many to test have a label that none to train has, so that they cannot be right.
    """

    encoder: str
    accuracy: float
    interval: tuple[float, float]
    chance: float
    labels: int
    train: int
    test: int
    penalty: float
    unseen: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        low, high = self.interval
        wrong = f"\n{self.unseen} to test have labels that none to train has" if self.unseen else ""
        return (
            f"accuracy {self.accuracy:.1%}, 95% interval {low:.1%} to {high:.1%}; chance {self.chance:.1%} "
            f"({self.labels} labels, {self.train} to train, {self.test} to test, {self.encoder}){wrong}"
        )


def probe(encoder: FrozenEncoder, train: Sequence[Labelled], test: Sequence[Labelled], *, seed: int = 0) -> ProbeReport:
    """Trains a linear probe on the means of an encoder's tokens, and measures it.

    The probe is multinomial logistic regression on standardised features in float64, by L-BFGS. Its penalty is chosen
    on a fifth of `train`, drawn by `seed`, and all of it is fitted then. ValueError where `train` has fewer than two
    labels or too few media, or `test` is empty; MediaError, with its key, for a medium that cannot be decoded.
    """
    labels = sorted({one.label for one in train})
    if len(labels) < 2 or len(train) < 10 or not test:
        raise ValueError(
            f"a probe needs ten media with two labels to train on and one to test on, not {len(train)} with "
            f"{len(labels)} and {len(test)}"
        )
    numbers = {label: number for number, label in enumerate(labels)}
    seen, unseen = (mean_tokens(encoder, own) for own in (train, test))
    mean, deviation = seen.mean(dim=0), seen.std(dim=0).clamp(min=1e-8)
    x, x_test = ((own - mean) / deviation for own in (seen, unseen))
    y = torch.tensor([numbers[one.label] for one in train])
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(y)))
    held, rest = order[: round(HELD * len(y))], order[round(HELD * len(y)) :]
    found = [(right(fitted(x[rest], y[rest], len(labels), own), x[held], y[held]), own) for own in PENALTIES]
    penalty = max(found)[1]  # of equal ones the strongest
    y_test = torch.tensor([numbers.get(one.label, -1) for one in test])  # a label that was not seen cannot be right
    hits = (predicted(fitted(x, y, len(labels), penalty), x_test) == y_test).numpy()
    commonest = Counter(one.label for one in train).most_common(1)[0][0]
    accuracy = mean_of("accuracy", hits)
    return ProbeReport(
        f"{type(encoder).__name__} {encoder.name or ''}".strip(),
        accuracy.value,
        accuracy.interval(seed=seed),
        sum(one.label == commonest for one in test) / len(test),
        len(labels),
        len(train),
        len(test),
        penalty,
        int((y_test < 0).sum()),
    )


def mean_tokens(encoder: FrozenEncoder, media: Sequence[Labelled]) -> Tensor:
    """The mean of each medium's tokens, `[N, D]` in float64 on the CPU."""
    found = []
    for start in counted(range(0, len(media), BATCH), "encoding, in batches"):
        features = encoder.features([_decoded(encoder, one) for one in media[start : start + BATCH]])
        found += [own.tokens[0].double().mean(dim=0).cpu() for own in features]
    return torch.stack(found)


def fitted(x: Tensor, y: Tensor, labels: int, penalty: float) -> Tensor:
    """Weights `[D + 1, labels]`, the last row the bias, that minimise mean cross-entropy plus `penalty`/2 · |weights|².

    x: `[N, D]`, y: `[N]` from 0. The bias is not penalised. The problem is convex, so no seed is needed.
    """
    weights = torch.zeros(x.shape[1] + 1, labels, dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = cross_entropy(_scores(weights, x), y) + penalty / 2 * (weights[:-1] ** 2).sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return weights.detach()


def predicted(weights: Tensor, x: Tensor) -> Tensor:
    """The likeliest label of each row, `[N]`."""
    return _scores(weights, x).argmax(dim=1)


def right(weights: Tensor, x: Tensor, y: Tensor) -> float:
    """The share of rows whose likeliest label is theirs."""
    return (predicted(weights, x) == y).double().mean().item()


def _scores(weights: Tensor, x: Tensor) -> Tensor:
    return x @ weights[:-1] + weights[-1]


def _decoded(encoder: FrozenEncoder, one: Labelled) -> Any:
    try:
        data = one.place.read()
        return load_image(data) if encoder.modality == "image" else load_audio(data)
    except (OSError, ValueError) as error:
        raise type(error)(f"{one.key} cannot be used: {error}") from error
