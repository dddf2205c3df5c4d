"""How tokens are written, one after the other, and what comes of them.

`request` encodes prompts and their media once; `loop` decodes them, greedily or by sampling, and `beams` by beam
search, over a `decoder` with its `cache`. `constraints/` restrict what a row may write. `result` is what every
generation gives, `options` are how it is asked for. `text` decodes ids as they come, `media` turns codes into pictures
and sound, and `log_probs` measures given answers. `nonfinite` finds the layer where
values ceased to be numbers. Names are imported when first used.
"""

from typing import TYPE_CHECKING

from mmlm._lazy import lazy_names

if TYPE_CHECKING:
    from mmlm.generation.log_probs import log_probs
    from mmlm.generation.nonfinite import NonFiniteLogitsError
    from mmlm.generation.options import GenerationKeywords, GenerationOptions
    from mmlm.generation.result import FinishReason, GenerationResult, Usage

__all__ = [
    "FinishReason",
    "GenerationKeywords",
    "GenerationOptions",
    "GenerationResult",
    "NonFiniteLogitsError",
    "Usage",
    "log_probs",
]

__getattr__ = lazy_names(
    __name__,
    {
        "FinishReason": "mmlm.generation.result",
        "GenerationKeywords": "mmlm.generation.options",
        "GenerationOptions": "mmlm.generation.options",
        "GenerationResult": "mmlm.generation.result",
        "NonFiniteLogitsError": "mmlm.generation.nonfinite",
        "Usage": "mmlm.generation.result",
        "log_probs": "mmlm.generation.log_probs",
    },
)
