"""The plain training loop of one module and its loss: optimizers, warm-up and cosine, checkpoints, metrics, a bar."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from mmlm.model.lora import LowRank
from mmlm.training.metrics import keep_lines
from mmlm.training.optimizer import muon
from mmlm.training.precision import computing


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    steps: int
    learning_rate: float
    warmup_steps: int = 50
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0
    checkpoint_seconds: float = 120.0
    precision: str = "auto"  # as in mmlm.TrainConfig
    optimizer: str = "adamw"  # or "muon", for the matrices of hidden layers

    def __post_init__(self) -> None:
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f'optimizer is "adamw" or "muon", not {self.optimizer!r}')
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f'precision is "auto", "float32" or "bfloat16", not {self.precision!r}')

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then cosine to a twentieth."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def fit(
    model: nn.Module,
    loss_at: Callable[[int], Tensor],
    schedule: Schedule,
    output: Path,
    name: str,
    after_step: Callable[[int], dict[str, float]] = lambda done: {},
    progress: bool = True,
    identity: str = "",
) -> None:
    """Train `model` in place for `schedule.steps` steps, resuming from `output/checkpoint.pt` if it is there.

    `loss_at(step)` must depend on nothing but the step and the weights (draw from a generator seeded with the step),
    so that a resumed run goes on as if it had never stopped. `after_step` is told how many steps are done; what it
    measures then goes into `output/metrics.jsonl`, beside the loss of every twentieth. `identity` tells one run from
    another: ValueError when the checkpoint's is not the same.
    """
    output.mkdir(parents=True, exist_ok=True)
    optimizers = make_optimizers(model, schedule)
    device = next(model.parameters()).device
    checkpoint, metrics = output / "checkpoint.pt", output / "metrics.jsonl"
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, known in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(known)
        if state.get("identity", identity) != identity:
            raise ValueError(f"{checkpoint} is of another run, with other settings or data: choose another output")
        start = state["step"]
        keep_lines(metrics, start)
    else:
        metrics.unlink(missing_ok=True)

    model.train()
    saved, average = time.monotonic(), None
    bar = dict(initial=start, total=schedule.steps, desc=name, mininterval=5, disable=not progress)
    for step in tqdm(range(start, schedule.steps), **bar):
        learning_rate = schedule.learning_rate_at(step)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = learning_rate
        with computing(schedule.precision, device):
            loss = loss_at(step)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"{name}: the loss is {loss.item()} at step {step}; try a lower learning rate")
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), schedule.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        average = loss.item() if average is None else 0.95 * average + 0.05 * loss.item()
        done = step + 1
        measured = after_step(done)
        if measured or done % 20 == 0 or done == schedule.steps:
            line = {"step": done, "loss": round(average, 5), "learning_rate": learning_rate, **measured}
            with metrics.open("a") as file:
                file.write(json.dumps(line) + "\n")
        if done == schedule.steps or time.monotonic() - saved > schedule.checkpoint_seconds:
            states = [optimizer.state_dict() for optimizer in optimizers]
            state = {"model": model.state_dict(), "optimizers": states, "step": done, "identity": identity}
            partial = checkpoint.with_suffix(".partial")
            torch.save(state, partial)
            os.replace(partial, checkpoint)
            saved = time.monotonic()
    model.eval()


def make_optimizers(model: nn.Module, schedule: Schedule) -> list[Optimizer]:
    """AdamW over all weights, or Muon over the matrices of linear layers and of LoRA, and AdamW over the rest.

    Vectors (biases, norms, scales) are not decayed. Embeddings, and a head tied to them, are never Muon's: their rows
    belong to single tokens.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    linear, embedding, low_rank = (
        {id(matrix) for part in model.modules() if isinstance(part, kind) for matrix in part.parameters()}
        for kind in (nn.Linear, nn.Embedding, LowRank)
    )
    matrices = (linear | low_rank) - embedding
    hidden = [p for p in weights if schedule.optimizer == "muon" and p.ndim == 2 and id(p) in matrices]
    taken = {id(p) for p in hidden}
    decayed = [p for p in weights if p.ndim >= 2 and id(p) not in taken]
    vectors = [p for p in weights if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizers: list[Optimizer] = [torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=schedule.betas)]
    if hidden:
        optimizers.append(muon(hidden, schedule.learning_rate, schedule.weight_decay))
    return optimizers


def generator(seed: int, *counters: int) -> torch.Generator:
    """A generator for this seed and these counters (an epoch, a step), the same after a stop."""
    mixed = seed
    for counter in counters:
        mixed = (mixed * 6364136223846793005 + counter + 1442695040888963407) % 2**63
    return torch.Generator().manual_seed(mixed)


class Shuffle:
    """Batches of `batch_size` indices below `size`: every epoch a new order, any step at any time."""

    def __init__(self, size: int, batch_size: int, seed: int):
        if size < batch_size:
            raise ValueError(f"{size} examples do not fill one batch of {batch_size}")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self._epoch, self._order = -1, torch.empty(0)

    def batch(self, step: int) -> Tensor:
        """The indices [B] of one step; what is left over at an epoch's end waits for the next order."""
        per_epoch = self.size // self.batch_size
        epoch, index = divmod(step, per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, torch.randperm(self.size, generator=generator(self.seed, epoch))
        return self._order[index * self.batch_size : (index + 1) * self.batch_size]
