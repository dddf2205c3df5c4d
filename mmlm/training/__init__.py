"""Training of what joins the frozen parts."""

from importlib import import_module

from mmlm.training.config import TrainConfig

__all__ = ["TrainConfig", "TrainResult", "NonFiniteLossError", "train", "train_from_recipe", "load_recipe"]
_HOMES = {
    "train": "loop", "TrainResult": "loop", "NonFiniteLossError": "loop",
    "train_from_recipe": "recipe", "load_recipe": "recipe",
}  # fmt: skip


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
