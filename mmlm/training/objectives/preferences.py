"""Preferences: a model learns which of two answers is better, or which answers are good."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.model.identity import identity_of
from mmlm.training.alignment.answers import Judged
from mmlm.training.alignment.config import AlignConfig, PreferenceConfig
from mmlm.training.alignment.preferences import dpo, ipo, kto, simpo
from mmlm.training.alignment.reference import sums_of, trained_parameters
from mmlm.training.alignment.scored import answer_log_probs, answer_of, with_answer
from mmlm.training.objectives.base import Objective, Part
from mmlm.training.precision import computing
from mmlm.training.ranks import own, summed
from mmlm.training.resting import resting
from mmlm.training.rows import Ready
from mmlm.training.shuffle import Shuffle


class PreferencesObjective(Objective):
    """DPO, IPO, SimPO or KTO; the mean over pairs, of KTO over answers.

    The reference is the model as it is when the run begins: the log-probabilities of all answers are computed then,
    once, and kept in the checkpoints.
    """

    spreads = True
    partial = True

    def __init__(
        self, model: MultimodalLM, judged: Judged, held: Judged | None, objective: PreferenceConfig, config: AlignConfig
    ) -> None:
        self.module = self.model = model
        self.judged, self.held, self.objective, self.config = judged, held, objective, config
        self.name = objective.kind
        self.single = objective.kind == "kto"
        self.unit = "answers" if self.single else "pairs"
        self.loss_unit = f"{objective.kind} loss"
        self.examples = len(judged) if self.single else judged.pairs
        self.per_step = config.batch_size * config.accumulation
        if self.single and self.examples < 2:
            raise ValueError("kto compares an answer with one to another prompt: give two or more")
        self.order = Shuffle(self.examples, self.per_step, config.seed)
        sizes = {"reference": judged, "held_reference": held}
        self.known = {  # of each answer: to its own prompt and, for KTO, of the next one's answer to it
            name: torch.zeros(len(given), 1 + self.single, dtype=torch.float64)
            for name, given in sizes.items()
            if given is not None and objective.kind != "simpo"
        }

    def parameters(self) -> dict[str, Parameter]:
        return trained_parameters(self.model, self.config.tune, self.judged.codes)

    def state(self) -> dict[str, Tensor]:
        return self.known

    def steps_in(self, precision: str) -> AbstractContextManager[None]:
        return resting(self.model.language_model) if precision == "bfloat16" else nullcontext()

    def begin(self) -> None:
        for name, known in self.known.items():
            given = self.judged if name == "reference" else self.held
            assert given is not None, "it is known for what there is"
            known[:, 0] = self._sums(given.ready, len(given), given.codes)
            if self.single:
                known[:, 1] = self._sums(partial(_mismatched, given), len(given), given.codes)

    def _sums(self, answers: Any, count: int, codes: bool) -> Tensor:
        return sums_of(self.model, answers, count, codes, 2 * self.config.batch_size, self.config.precision)

    def parts(self, step: int) -> list[Part]:
        mine, size = list(own(self.order.batch(step).tolist())), self.config.batch_size
        chunks = [mine[start : start + size] for start in range(0, len(mine), size)]
        if not self.single:
            return [Part(len(chunk), partial(self._pair_loss, self.judged, chunk), len(chunk)) for chunk in chunks]
        kl = self._kl(self.judged, mine)
        return [Part(len(chunk), partial(self._kto_loss, self.judged, chunk, kl), len(chunk)) for chunk in chunks]

    def _pair_loss(self, judged: Judged, chunk: list[int]) -> Tensor:
        return self._pairs(judged, chunk)[0].mean()

    def _pairs(self, judged: Judged, chunk: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of pairs `[N]`: losses; by how much the better answer is ahead, by the loss' scores and by its probability
        alone; and the better one's plain loss in nats per token."""
        places = [2 * pair for pair in chunk] + [2 * pair + 1 for pair in chunk]
        rows = answer_log_probs(self.model, [judged.ready(place) for place in places], judged.codes)
        sums, lengths = torch.stack([row.sum() for row in rows]), torch.tensor([len(row) for row in rows])
        lengths = lengths.to(sums.device)
        own, beta = self.objective, self.objective.strength
        scores = sums if own.kind == "simpo" else sums - self._reference(judged, places).to(sums)
        chosen, rejected = (scores if own.kind == "dpo" else scores / lengths).chunk(2)
        if own.kind == "dpo":
            losses = dpo(chosen, rejected, beta, own.label_smoothing)
        elif own.kind == "ipo":
            losses = ipo(chosen, rejected, beta)
        else:
            losses = simpo(chosen, rejected, beta, own.gamma)
        plain = (-sums / lengths).chunk(2)[0]
        better, worse = sums.chunk(2)
        return losses + own.sft * plain, beta * (chosen - rejected), better - worse, plain

    def _reference(self, judged: Judged, places: list[int], column: int = 0) -> Tensor:
        return self.known["reference" if judged is self.judged else "held_reference"][places, column]

    def _kto_loss(self, judged: Judged, chunk: list[int], kl: float) -> Tensor:
        ratios = self._ratios(judged, chunk)
        good = torch.tensor([judged.good[place] for place in chunk], device=ratios.device)
        return kto(ratios, good, kl, self.objective.strength, self.objective.weights).mean()

    def _ratios(self, judged: Judged, chunk: list[int]) -> Tensor:
        rows = answer_log_probs(self.model, [judged.ready(place) for place in chunk], judged.codes)
        sums = torch.stack([row.sum() for row in rows])
        return sums - self._reference(judged, chunk).to(sums)

    @torch.no_grad()
    def _kl(self, judged: Judged, mine: list[int]) -> float:
        """The mean log-ratio of the next one's answers to these prompts, over all processes, not below 0."""
        total, size = 0.0, self.config.batch_size
        for start in range(0, len(mine), size):
            chunk = mine[start : start + size]
            with computing(self.config.precision, self.model.device):
                rows = answer_log_probs(self.model, [_mismatched(judged, place) for place in chunk], judged.codes)
            sums = torch.stack([row.double().sum() for row in rows]).cpu()
            total += float((sums - self._reference(judged, chunk, 1)).sum())
        total, count = summed(total, len(mine))
        return max(0.0, total / max(1, count))

    def evaluate(self) -> dict[str, float]:
        """Of what is held out: the loss. Of pairs, by how much the better answer is ahead, beside the reference, how
        often it is the likelier one, and its plain loss in nats per token. Of single answers, the mean log-ratio of
        good and of bad ones."""
        if (held := self.held) is None:
            return {}
        count = min(self.config.held_out_examples, len(held) if self.single else held.pairs)
        return self._single_figures(held, count) if self.single else self._pair_figures(held, count)

    def _pair_figures(self, held: Judged, count: int) -> dict[str, float]:
        total = [0.0] * 4
        for chunk in self._chunks(count):
            with computing(self.config.precision, self.model.device):
                losses, margins, ahead, plain = self._pairs(held, chunk)
            sums = (losses, margins, ahead > 0, plain)
            total = [one + float(two.double().sum()) for one, two in zip(total, sums, strict=True)]
        names = ("held_out_loss", "held_out_margin", "held_out_accuracy", "held_out_nats")
        return {name: value / count for name, value in zip(names, summed(*total), strict=True)}

    def _single_figures(self, held: Judged, count: int) -> dict[str, float]:
        kl, total = self._kl(held, list(own(range(count)))), [0.0] * 5
        for chunk in self._chunks(count):
            with computing(self.config.precision, self.model.device):
                ratios = self._ratios(held, chunk).double()
            good = torch.tensor([held.good[place] for place in chunk], device=ratios.device)
            losses = kto(ratios, good, kl, self.objective.strength, self.objective.weights)
            sums = (losses, ratios[good], ratios[~good], good, ~good)
            total = [one + float(two.sum()) for one, two in zip(total, sums, strict=True)]
        loss, liked, disliked, goods, bads = summed(*total)
        return {
            "held_out_loss": loss / count,
            "held_out_good": liked / max(1, goods),
            "held_out_bad": disliked / max(1, bads),
        }

    def _chunks(self, count: int) -> list[list[int]]:
        mine, size = list(own(range(count))), self.config.batch_size
        return [mine[start : start + size] for start in range(0, len(mine), size)]

    def save(self, output: Path) -> Path:
        return self.model.save(output / "model")

    def identity(self) -> dict[str, Any]:
        return {
            "objective": self.objective.binding(),
            "data": self.judged.digest,
            "held_out": None if self.held is None else self.held.digest,
            "frozen_types": [str(self.model.language_model.dtype)],
            **identity_of(self.model),
        }


def _mismatched(judged: Judged, place: int) -> Ready:
    """The prompt of an answer, with the answer of the next record."""
    step = 2 if judged.paired else 1
    return with_answer(judged.ready(place), answer_of(judged.ready((place + step) % len(judged))))
