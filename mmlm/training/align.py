"""`align`: an assembled model is taught by preferences, by rewards or by a teacher."""

from __future__ import annotations

import os
from typing import Any

from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.training.alignment.answers import read_judged
from mmlm.training.alignment.config import AlignConfig, PreferenceConfig
from mmlm.training.checks import check_output
from mmlm.training.config import with_settings
from mmlm.training.objectives.adapters import check_added
from mmlm.training.objectives.base import Objective
from mmlm.training.objectives.preferences import PreferencesObjective
from mmlm.training.owner import owned
from mmlm.training.result import TrainResult
from mmlm.training.trainer import Trainer


def align(
    model: MultimodalLM,
    data: Any,
    objective: PreferenceConfig,
    *,
    output: str | os.PathLike,
    held_out: Any = None,
    images: str | os.PathLike | None = None,
    resume: bool = True,
    progress: bool = True,
    config: AlignConfig | None = None,
    **settings: Any,
) -> TrainResult:
    """Align what was added to the frozen parts of `model`, in place.

    objective: what is learned and how, a PreferenceConfig. data, held_out: anything `mmlm.data.read_records` takes,
    with what the objective needs; images: the folder of its pictures.
    output: a folder that gets `model/` (for `mmlm.load`), `metrics.jsonl`, `loss.png` and `checkpoints/`; a run in it
    is gone on with, unless `resume` is False.
    settings: fields of AlignConfig, over those of `config`; TypeError for an unknown one.
    Errors are those of `mmlm.train`.
    """
    config, output = with_settings(config or AlignConfig(), dict(settings)), check_output(output)
    if config.cache is not None:
        check_output(config.cache, "cache")
    check_added(model)
    with owned(output, model.device):
        made = objective_of(model, data, objective, output, held_out, config, progress, images)
        return Trainer(made, config, output, progress=progress).fit(resume=resume)


def objective_of(
    model: MultimodalLM,
    data: Any,
    objective: PreferenceConfig,
    output: Any,
    held_out: Any,
    config: AlignConfig,
    progress: bool = False,
    images: Any = None,
) -> Objective:
    """What `align` trains, once its data are read and their media encoded."""
    given, *held = (
        read_judged(model, source, output, config, objective.kind != "kto", progress, images)
        for source in (data, held_out)
        if source is not None
    )
    return PreferencesObjective(model, given, next(iter(held), None), objective, config)
