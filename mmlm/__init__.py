"""A frozen CLIP and any causal language model, joined by Flamingo's gated cross-attention.

Names are imported when first used, so that `import mmlm` (and `mmlm --help`) loads nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmlm.assembly import assemble, load
    from mmlm.config import FusionConfig, ResamplerConfig
    from mmlm.generation import GenerationOptions
    from mmlm.model import MultimodalLM
    from mmlm.prompt import END_OF_CHUNK, Image, PromptTemplate
    from mmlm.rices import Rices
    from mmlm.sheet import contact_sheet
    from mmlm.training import TrainConfig, train

__version__ = "0.1.0"
__all__ = [
    "END_OF_CHUNK",
    "FusionConfig",
    "GenerationOptions",
    "Image",
    "MultimodalLM",
    "PromptTemplate",
    "ResamplerConfig",
    "Rices",
    "TrainConfig",
    "assemble",
    "contact_sheet",
    "load",
    "train",
]

_HOME = {
    "END_OF_CHUNK": "prompt",
    "FusionConfig": "config",
    "GenerationOptions": "generation",
    "Image": "prompt",
    "MultimodalLM": "model",
    "PromptTemplate": "prompt",
    "ResamplerConfig": "config",
    "Rices": "rices",
    "TrainConfig": "training",
    "assemble": "assembly",
    "contact_sheet": "sheet",
    "load": "assembly",
    "train": "training",
}


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
