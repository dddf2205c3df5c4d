"""Recipes of alignment: a model is taught by preferences, by rewards or by a teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from mmlm.training.alignment.config import (
    PREFERENCES,
    REWARDS,
    AlignConfig,
    DistillConfig,
    GrpoConfig,
    PpoConfig,
    PreferenceConfig,
    RewardConfig,
    RolloutConfig,
)
from mmlm.training.model_recipe import WritingModelRecipe


@dataclass(frozen=True, kw_only=True)
class AlignRecipe(AlignConfig):
    """A run that aligns a model.

    model: the model to align; it is its own reference.
    data, held_out: paired data, of what the objective needs: preferences, or questions with their answers.
    images: the folder that paths of pictures start from.
    output: the folder that gets the model, its figures and checkpoints.
    resume: false starts anew and removes the checkpoints in `output`.
    """

    model: WritingModelRecipe = field(default_factory=WritingModelRecipe)
    data: Any = MISSING
    held_out: Any = None
    images: str | None = None
    output: str = MISSING
    resume: bool = True


@dataclass(frozen=True, kw_only=True)
class PreferenceRecipe(AlignRecipe):
    """Alignment by preferences.

    objective: how they are learned.
    """

    objective: PreferenceConfig = field(default_factory=PreferenceConfig)


@dataclass(frozen=True, kw_only=True)
class RewardRecipe(AlignRecipe):
    """A reward model from preferences.

    objective: how it learns them.
    """

    objective: RewardConfig = field(default_factory=RewardConfig)


@dataclass(frozen=True, kw_only=True)
class GrpoRecipe(AlignRecipe):
    """Alignment by rewards.

    objective: what is rewarded, and how it is learned.
    """

    objective: GrpoConfig = field(default_factory=GrpoConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rewards(self.objective)


@dataclass(frozen=True, kw_only=True)
class PpoRecipe(AlignRecipe):
    """Alignment by rewards, with a value head.

    objective: what is rewarded, and how it is learned.
    """

    objective: PpoConfig = field(default_factory=PpoConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rewards(self.objective)


def check_rewards(objective: RolloutConfig) -> None:
    """ValueError for an unknown reward, and for none."""
    unknown = [name for name in objective.rewards if name not in REWARDS]
    if unknown or not objective.rewards:
        said = f"no reward is named {unknown[0]!r}" if unknown else "give rewards, such as {exact_match: 1}"
        raise ValueError(f"objective.rewards: {said}; they are {', '.join(REWARDS)} (in Python any function)")


@dataclass(frozen=True, kw_only=True)
class DistillRecipe(AlignRecipe):
    """Distillation of a teacher.

    objective: who teaches, and how it is learned.
    """

    objective: DistillConfig = field(default_factory=DistillConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective.teacher is None:
            raise ValueError("objective.teacher is missing: the preset, the folder or the hub id of a model")


AlignedRecipe = PreferenceRecipe | RewardRecipe | GrpoRecipe | PpoRecipe | DistillRecipe
"""A recipe with `objective`."""


def align_schema(kind: Any) -> type[AlignRecipe]:
    """The recipe of an objective of this kind. ValueError for an unknown one."""
    if kind in PREFERENCES:
        return PreferenceRecipe
    others: dict[Any, type[AlignRecipe]] = {
        "reward": RewardRecipe,
        "grpo": GrpoRecipe,
        "ppo": PpoRecipe,
        "distill": DistillRecipe,
    }
    if kind in others:
        return others[kind]
    raise ValueError(f"objective.kind must be one of {', '.join((*PREFERENCES, *others))}, not {kind!r}")
