"""Training of adapters, codecs, diffusion decoders and the writing of codes; nothing pretrained is changed.

One Trainer (`trainer`) minimises an objective (`objectives/`) and resumes exactly; `config` has the settings, `recipe`
the YAML files that hold them and `run` what runs those. `optimizer` makes optimizers and the learning-rate schedule,
`checkpoint` and `identity` keep a run and tell it from others, `checks` what is wrong before one begins, and
`reporting` how far it is. `examples`, `features`, `pairs` and `media` prepare data; what frozen encoders and codecs
make of it is computed once. `streaming` makes examples while training goes on, of a stream or of records `at_hand`;
`ways` measures which of both is better, and `sets` goes that way. `rows` lets short texts share a row, `resting` has
frozen weights lie in the dtype that computes, and `ranks` are the processes that train together. `plan` and `trial` say
what a recipe would do and take.
"""

from typing import TYPE_CHECKING

from mmlm._lazy import lazy_names

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
    from mmlm.training.run import plan_from_recipe, prepared_from_recipe, train_from_recipe
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
    "plan_from_recipe",
    "prepared_from_recipe",
    "train",
    "train_codec",
    "train_decoder",
    "train_from_recipe",
    "train_writing",
]

__getattr__ = lazy_names(
    __name__,
    {
        "CodecTrainConfig": "mmlm.training.config",
        "LossObjective": "mmlm.training.objectives.loss",
        "NonFiniteLossError": "mmlm.training.result",
        "Objective": "mmlm.training.objectives.base",
        "Part": "mmlm.training.objectives.base",
        "TrainConfig": "mmlm.training.config",
        "TrainResult": "mmlm.training.result",
        "Trainer": "mmlm.training.trainer",
        "TrainerConfig": "mmlm.training.config",
        "WritingTrainConfig": "mmlm.training.config",
        "load_recipe": "mmlm.training.recipe",
        "plan_from_recipe": "mmlm.training.run",
        "prepared_from_recipe": "mmlm.training.run",
        "train": "mmlm.training.objectives.adapters",
        "train_codec": "mmlm.training.objectives.codec",
        "train_decoder": "mmlm.training.objectives.decoder",
        "train_from_recipe": "mmlm.training.run",
        "train_writing": "mmlm.training.objectives.codes",
    },
)
