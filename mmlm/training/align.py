"""`align`: an assembled model is taught by preferences, by rewards or by a teacher."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmlm.assembly.load import load
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.training.alignment.answers import read_judged
from mmlm.training.alignment.config import (
    AlignConfig,
    DistillConfig,
    GrpoConfig,
    PpoConfig,
    PreferenceConfig,
    RewardConfig,
    RolloutConfig,
)
from mmlm.training.alignment.lessons import read_lessons, taught
from mmlm.training.alignment.prompts import read_prompts
from mmlm.training.alignment.reward_model import RewardModel
from mmlm.training.alignment.rewards import Reward, named_rewards, weighted
from mmlm.training.alignment.teacher import Teacher
from mmlm.training.checks import check_output
from mmlm.training.config import with_settings
from mmlm.training.objectives.adapters import check_added
from mmlm.training.objectives.base import Objective
from mmlm.training.objectives.distill import DistillObjective
from mmlm.training.objectives.grpo import GrpoObjective
from mmlm.training.objectives.ppo import PpoObjective
from mmlm.training.objectives.preferences import PreferencesObjective
from mmlm.training.objectives.reward import RewardObjective
from mmlm.training.owner import owned
from mmlm.training.result import TrainResult
from mmlm.training.trainer import Trainer

Alignment = PreferenceConfig | RewardConfig | GrpoConfig | PpoConfig | DistillConfig
"""The settings of an objective of alignment."""


def align(
    model: MultimodalLM,
    data: Any,
    objective: Alignment,
    *,
    rewards: Mapping[str, Any] | None = None,
    teacher: MultimodalLM | None = None,
    output: str | os.PathLike,
    held_out: Any = None,
    images: str | os.PathLike | None = None,
    resume: bool = True,
    progress: bool = True,
    config: AlignConfig | None = None,
    **settings: Any,
) -> TrainResult:
    """Align what was added to the frozen parts of `model`, in place.

    objective: what is learned and how: a PreferenceConfig, RewardConfig, GrpoConfig, PpoConfig or DistillConfig.
    data, held_out: anything `mmlm.data.read_records` takes, with what the objective needs; images: the folder of its
    pictures.
    rewards: of GRPO and PPO, functions of what was written (`mmlm.training.alignment.rewards.Reward`) by their names,
    beside those that the objective names; the weight of each is the objective's, or 1. Their names identify the run.
    teacher: of distillation, a loaded model in place of the one that the objective names. It is not changed.
    output: a folder that gets `model/` (for `mmlm.load`; a reward model's for `RewardModel.load`), `metrics.jsonl`,
    `loss.png` and `checkpoints/`; a run in it is gone on with, unless `resume` is False.
    settings: fields of AlignConfig, over those of `config`; TypeError for an unknown one.
    Errors are those of `mmlm.train`.
    """
    config, output = with_settings(config or AlignConfig(), dict(settings)), check_output(output)
    if config.cache is not None:
        check_output(config.cache, "cache")
    check_added(model)
    with owned(output, model.device):
        made = objective_of(model, data, objective, output, held_out, config, progress, images, rewards, teacher)
        return Trainer(made, config, output, progress=progress).fit(resume=resume)


def objective_of(
    model: MultimodalLM,
    data: Any,
    objective: Alignment,
    output: Path,
    held_out: Any,
    config: AlignConfig,
    progress: bool = False,
    images: Any = None,
    rewards: Mapping[str, Reward] | None = None,
    teacher: MultimodalLM | None = None,
) -> Objective:
    """What `align` trains, once its data are read and their media encoded."""
    sources = [source for source in (data, held_out) if source is not None]
    if teacher is not None and not isinstance(objective, DistillConfig):
        raise ValueError(f"a teacher is for distill, not for {objective.kind}")
    if isinstance(objective, GrpoConfig | PpoConfig):
        weights, reward = rewarded(model, objective, rewards or {})
        prompts = [read_prompts(model, own, output, config, objective, progress, images) for own in sources]
        given = (model, prompts[0], next(iter(prompts[1:]), None), reward)
        if isinstance(objective, PpoConfig):
            return PpoObjective(*given, dataclasses.replace(objective, rewards=weights), config)
        return GrpoObjective(*given, dataclasses.replace(objective, rewards=weights), config)
    if rewards:
        raise ValueError(f"rewards are for grpo and ppo, not for {objective.kind}")
    if isinstance(objective, DistillConfig):
        return distilled(model, teacher, objective, sources, output, config, progress, images)
    paired = objective.kind != "kto"
    judged = [read_judged(model, own, output, config, paired, progress, images) for own in sources]
    if isinstance(objective, RewardConfig):
        return RewardObjective(RewardModel(model), judged[0], next(iter(judged[1:]), None), objective, config)
    return PreferencesObjective(model, judged[0], next(iter(judged[1:]), None), objective, config)


def distilled(
    model: MultimodalLM,
    given: MultimodalLM | None,
    objective: DistillConfig,
    sources: Sequence[Any],
    output: Path,
    config: AlignConfig,
    progress: bool,
    images: Any,
) -> DistillObjective:
    """The objective of distillation. A teacher of whom all is known is given up. ValueError where there is none."""
    if given is None and objective.teacher is None:
        raise ValueError("distill needs a teacher: objective.teacher names one, and in Python teacher= takes a model")
    teacher = Teacher(given or load(str(objective.teacher), device=model.device), model, objective, config.precision)
    cache = Path(config.cache or output) / "features"
    lessons = [read_lessons(model, teacher, own, cache, config, progress, images) for own in sources]
    training, held = lessons[0], next(iter(lessons[1:]), None)
    if objective.on != "student":
        training = taught(training, objective.on == "teacher", cache, config, progress)
    if held is not None:
        held = taught(held.first(config.held_out_examples), False, cache, config, progress)
    if training.told and (held is None or held.told):
        teacher.release()
    return DistillObjective(model, training, held, objective, config)


def rewarded(
    model: MultimodalLM, objective: RolloutConfig, given: Mapping[str, Reward]
) -> tuple[dict[str, float], Reward]:
    """The weights of all rewards of an objective by their names, and their sum. ValueError where there is none."""
    weights = {**{name: 1.0 for name in given}, **objective.rewards}
    if not weights:
        raise ValueError("no rewards: give objective.rewards, such as {exact_match: 1}")
    named = named_rewards(model, {name: own for name, own in weights.items() if name not in given})
    found = {**named, **{name: (own, weights[name]) for name, own in given.items()}}
    return weights, weighted(found)
