"""A frozen CLIP, a frozen Whisper and any causal language model, joined by Flamingo's gated cross-attention.

Names are imported when first used, so that `import mmlm` (and `mmlm --help`) loads nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from encoders.sound import Audio
    from mmlm.assembly import assemble, load
    from mmlm.config import FusionConfig, ResamplerConfig
    from mmlm.generation import GenerationOptions
    from mmlm.model import MultimodalLM
    from mmlm.prompt import END_OF_CHUNK, Image, PromptTemplate, Sound
    from mmlm.rices import Rices
    from mmlm.sheet import contact_sheet
    from mmlm.training import TrainConfig, train

__version__ = "0.1.0"
__all__ = [
    "END_OF_CHUNK",
    "Audio",
    "FusionConfig",
    "GenerationOptions",
    "Image",
    "MultimodalLM",
    "PromptTemplate",
    "ResamplerConfig",
    "Rices",
    "Sound",
    "TrainConfig",
    "assemble",
    "contact_sheet",
    "load",
    "train",
]

_HOME = {
    "END_OF_CHUNK": "mmlm.prompt",
    "Audio": "encoders.sound",
    "FusionConfig": "mmlm.config",
    "GenerationOptions": "mmlm.generation",
    "Image": "mmlm.prompt",
    "MultimodalLM": "mmlm.model",
    "PromptTemplate": "mmlm.prompt",
    "ResamplerConfig": "mmlm.config",
    "Rices": "mmlm.rices",
    "Sound": "mmlm.prompt",
    "TrainConfig": "mmlm.training",
    "assemble": "mmlm.assembly",
    "contact_sheet": "mmlm.sheet",
    "load": "mmlm.assembly",
    "train": "mmlm.training",
}


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
