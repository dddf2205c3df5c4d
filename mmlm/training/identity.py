"""What a checkpoint was made with, so that it is continued with nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from mmlm.model import MultimodalLM

from .checkpoint import Checkpoint
from .config import TrainConfig
from .examples import Examples


def identify(model: MultimodalLM, examples: Examples, config: TrainConfig, steps: int) -> dict:
    """What must be the same for a checkpoint to be continued."""
    return {
        **config.binding(),
        "steps": steps,
        "data": examples.records.fingerprint(),
        "language_model": model.language_model.fingerprint(),
        "image_encoder": model.encoders["image"].fingerprint(),
        "frozen_types": [str(model.language_model.dtype), str(examples.features[0].tokens.dtype)],
        "resampler": dataclasses.asdict(model.resampler_config),
        "fusion": dataclasses.asdict(model.fusion_config),
        "template": dataclasses.asdict(model.template),
        "added_weights": {name: list(parameter.shape) for name, parameter in model.added_parameters()},
    }


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
