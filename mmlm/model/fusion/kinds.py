"""The ways of joining media to a language model, by their names in a `FusionConfig`."""

from mmlm.model.fusion.cross_attention import CrossAttention
from mmlm.model.fusion.interface import Fusion
from mmlm.model.fusion.prefix import Prefix

KINDS: dict[str, type[Fusion]] = {"cross_attention": CrossAttention, "prefix": Prefix}
