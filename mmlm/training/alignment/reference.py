"""The model as it was at the start of a run: the small trained tensors of then, beside the same frozen giants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter

from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.training.alignment.scored import answer_log_probs
from mmlm.training.precision import computing
from mmlm.training.ranks import merged, own
from mmlm.training.rows import Ready


def trained_parameters(model: MultimodalLM, tune: str, codes: bool) -> dict[str, Parameter]:
    """What alignment trains, by name: of what was added, that which has a part in the answers.

    tune: as in AlignConfig. codes: answers are codes. ValueError where there is nothing.
    """
    host = model.language_model
    rows, lora = "language_model.codes.", "language_model.lora."
    acts = host.lora is not None and (codes or host.lora_config.reads)
    wanted = {
        name: parameter
        for name, parameter in model.added_parameters()
        if (acts if name.startswith(lora) else tune == "added" and name.startswith(rows) == codes)
    }
    if not wanted:
        raise ValueError("tune: the model has no LoRA that acts here: assemble it with lora (for texts, reads: true)")
    return wanted


class Reference:
    """Copies of the trained tensors, which may be put in place of what they have become."""

    def __init__(self, parameters: Mapping[str, Parameter], changing: Callable[[], AbstractContextManager]) -> None:
        self.parameters, self.changing = parameters, changing
        self.copies = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def begin(self) -> None:
        """Takes the tensors as they are."""
        for name, parameter in self.parameters.items():
            self.copies[name].copy_(parameter.detach())

    def state(self) -> dict[str, Tensor]:
        """The copies as a checkpoint has them."""
        return {f"reference.{name}": copy for name, copy in self.copies.items()}

    @contextmanager
    def acting(self) -> Iterator[None]:
        """While open, the model is what it was."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        with self.changing():
            for name, parameter in self.parameters.items():
                parameter.data, self.copies[name] = self.copies[name], parameter.data


@torch.no_grad()
def sums_of(
    model: MultimodalLM, answers: Callable[[int], Ready], count: int, codes: bool, batch_size: int, precision: str
) -> Tensor:
    """The sums of the log-probabilities of `count` answers, `[count]` float64; processes share the work."""
    found: dict[int, float] = {}
    mine = list(own(range(count)))
    for start in range(0, len(mine), batch_size):
        chunk = mine[start : start + batch_size]
        with computing(precision, model.device):
            rows = answer_log_probs(model, [answers(index) for index in chunk], codes)
        found |= {index: float(row.double().sum()) for index, row in zip(chunk, rows, strict=True)}
    return torch.tensor(list(merged(found).values()), dtype=torch.float64)
