"""The media of many requests that are decoded together, by cross-attention: their keys and values side by side."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmlm.model.fusion.gated_block import GatedCrossAttentionBlock, KeysValues
from mmlm.model.fusion.interface import MediaContext, MediaSlots
from mmlm.model.fusion.media_context import CrossAttentionContext, compute_dtype
from mmlm.model.fusion.visibility import MediaView
from mmlm.model.modules import ModuleSequence


class CrossAttentionSlots(MediaSlots):
    """Keys and values `[S, H, M, d]` for each gated block: S rows of M latents, as many as were ever needed.

    seen: `[S, M]`, the latents that a row attends to. blind: `[S, 1, 1]`, rows without media: all latents are open to
    them, and their attention output is set to zero.
    """

    def __init__(
        self,
        layers: ModuleSequence[GatedCrossAttentionBlock],
        layer_before: Mapping[int, int],
        dtype: torch.dtype | None = None,
    ) -> None:
        """Arguments as those of `CrossAttentionContext`."""
        self.layers, self.layer_before = layers, layer_before
        self.dtype = compute_dtype(layers, dtype)
        self.keys_values: list[KeysValues] = []
        self.seen = torch.empty(0, 0, dtype=torch.bool)
        self.blind = torch.empty(0, 1, 1, dtype=torch.bool)
        self._with_media: set[int] = set()  # rows
        self._view, self._shown = MediaView(), list[KeysValues]()

    def join(self, row: int, context: MediaContext, source: int) -> None:
        assert isinstance(context, CrossAttentionContext), "a context of the same fusion"
        sees = bool(context.keys_values) and (context.view.blind is None or not bool(context.view.blind[source]))
        self._with_media.discard(row)
        if not sees:
            self._blind(row)
            return
        self._with_media.add(row)
        width = context.keys_values[0][0].shape[2]
        self._reserve(row + 1, width, context.keys_values[0][0])
        for own, given in zip(self.keys_values, context.keys_values, strict=True):
            for part, found in zip(own, given, strict=True):
                part[row, :, :width], part[row, :, width:] = found[source], 0  # NaN times a weight of zero is NaN
        mask = context.view.mask  # [R, 1, 1, M]
        self.blind[row], self.seen[row] = False, False
        self.seen[row, :width] = True if mask is None else mask[source, 0, 0]

    def move(self, source: int, row: int) -> None:
        self._with_media.discard(row)
        if source in self._with_media:
            self._with_media.remove(source)
            self._with_media.add(row)
        if source >= len(self.blind):  # where rows without media alone have been
            self._blind(row)
            return
        for part in (self.blind, self.seen, *(part for pair in self.keys_values for part in pair)):
            part[row] = part[source]

    def _blind(self, row: int) -> None:
        """From now on a row sees no media."""
        if row < len(self.blind):
            self.blind[row], self.seen[row] = True, True

    def show(self, rows: int) -> bool:
        self._shown = []
        if not any(row < rows for row in self._with_media):
            self._view = MediaView()
            return False
        if rows > len(self.blind):
            self._reserve(rows, 0, self.keys_values[0][0])
        self._shown = [(keys[:rows], values[:rows]) for keys, values in self.keys_values]
        self._view = MediaView(self.seen[:rows, None, None], self.blind[:rows])
        return True

    def before_block(self, index: int, hidden: Tensor) -> Tensor:
        layer = self.layer_before.get(index)
        if layer is None:
            return hidden
        keys_values = self._shown[layer] if self._shown else None
        return self.layers[layer](hidden.to(self.dtype), self._view, keys_values).to(hidden.dtype)

    def _reserve(self, rows: int, width: int, like: Tensor) -> None:
        """Makes room for so many rows of so many latents; what is there stays. like: keys `[.., H, .., d]`."""
        have_rows, have_width = self.seen.shape
        if rows <= have_rows and width <= have_width:
            return
        rows, width = max(rows, have_rows), max(width, have_width)
        self.version += 1
        old, count = self.keys_values, len(self.layers)
        self.keys_values = []
        for layer in range(count):
            made = tuple(like.new_zeros(rows, like.shape[1], width, like.shape[3]) for _ in range(2))
            for part, before in zip(made, old[layer] if old else (), strict=False):
                part[:have_rows, :, :have_width] = before
            self.keys_values.append((made[0], made[1]))
        seen = torch.ones(rows, width, dtype=torch.bool, device=like.device)
        blind = torch.ones(rows, 1, 1, dtype=torch.bool, device=like.device)
        if have_rows:
            blind[:have_rows] = self.blind.to(like.device)
            seen[:have_rows, have_width:] = blind[:have_rows, :, 0]
            seen[:have_rows, :have_width] = self.seen.to(like.device)
        self.seen, self.blind = seen, blind
