"""A frozen CLIP and any causal language model, joined by Flamingo's gated cross-attention.

Names are imported on first use, so that `import mmlm` (and `mmlm --help`) loads nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .assembly import assemble, load
    from .generation import GenerationOptions
    from .model import MultimodalLM
    from .prompt import END_OF_CHUNK, Image, PromptTemplate
    from .training import TrainConfig, train

_HOMES = {
    "load": "assembly",
    "assemble": "assembly",
    "train": "training",
    "TrainConfig": "training",
    "MultimodalLM": "model",
    "GenerationOptions": "generation",
    "Image": "prompt",
    "END_OF_CHUNK": "prompt",
    "PromptTemplate": "prompt",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
