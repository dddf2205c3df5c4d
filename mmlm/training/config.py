"""The settings of training runs: one set for every run, and what adapters, codes and codecs add to it."""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, TypeVar

from decoders.values import check_kinds

OPTIMIZERS = ("adamw", "muon", "lion")
PRECISIONS = ("float32", "bfloat16", "auto")
FEATURES = ("cached", "ahead", "auto")

# Settings that leave the weights as they are: they may change when a run is resumed. `epochs` counts as `steps`; the
# last three are in the fingerprint of a stream.
_FREE = {
    "epochs", "max_skipped", "log_every", "eval_every", "preview_every", "save_every", "keep", "keep_best",
    "trackers", "features", "cache", "held_out_examples", "bad_limit", "device", "extend", "shard", "stream", "mix",
    "shard_window",
}  # fmt: skip
_POSITIVE = ("epochs", "learning_rate", "gate_learning_rate_scale", "max_grad_norm", "seconds", "max_seconds")
_COUNTS = (
    "steps", "batch_size", "accumulation", "max_skipped", "log_every", "eval_every", "save_every", "keep",
    "sort_window", "held_out_examples", "preview_every", "pairs_per_row", "shard_window",
    "row_length",
)  # fmt: skip
_FINITE = ("epochs", "learning_rate", "gate_learning_rate_scale", "weight_decay")
_SHARES = ("final_learning_rate_scale", "caption_share", "bad_limit")  # 0 to 1
_FRACTIONS = ("corrupted", "dropped", "ema_decay", "text_dropped")  # 0 to below 1


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Settings of every run. One optimizer step sees `batch_size × accumulation` examples.

    steps: optimizer steps; None takes `epochs` passes over the examples.
    epochs: passes over the examples, where `steps` is None.
    extend: go on with the run in the output folder to more steps than it was begun with. From there the learning rate
        follows the schedule of the new number of steps; the weights are not those of one long run.
    batch_size: examples that are computed at once.
    accumulation: batches in a step. Many small ones give the gradient of a large one in less memory.
    optimizer: "adamw"; "muon" for the matrices of hidden layers, with AdamW for the rest (each step takes longer, and
        small adapters learn more from it, see docs/nano.md; it bears a higher rate, 4e-3 rather than 1.5e-3);
        "lion" (its rate is usually 3 to 10 times below AdamW's, its weight decay as much above).
    learning_rate: the peak, after a linear warm-up and before a cosine down.
    warmup_steps: steps of the linear warm-up; None for a twentieth of the steps.
    final_learning_rate_scale: the learning rate at the end, in peaks.
    gate_learning_rate_scale: factor on the rate of gates, if there are any. They are single numbers that start shut:
        Adam moves a weight by about the learning rate a step, and would spend thousands of steps on opening them.
    weight_decay: decoupled, on matrices only; none on norms, biases, gates, latents and added rows.
    betas: of AdamW's moving averages of the gradient and of its square.
    max_grad_norm: the gradient of a step is scaled down to this norm; inf leaves it as it is.
    max_skipped: steps with a loss or gradient that is not finite are skipped; this many in a row stop the run.
    precision: "float32", or "bfloat16" for autocast (what trains and its optimizer stay float32; a frozen language
        model lies in bfloat16 for the run): faster where the hardware multiplies bfloat16, and slower where it does
        not, as on most desktop CPUs; "auto" looks at the hardware.
    seed: of the order of examples and of all other random draws.
    log_every: steps between lines of metrics. eval_every: steps between measurements on held-out data. save_every:
        steps between checkpoints. Each also happens at the end.
    keep: newest checkpoints to keep.
    trackers: where figures go beside metrics.jsonl: "tensorboard", "wandb" and others that accelerate knows.
    keep_best: also save, into `best/` of the output folder, what had the lowest held-out loss.
    """

    steps: int | None = None
    epochs: float = 10.0
    extend: bool = False
    batch_size: int = 32
    accumulation: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    warmup_steps: int | None = 50
    final_learning_rate_scale: float = 0.05
    gate_learning_rate_scale: float = 10.0
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    max_grad_norm: float = 1.0
    max_skipped: int = 5
    precision: str = "auto"
    seed: int = 0
    log_every: int = 20
    eval_every: int = 500
    save_every: int = 200
    keep: int = 2
    keep_best: bool = True
    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_kinds(self)
        optional = {name for name in self._own(("steps", "row_length")) if getattr(self, name) is None}
        for name in self._own(_COUNTS) - optional:
            self._check(name, getattr(self, name) >= 1, "must be at least 1")
        for name in self._own(_POSITIVE):
            self._check(name, getattr(self, name) > 0, "must be above 0")
        for name in self._own(_SHARES):
            self._check(name, 0 <= getattr(self, name) <= 1, "must be 0–1")
        for name in self._own(_FRACTIONS):
            self._check(name, 0 <= getattr(self, name) < 1, "must be a share from 0 to below 1")
        for name in ("weight_decay", "seed"):
            self._check(name, getattr(self, name) >= 0, "must not be negative")
        for name in self._own(_FINITE):
            self._check(name, getattr(self, name) < math.inf, "must be finite")
        for name in self._own(_COUNTS) - optional | {"seed"}:
            self._check(name, getattr(self, name) < 2**63, "must be below 2^63")
        self._check("warmup_steps", self.warmup_steps is None or self.warmup_steps >= 0, "must not be negative")
        self._check("betas", len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "must be two of 0 ≤ β < 1")
        self._check("optimizer", self.optimizer in OPTIMIZERS, f"must be one of {', '.join(OPTIMIZERS)}")
        self._check("precision", self.precision in PRECISIONS, f"must be one of {', '.join(PRECISIONS)}")
        if self.trackers:
            from mmlm.training.trackers import check_trackers  # torch, for a run that has them

            check_trackers(self.trackers)

    def binding(self) -> dict[str, Any]:
        """The settings that a resumed run must share, as JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["betas"] = list(self.betas)
        return {name: value for name, value in values.items() if name not in _FREE}

    def steps_over(self, examples: int) -> int:
        """How many steps a run takes: `steps`, or as many as `epochs` passes over so many examples."""
        return self.steps or max(1, math.ceil(self.epochs * examples / (self.batch_size * self.accumulation)))

    def _own(self, names: tuple[str, ...]) -> set[str]:
        return {field.name for field in dataclasses.fields(self)} & set(names)

    def _check(self, name: str, good: bool, rule: str) -> None:
        if not good:
            raise ValueError(f"{name} {rule}, not {getattr(self, name)!r}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(TrainerConfig):
    """Settings of `mmlm.train`, beside those of every run. An epoch shows one text of each record.

    caption_share: 0–1, how often a record with captions and questions gives a caption.
    sort_window: steps whose examples are sorted by length together, against padding; 1 for none.
    row_length: short texts share rows of up to this many positions (sequence packing), without seeing each other; None
        gives each a row of its own. It saves padding, where texts of a batch are of different lengths.
    held_out_examples: at most this many held-out records are used.
    features: when frozen encoders compute. "cached": all media before the first step, kept on disk for later epochs and
        runs. "ahead": those of a step while the steps before it are computed; nothing is kept. "auto": what takes less
        time of these, as measured on a few records, and has room on the disk. What is held out is cached. Either way
        they are seen in 16 bits.
    cache: folder for the features of the frozen encoders; None puts it into the output folder.
    bad_limit: share of bad records (0–1) above which the run stops with their list.
    shard: split the language model and the gated blocks, with their gradients and moments, over the processes that
        torchrun or `accelerate launch` has started (FSDP2), where they do not fit on each device. It takes time, and
        afterwards the model in memory is not to be used: load what was saved.
    stream: read records and encode their media while training goes on, from tars that may lie elsewhere (s3://…), in
        place of reading all of them before the first step. Needs `steps`. See docs/data.md.
    mix: of a stream, how often each entry of `data` is taken; None takes each as often as it has records.
    shard_window: of a stream, how many tars are mixed at a time.
    """

    learning_rate: float = 3e-4
    warmup_steps: int | None = None
    final_learning_rate_scale: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    precision: str = "float32"
    log_every: int = 10
    eval_every: int = 200
    caption_share: float = 0.5
    sort_window: int = 16
    row_length: int | None = None
    held_out_examples: int = 256
    features: str = "cached"
    cache: str | None = None
    bad_limit: float = 0.01
    shard: bool = False
    stream: bool = False
    mix: tuple[float, ...] | None = None
    shard_window: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stream and self.steps is None:
            raise ValueError("a stream needs steps: how many an epoch has is known when all of its tars were read")
        self._check("mix", self.mix is None or self.stream, "is for streams: it needs stream=True")
        self._check("features", self.features in FEATURES, f"must be one of {', '.join(FEATURES)}")
        self._check("features", not self.stream or self.features == "cached", "is for data that are no stream")


class TrainSettings(TypedDict, total=False):
    """The fields of TrainConfig as keywords of `mmlm.train`."""

    steps: int | None
    epochs: float
    extend: bool
    batch_size: int
    accumulation: int
    optimizer: str
    learning_rate: float
    warmup_steps: int | None
    final_learning_rate_scale: float
    gate_learning_rate_scale: float
    weight_decay: float
    betas: tuple[float, float]
    max_grad_norm: float
    max_skipped: int
    precision: str
    seed: int
    log_every: int
    eval_every: int
    save_every: int
    keep: int
    keep_best: bool
    trackers: tuple[str, ...]
    caption_share: float
    sort_window: int
    row_length: int | None
    held_out_examples: int
    features: str
    cache: str | None
    bad_limit: float
    shard: bool
    stream: bool
    mix: tuple[float, ...] | None
    shard_window: int


@dataclass(frozen=True, kw_only=True)
class WritingTrainConfig(TrainerConfig):
    """Settings of `train_writing`, beside those of every run.

    tune: what trains: "rows", the rows of the codes alone; "lora", low-rank adapters as well; "full", all of the
        language model, which is then saved beside the model and is no longer the one that was given.
    text_dropped: share of texts left out, so that classifier-free guidance has an unconditional model.
    pairs_per_row: texts with their media that follow one another in a row, each closed by its end mark.
    max_seconds: longer recordings are left out.
    """

    steps: int | None = 2000
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    eval_every: int = 250
    tune: Literal["rows", "lora", "full"] = "lora"
    text_dropped: float = 0.1
    pairs_per_row: int = 1
    max_seconds: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("tune", self.tune in ("rows", "lora", "full"), 'must be "rows", "lora" or "full"')


@dataclass(frozen=True, kw_only=True)
class CodecTrainConfig(TrainerConfig):
    """Settings of `train_codec` and `train_decoder`, beside those of every run.

    seconds: length of the stretches of sound that are learned from.
    preview_every: steps between previews, which are also written at the end.
    device: cpu, cuda or cuda:N.
    Of codecs: tune: "all" of it, or its "decoder" alone, so that codes stay as they are. adversarial_from: the step
        from which a critic of patches adds its loss (VQGAN); None for never.
    Of diffusion decoders: corrupted: share of codes replaced by random ones; dropped: share of rows without a
        condition; consistency: weight of the loss that keeps codes as they are (`DiffusionDecoder.loss`); ema_decay:
        of the moving average of weights, which is what is saved.
    """

    steps: int | None = 2000
    weight_decay: float = 0.01
    preview_every: int = 500
    seconds: float = 1.0
    tune: Literal["all", "decoder"] = "all"
    adversarial_from: int | None = None
    corrupted: float = 0.03
    dropped: float = 0.1
    consistency: float = 1.0
    ema_decay: float = 0.995
    device: str = "cpu"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("tune", self.tune in ("all", "decoder"), 'must be "all" or "decoder"')
        self._check("consistency", self.consistency >= 0, "must not be negative")
        start = self.adversarial_from
        self._check("adversarial_from", start is None or start >= 0, "must not be negative")


Config = TypeVar("Config", bound=TrainerConfig)


def with_settings(config: Config, settings: dict[str, Any]) -> Config:
    """A config with some fields replaced; TypeError for an unknown one, naming the nearest known one."""
    known = [field.name for field in dataclasses.fields(config)]
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"settings are {', '.join(known)}"
            raise TypeError(f"unknown setting {name!r}; {hint}")
    return dataclasses.replace(config, **settings)
