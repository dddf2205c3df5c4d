"""Training of adapters, codecs, diffusion decoders and the writing of codes; nothing pretrained is changed.

One Trainer (`trainer`) minimises an objective (`objectives/`) and resumes exactly; `config` has the settings, `recipe`
the YAML files that hold them and `run` what runs those. `optimizer` makes optimizers and the learning-rate schedule,
`checkpoint` and `identity` keep a run and tell it from others. `examples`, `features`, `pairs` and `media` prepare
data; what frozen encoders and codecs make of it is computed once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmlm.training.config import CodecTrainConfig, TrainConfig, TrainerConfig, WritingTrainConfig
    from mmlm.training.objectives.adapters import train
    from mmlm.training.objectives.base import Objective, Part
    from mmlm.training.objectives.codec import train_codec
    from mmlm.training.objectives.codes import train_writing
    from mmlm.training.objectives.decoder import train_decoder
    from mmlm.training.objectives.loss import LossObjective
    from mmlm.training.recipe import load_recipe
    from mmlm.training.result import NonFiniteLossError, TrainResult
    from mmlm.training.run import train_from_recipe
    from mmlm.training.trainer import Trainer

__all__ = [
    "CodecTrainConfig",
    "LossObjective",
    "NonFiniteLossError",
    "Objective",
    "Part",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "TrainerConfig",
    "WritingTrainConfig",
    "load_recipe",
    "train",
    "train_codec",
    "train_decoder",
    "train_from_recipe",
    "train_writing",
]

_HOMES = {
    "CodecTrainConfig": "config",
    "LossObjective": "objectives.loss",
    "NonFiniteLossError": "result",
    "Objective": "objectives.base",
    "Part": "objectives.base",
    "TrainConfig": "config",
    "TrainResult": "result",
    "Trainer": "trainer",
    "TrainerConfig": "config",
    "WritingTrainConfig": "config",
    "load_recipe": "recipe",
    "train": "objectives.adapters",
    "train_codec": "objectives.codec",
    "train_decoder": "objectives.decoder",
    "train_from_recipe": "run",
    "train_writing": "objectives.codes",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # the next look-up does not come here
    return value
