"""How media reach the language model: Flamingo's gated cross-attention.

`Fusion` holds the `GatedCrossAttentionBlock`s of a model. A `MediaContext` holds the media of one request: the keys and
values of each block, and the `MediaView`, which says what the text of a pass may attend to. `visible_media` decides
which text sees which item.
"""

from mmlm.model.fusion.cross_attention import Fusion, GatedCrossAttentionBlock, KeysValues, MaskedCrossAttention
from mmlm.model.fusion.media_context import MediaContext
from mmlm.model.fusion.visibility import MediaView, Visibility, visible_media

__all__ = [
    "Fusion",
    "GatedCrossAttentionBlock",
    "KeysValues",
    "MaskedCrossAttention",
    "MediaContext",
    "MediaView",
    "Visibility",
    "visible_media",
]
