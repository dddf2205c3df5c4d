"""How media reach the language model: Flamingo's gated cross-attention, or LLaVA's prefix.

Each way is a `Fusion`, which holds what is trained, and a `MediaContext`, which holds the media of one request: which
positions an item takes in the text, what is embedded there, what runs before a block, and what is kept for the steps
after the prompt. `KINDS` names them. `visible_media` decides, for cross-attention, which text sees which item.
"""

from mmlm.model.fusion.cross_attention import CrossAttention
from mmlm.model.fusion.gated_block import GatedCrossAttentionBlock, KeysValues, MaskedCrossAttention
from mmlm.model.fusion.interface import Fusion, MediaContext, MediaItems
from mmlm.model.fusion.kinds import KINDS
from mmlm.model.fusion.media_context import CrossAttentionContext
from mmlm.model.fusion.prefix import Prefix, PrefixContext
from mmlm.model.fusion.visibility import MediaView, Visibility, visible_media

__all__ = [
    "KINDS",
    "CrossAttention",
    "CrossAttentionContext",
    "Fusion",
    "GatedCrossAttentionBlock",
    "KeysValues",
    "MaskedCrossAttention",
    "MediaContext",
    "MediaItems",
    "MediaView",
    "Prefix",
    "PrefixContext",
    "Visibility",
    "visible_media",
]
