"""Flamingo's way: the text attends to media in gated blocks between those of the language model."""

from __future__ import annotations

from typing import cast

import torch

from mmlm.model.config import FusionConfig
from mmlm.model.fusion.gated_block import GatedCrossAttentionBlock
from mmlm.model.fusion.interface import Fusion, MediaItems
from mmlm.model.fusion.media_context import CrossAttentionContext
from mmlm.model.fusion.media_slots import CrossAttentionSlots
from mmlm.model.fusion.visibility import Visibility
from mmlm.model.modules import ModuleSequence
from mmlm.prompting.vocabulary import MediaVocabulary

SEEN = {"latest": "the latest medium", "group": "the latest group of media", "all": "all media before it"}


class CrossAttention(Fusion):
    """The gated blocks of a language model: one before every `cross_attention_every`-th of its blocks.

    As in OpenFlamingo, block i is preceded by a gated block when `(i + 1) % cross_attention_every == 0`; `layer_before`
    maps such an i to its index in `layers`. An item takes one position in the text, that of its token.

    ValueError when `cross_attention_every` is not in 1..blocks.
    """

    starts_at_zero = ".attn_gate"

    def __init__(
        self, config: FusionConfig, dim: int, blocks: int, media_dim: int, vocabulary: MediaVocabulary
    ) -> None:
        super().__init__(config, dim, blocks, media_dim, vocabulary)
        every = config.cross_attention_every
        if not 1 <= every <= blocks:
            raise ValueError(f"cross_attention_every must be in 1..{blocks}, not {every}: the blocks there are")
        places = range(every - 1, blocks, every)
        self.layer_before = {block: layer for layer, block in enumerate(places)}
        self.visibility = cast(Visibility, config.visibility)  # which the config has checked
        self.layers = ModuleSequence[GatedCrossAttentionBlock](
            GatedCrossAttentionBlock(dim, media_dim, config.heads, config.dim_head, config.ff_mult) for _ in places
        )

    def context(
        self, rows: int, items: MediaItems | None = None, dtype: torch.dtype | None = None
    ) -> CrossAttentionContext:
        """Keys and values of the media for each gated block, and which text may attend to which item."""
        return CrossAttentionContext(
            self.layers, self.layer_before, self.media_ids, self.visibility, rows, items, dtype
        )

    def slots(self, dtype: torch.dtype | None = None) -> CrossAttentionSlots:
        """Keys and values of many requests, side by side."""
        return CrossAttentionSlots(self.layers, self.layer_before, dtype)

    @staticmethod
    def described(config: FusionConfig) -> str:
        every = config.cross_attention_every
        places = "every block" if every == 1 else f"one block in {every}"
        return f"a gated block before {places}, text sees {SEEN[config.visibility]}"
