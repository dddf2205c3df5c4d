"""A frozen CLIP, a frozen Whisper and any causal language model, joined by Flamingo's gated cross-attention.

Names are imported when first used, so that `import mmlm` (and `mmlm --help`) loads nothing heavy.
"""

from typing import TYPE_CHECKING

from mmlm._lazy import lazy_names

if TYPE_CHECKING:
    from encoders.media.sound import Audio
    from mmlm.assembly.assemble import assemble
    from mmlm.assembly.codecs import Codecs
    from mmlm.assembly.load import load
    from mmlm.assembly.multimodal_lm import MultimodalLM
    from mmlm.evaluation.contact_sheet import contact_sheet
    from mmlm.generation.options import GenerationOptions
    from mmlm.generation.result import GenerationResult
    from mmlm.model.config import FusionConfig, ResamplerConfig
    from mmlm.prompting.parts import END_OF_CHUNK, Image, Sound
    from mmlm.prompting.templates import PromptTemplate
    from mmlm.retrieval.index import Index
    from mmlm.retrieval.rices import Rices
    from mmlm.training import TrainConfig, train

__version__ = "0.1.0"
__all__ = [
    "END_OF_CHUNK",
    "Audio",
    "Codecs",
    "FusionConfig",
    "GenerationOptions",
    "GenerationResult",
    "Image",
    "Index",
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
    "END_OF_CHUNK": "mmlm.prompting.parts",
    "Audio": "encoders.media.sound",
    "Codecs": "mmlm.assembly.codecs",
    "FusionConfig": "mmlm.model.config",
    "GenerationOptions": "mmlm.generation.options",
    "GenerationResult": "mmlm.generation.result",
    "Image": "mmlm.prompting.parts",
    "Index": "mmlm.retrieval.index",
    "MultimodalLM": "mmlm.assembly.multimodal_lm",
    "PromptTemplate": "mmlm.prompting.templates",
    "ResamplerConfig": "mmlm.model.config",
    "Rices": "mmlm.retrieval.rices",
    "Sound": "mmlm.prompting.parts",
    "TrainConfig": "mmlm.training",
    "assemble": "mmlm.assembly.assemble",
    "contact_sheet": "mmlm.evaluation.contact_sheet",
    "load": "mmlm.assembly.load",
    "train": "mmlm.training",
}


__getattr__ = lazy_names(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
