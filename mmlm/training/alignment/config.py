"""The settings of alignment: of a run, and of each objective."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from decoders.values import check_kinds
from mmlm.training.config import TrainerConfig

PREFERENCES = ("dpo", "ipo", "kto", "simpo")
REWARDS = ("exact_match", "contains", "brief", "json", "clip", "words")
"""The names of rewards, see `mmlm.training.alignment.rewards`."""


@dataclass(frozen=True, kw_only=True)
class AlignConfig(TrainerConfig):
    """Settings of `align`, beside those of every run. A step sees `batch_size × accumulation` pairs, or prompts.

    tune: "added", all that was added to the frozen parts and has a part in the answers; "lora", the low-rank adapters
        alone.
    cache: folder for the features of the frozen encoders and for codes; None puts it into the output folder.
    bad_limit: share of bad records (0–1) above which the run stops with their list.
    held_out_examples: at most this many held-out records are used.
    max_seconds: of sounds that are learned as codes; longer ones are left out.
    """

    epochs: float = 1.0
    batch_size: int = 8
    learning_rate: float = 1e-4
    warmup_steps: int | None = None
    final_learning_rate_scale: float = 0.0
    gate_learning_rate_scale: float = 1.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    precision: str = "float32"
    log_every: int = 10
    eval_every: int = 100
    tune: Literal["added", "lora"] = "added"
    cache: str | None = None
    bad_limit: float = 0.01
    held_out_examples: int = 256
    max_seconds: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("tune", self.tune in ("added", "lora"), 'must be "added" or "lora"')


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """What `align` learns from preferences.

    kind: dpo, ipo and simpo learn from pairs of answers, kto from single answers that are good or bad (pairs are two).
    beta: how much is lost by leaving the reference, the model as it is at the start; null takes 0.1, and 2.0 for simpo,
        which has none.
    gamma: of simpo, by how much the better answer is to win. label_smoothing: of dpo, the share of pairs whose labels
        are taken to be wrong. weights: of kto, of good and of bad answers.
    sft: weight of the plain loss of the better answers, in nats per token, beside that of the preference.
    """

    kind: Literal["dpo", "ipo", "kto", "simpo"] = "dpo"
    beta: float | None = None
    gamma: float = 0.5
    label_smoothing: float = 0.0
    weights: tuple[float, float] = (1.0, 1.0)
    sft: float = 0.0

    def __post_init__(self) -> None:
        check_kinds(self)
        check(self, "kind", self.kind in PREFERENCES, "is dpo, ipo, kto or simpo")
        check(self, "beta", self.beta is None or 0 < self.beta < math.inf, "must be above 0")
        check(self, "label_smoothing", 0 <= self.label_smoothing < 0.5, "is a share from 0 to below 0.5")
        check(self, "weights", len(self.weights) == 2 and all(own >= 0 for own in self.weights), "are two, from 0 on")
        check(self, "sft", 0 <= self.sft < math.inf, "must not be negative")

    @property
    def strength(self) -> float:
        """`beta`, or what stands for it."""
        return self.beta if self.beta is not None else 2.0 if self.kind == "simpo" else 0.1

    def binding(self) -> dict[str, Any]:
        """What a resumed run must share, as JSON values."""
        return {**asdict(self), "beta": self.strength, "weights": list(self.weights)}


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """What a reward model learns from pairs of answers: the better one has the higher reward.

    kind: reward, a model whose one output is the reward of an answer.
    centre: weight of the square of a pair's sum, which keeps rewards about 0.
    """

    kind: Literal["reward"] = "reward"
    centre: float = 0.0

    def __post_init__(self) -> None:
        check_kinds(self)
        check(self, "centre", 0 <= self.centre < math.inf, "must not be negative")

    def binding(self) -> dict[str, Any]:
        """What a resumed run must share, as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """What `align` learns from rewards of what the model writes.

    rewards: of what a model wrote, by name, and their weights: exact_match, contains, brief, json, clip, words (see
        docs/howto/align.md); in Python any function.
    writes: "text" answers prompts; "image" draws captions; "audio" speaks transcripts.
    generations: answers to each prompt, which are a group. max_new_tokens: of a text, at most. temperature: that of
        sampling.
    thinking: the most tokens of a thought before each text, after which its closing mark is written by force; 0 has
        none. The thought is learned from as well; rewards see the answer alone, and the thought beside it.
    iterations: steps that are taken on what was written once.
    beta: weight of the distance from the reference, the model as it is at the start; 0 needs none.
    clip_low, clip_high: how far the ratio to the policy that wrote may fall and rise before nothing more is gained.
    aggregation: "tokens", every token counts alike (DAPO); "sequences", every answer (GRPO); "constant", answers by
        their length over the greatest (Dr. GRPO).
    keep_cut: whether texts that the limit cut off are learned from.
    """

    rewards: dict[str, float] = field(default_factory=dict)
    writes: Literal["text", "image", "audio"] = "text"
    generations: int = 8
    max_new_tokens: int = 64
    thinking: int = 0
    temperature: float = 1.0
    iterations: int = 1
    beta: float = 0.0
    clip_low: float = 0.2
    clip_high: float = 0.28
    aggregation: Literal["tokens", "sequences", "constant"] = "tokens"
    keep_cut: bool = True

    def __post_init__(self) -> None:
        check_kinds(self)
        check(self, "writes", self.writes in ("text", "image", "audio"), "is text, image or audio")
        for name in ("generations", "max_new_tokens", "iterations"):
            check(self, name, getattr(self, name) >= 1, "must be at least 1")
        check(self, "thinking", self.thinking >= 0, "must not be negative")
        check(self, "thinking", not self.thinking or self.writes == "text", "must be 0 where media are written")
        check(self, "temperature", 1e-3 <= self.temperature <= 1e3, "lies in 0.001..1000")
        check(self, "beta", 0 <= self.beta < math.inf, "must not be negative")
        check(self, "clip_low", 0 < self.clip_low <= 1, "lies above 0, up to 1")
        check(self, "clip_high", 0 < self.clip_high < math.inf, "must be above 0")
        check(self, "aggregation", self.aggregation in ("tokens", "sequences", "constant"), "is of another name")

    def binding(self) -> dict[str, Any]:
        """What a resumed run must share, as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class GrpoConfig(RolloutConfig):
    """What `align` learns from rewards: answers above the mean of their group grow likelier (GRPO).

    kind: grpo, which lets the model answer each prompt several times and compares the answers.
    scale: "group" divides by the group's spread of rewards; "none" does not.
    """

    kind: Literal["grpo"] = "grpo"
    scale: Literal["group", "none"] = "group"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "generations", self.generations >= 2, "is at least 2: an answer is compared with others")
        check(self, "scale", self.scale in ("group", "none"), "is group or none")


@dataclass(frozen=True, kw_only=True)
class PpoConfig(RolloutConfig):
    """What `align` learns from rewards: tokens that bring more than a value head expected grow likelier (PPO).

    kind: ppo, which lets the model answer each prompt once, and learns what to expect of an answer while it is written.
    gamma, lam: by how much what comes later counts less, in returns and in advantages.
    value_weight: weight of the loss of the values. value_clip: how far a value may move from that of the policy that
        wrote before nothing more is gained.
    """

    kind: Literal["ppo"] = "ppo"
    generations: int = 1
    iterations: int = 4
    beta: float = 0.05
    clip_high: float = 0.2
    gamma: float = 1.0
    lam: float = 0.95
    value_weight: float = 0.5
    value_clip: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gamma", "lam"):
            check(self, name, 0 <= getattr(self, name) <= 1, "lies in 0..1")
        check(self, "value_weight", 0 <= self.value_weight < math.inf, "must not be negative")
        check(self, "value_clip", 0 < self.value_clip < math.inf, "must be above 0")


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """What a student learns from a teacher: how likely each token of an answer is, after all that comes before it.

    kind: distill, which learns the distributions of another model that has the same tokenizer.
    teacher: that model, by name: a preset, a folder or a hub id; in Python a loaded model as well.
    on: whose answers they are of: "data", those of the data; "teacher", such as it samples before the first step, once;
        "student", such as the student writes at a step, on which the teacher then comments (GKD).
    share: of "student", in how many steps (0–1) it writes; in the others they are of the data.
    beta: which distance: 0, KL(teacher‖student), which covers all that the teacher might say; 1, KL(student‖teacher),
        which keeps to a part; between them the generalised Jensen–Shannon divergence.
    temperature: of both distributions, and of sampling.
    top_k: tokens of the teacher that are told apart; all others are one. Of given answers these are computed once and
        kept beside the features, in 16 bits. null tells all apart, and has the teacher compute in each step.
    sft: weight of the plain loss of answers, in nats per token, beside the distance; not of those that the student
        writes.
    max_new_tokens: of a sampled answer, at most.
    """

    kind: Literal["distill"] = "distill"
    teacher: str | None = None
    on: Literal["data", "teacher", "student"] = "data"
    share: float = 1.0
    beta: float = 0.0
    temperature: float = 1.0
    top_k: int | None = 64
    sft: float = 0.0
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        check_kinds(self)
        check(self, "share", 0 < self.share <= 1, "is a share above 0, up to 1")
        check(self, "share", self.share == 1 or self.on == "student", "is for on: student")
        check(self, "beta", 0 <= self.beta <= 1, "lies in 0..1")
        check(self, "temperature", 1e-3 <= self.temperature <= 1e3, "lies in 0.001..1000")
        check(self, "top_k", self.top_k is None or self.top_k >= 1, "must be at least 1, or null for all")
        check(self, "sft", 0 <= self.sft < math.inf, "must not be negative")
        check(self, "sft", not self.sft or self.on != "student" or self.share < 1, "is for answers that are given")
        check(self, "max_new_tokens", self.max_new_tokens >= 1, "must be at least 1")

    def binding(self) -> dict[str, Any]:
        """What a resumed run must share, as JSON values. The teacher is told by its content, not by its name."""
        return {name: value for name, value in asdict(self).items() if name != "teacher"}


def check(settings: Any, name: str, good: bool, rule: str) -> None:
    """ValueError that names a setting of an objective."""
    if not good:
        raise ValueError(f"{name} {rule}, not {getattr(settings, name)!r}")
