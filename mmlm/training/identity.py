"""What a checkpoint was made with, so that it is continued with nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.training.checkpoint import Checkpoint
from mmlm.training.config import TrainConfig
from mmlm.training.examples import Examples


def identify(model: MultimodalLM, examples: Examples, config: TrainConfig, steps: int) -> dict:
    """What must be the same for a checkpoint to be continued."""
    return {
        **config.binding(),
        "steps": steps,
        "data": examples.records.fingerprint(),
        "language_model": model.language_model.fingerprint(),
        **{f"{name}_encoder": encoder.fingerprint() for name, encoder in model.encoders.items()},
        "frozen_types": [str(model.language_model.dtype), *map(str, _feature_types(examples))],
        "resampler": dataclasses.asdict(model.resampler_config),
        "audio_resampler": dataclasses.asdict(model.audio_resampler_config),
        "fusion": dataclasses.asdict(model.fusion_config),
        "template": dataclasses.asdict(model.template),
        "added_weights": {name: list(parameter.shape) for name, parameter in model.added_parameters()},
    }


def _feature_types(examples: Examples) -> list[torch.dtype]:
    return [next(iter(own.values())).tokens.dtype for _, own in sorted(examples.features.items()) if own]


def check_identity(checkpoint: Checkpoint, identity: dict, output: Path) -> None:
    """ValueError that names what differs between a checkpoint's run and this one."""
    known = checkpoint.state["identity"]
    changed = [name for name in identity if known.get(name) != identity[name]]
    if changed:
        differences = "; ".join(
            name if isinstance(identity[name], dict) else f"{name} was {known.get(name)!r}, now {identity[name]!r}"
            for name in changed
        )
        raise ValueError(
            f"{output} holds a run with other settings ({differences}). Go on with the old ones, choose another "
            "output folder, or start anew with resume=False"
        )
