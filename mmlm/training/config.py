"""TrainConfig: every setting of a training run, with defaults that make a working run."""

from __future__ import annotations

from dataclasses import dataclass, fields

# Settings that say where, how often or how loudly, and leave the weights as they are: they may change on resume.
_FREE = {"log_every", "eval_every", "save_every", "keep", "cache", "held_out_examples", "bad_limit"}

OPTIMIZERS = ("adamw", "muon")
PRECISIONS = ("float32", "bfloat16", "auto")


@dataclass
class TrainConfig:
    """Settings of `mmlm.train`. One optimizer step sees `batch_size × accumulation` examples.

    steps: optimizer steps; None takes `epochs` passes over the records (one text of each record a pass).
    accumulation: parts that a step's examples are split into, to save memory; the gradient is the same.
    optimizer: "adamw", or "muon" for the weights of linear layers, with AdamW for the rest: each step takes longer, and
        small adapters learn more from it (docs/nano.md); it bears a higher learning rate (4e-3 rather than 1.5e-3).
    learning_rate: its peak, after a linear warm-up over `warmup_steps` (None: a twentieth of the steps) and before a
        cosine down to zero.
    gate_learning_rate_scale: of the gates, which are single numbers that start shut: Adam, which moves a weight by
        about the learning rate a step, would spend thousands of steps on opening them.
    weight_decay: decoupled; none on norms, gates, latents and added rows.
    max_grad_norm: the gradient of a step is scaled down to this norm; inf leaves it.
    max_skipped: steps with a loss or gradient that is not finite are skipped; so many in a row stop the run.
    precision: "float32", or "bfloat16" for autocast (weights and optimizer stay float32): faster where the hardware
        multiplies bfloat16, and slower where it does not, as on most desktop CPUs; "auto" looks.
    caption_share: 0–1, how often a record with captions and questions gives a caption.
    sort_window: steps whose examples are sorted by length together, against padding; 1 for none.
    seed: of the order of examples and whatever else is drawn.
    log_every, eval_every, save_every: in steps; each also happens at the end. keep: newest checkpoints to keep.
    held_out_examples: at most so many held-out records are used.
    cache: folder for the frozen encoder's features; None puts it into the output folder.
    bad_limit: share of bad records (0–1) above which the run stops with their list.
    """

    steps: int | None = None
    epochs: float = 10.0
    batch_size: int = 32
    accumulation: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 3e-4
    warmup_steps: int | None = None
    gate_learning_rate_scale: float = 10.0
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = 1.0
    max_skipped: int = 5
    precision: str = "float32"
    caption_share: float = 0.5
    sort_window: int = 16
    seed: int = 0
    log_every: int = 10
    eval_every: int = 200
    save_every: int = 200
    keep: int = 2
    held_out_examples: int = 256
    cache: str | None = None
    bad_limit: float = 0.01

    def __post_init__(self) -> None:
        for name in (
            "batch_size", "accumulation", "max_skipped", "sort_window", "log_every", "eval_every", "save_every",
            "keep", "held_out_examples",
        ):  # fmt: skip
            _check(self, name, getattr(self, name) >= 1, "must be at least 1")
        _check(self, "steps", self.steps is None or self.steps >= 1, "must be at least 1")
        _check(self, "warmup_steps", self.warmup_steps is None or self.warmup_steps >= 0, "must not be negative")
        for name in ("epochs", "learning_rate", "gate_learning_rate_scale", "max_grad_norm"):
            _check(self, name, getattr(self, name) > 0, "must be above 0")
        _check(self, "weight_decay", self.weight_decay >= 0, "must not be negative")
        _check(self, "seed", self.seed >= 0, "must not be negative")
        _check(self, "betas", len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "must be two of 0 ≤ β < 1")
        _check(self, "optimizer", self.optimizer in OPTIMIZERS, f"must be one of {', '.join(OPTIMIZERS)}")
        _check(self, "precision", self.precision in PRECISIONS, f"must be one of {', '.join(PRECISIONS)}")
        for name in ("caption_share", "bad_limit"):
            _check(self, name, 0 <= getattr(self, name) <= 1, "must be 0–1")

    def binding(self) -> dict:
        """The settings that a resumed run must share, as JSON values."""
        values = {field.name: getattr(self, field.name) for field in fields(TrainConfig)}
        values["betas"] = list(self.betas)
        return {name: value for name, value in values.items() if name not in _FREE}


def _check(config: TrainConfig, name: str, good: bool, rule: str) -> None:
    if not good:
        raise ValueError(f"{name} {rule}, not {getattr(config, name)!r}")
