"""The media of one request by cross-attention: keys and values for each gated block, and what each text sees."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mmlm.model.fusion.gated_block import GatedCrossAttentionBlock, KeysValues
from mmlm.model.fusion.interface import MediaContext, MediaItems
from mmlm.model.fusion.visibility import MediaView, Visibility, visible_media
from mmlm.model.modules import ModuleSequence
from mmlm.model.segments import begins, carried
from mmlm.prompting.processor import Batch


class CrossAttentionContext(MediaContext):
    """The media of one request: keys and values for each gated block, and which text may attend to which item."""

    def __init__(
        self,
        layers: ModuleSequence[GatedCrossAttentionBlock],
        layer_before: Mapping[int, int],
        media_ids: Tensor,
        visibility: Visibility,
        rows: int,
        items: MediaItems | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """layers, layer_before, media_ids, visibility: of the `CrossAttention`. rows, items: as `MediaContext`.

        dtype: the dtype in which the gated blocks compute, if it is wider than that of their weights.
        """
        super().__init__(rows, items)
        self.layers, self.layer_before, self.media_ids = layers, layer_before, media_ids
        self.visibility: Visibility = visibility
        self.dtype = compute_dtype(layers, dtype)
        self.view = MediaView()
        self.real: Tensor | None = None
        self.keys_values: list[KeysValues] = []  # one pair for each gated block; empty without media
        self._decoding = False
        self._segments: Tensor | None = None  # [R, T], where several texts share a row
        if items is None:
            return
        latents, mask, places = items.latents, items.mask, (items.rows, items.slots)
        self.num_items = int(items.slots.max()) + 1
        self.num_latents = latents.shape[1]
        self.device = latents.device
        self.item_group = torch.zeros(rows, self.num_items, dtype=torch.long, device=latents.device)
        self.media_time = torch.zeros(rows, dtype=torch.long, device=latents.device)
        self.group_time = torch.zeros_like(self.media_time)
        self.last_was_media = torch.zeros(rows, dtype=torch.bool, device=latents.device)
        dense = latents.shape[0] == rows * self.num_items  # rows have equally many items, so a reshape is enough
        if mask is not None and not bool(mask.all()):
            placed = mask.new_zeros(rows, self.num_items, self.num_latents).index_put(places, mask)
            self.real = placed.flatten(1)  # [R, M]
        latents = latents.to(self.dtype)
        for layer in layers:
            keys, values = (self._arrange(part, None if dense else places) for part in layer.attn.keys_values(latents))
            self.keys_values.append((keys, values))

    def _arrange(self, part: Tensor, places: tuple[Tensor, Tensor] | None) -> Tensor:
        """Items `[N, L, H, d]` → rows `[R, H, M, d]`, M = num_items·L; missing items are zero.

        places: the row and slot of each item; None when they are in order and none is missing.
        """
        if places is None:
            placed = part
        else:
            placed = part.new_zeros(self.rows, self.num_items, *part.shape[1:])
            placed = placed.index_put(places, part)
        return placed.reshape(self.rows, self.num_items * self.num_latents, *part.shape[2:]).transpose(1, 2)

    def placed(self, batch: Batch) -> Batch:
        if batch.shared:
            self._segments = batch.attention_mask
        return batch

    def on_ids(self, ids: Tensor) -> None:
        """Called first in each pass with its ids `[R·n, T]`; updates what they may attend to."""
        if self._decoding or not self.keys_values:
            return
        beams = ids.shape[0] // self.rows
        ids = ids[::beams]  # the beams of a row have the same media tokens
        is_media = torch.isin(ids, self.media_ids.to(ids.device))
        before = torch.cat([self.last_was_media.unsqueeze(1), is_media[:, :-1]], dim=1)
        starts = is_media & ~before
        if self._segments is not None:
            starts |= is_media & begins(self._segments)
        media_time = self.media_time.unsqueeze(1) + is_media.cumsum(1)
        group_time = self.group_time.unsqueeze(1) + starts.cumsum(1)
        row, column = is_media.nonzero(as_tuple=True)
        self.item_group[row, media_time[row, column] - 1] = group_time[row, column]
        self.media_time, self.group_time = media_time[:, -1], group_time[:, -1]
        self.last_was_media = is_media[:, -1]
        others = None if self._segments is None else carried(media_time - is_media.long(), self._segments)
        visible = visible_media(media_time, group_time, self.item_group, self.visibility, others)
        self.view = self._view(visible, beams)

    def skip(self, ids: Tensor) -> None:
        self.on_ids(ids)

    def _view(self, visible: Tensor, beams: int) -> MediaView:
        blind = ~visible.any(-1, keepdim=True)
        mask = self._mask(visible, blind)
        if beams > 1:
            mask, blind = mask.repeat(1, 1, beams, 1), blind.repeat_interleave(beams, dim=0)
        return MediaView(mask, blind)

    def _mask(self, visible: Tensor, blind: Tensor) -> Tensor:
        """Items `[R, T, N]` that a token may attend to → latents `[R, 1, T, M]`; all of them for blind tokens."""
        seen = visible.repeat_interleave(self.num_latents, dim=-1)
        if self.real is not None:
            seen = seen & self.real.unsqueeze(1)
        return (seen | blind).unsqueeze(1)

    def begin_decoding(self) -> None:
        """Called after the prompt: no media follow, so the view is computed now and no later pass builds a mask.

        With "latest" visibility each row keeps only the keys and values of its last item.
        """
        self._decoding = True
        if not self.keys_values:
            return
        has_media = self.media_time > 0
        blind = None if bool(has_media.all()) else ~has_media.view(-1, 1, 1)
        if self.visibility == "latest":
            if self.num_items > 1:
                first = (self.media_time - 1).clamp(min=0) * self.num_latents
                window = first.unsqueeze(1) + torch.arange(self.num_latents, device=self.device)
                row = torch.arange(self.rows, device=self.device).unsqueeze(1)

                def kept(part: Tensor) -> Tensor:
                    return part.transpose(1, 2)[row, window].transpose(1, 2).contiguous()

                self.keys_values = [(kept(keys), kept(values)) for keys, values in self.keys_values]
                self.real = None if self.real is None else self.real[row, window]
            if self.real is None or bool(self.real.all()):
                self.view = MediaView(None, blind)
            else:
                self.view = MediaView((self.real | ~has_media.unsqueeze(1))[:, None, None, :], blind)
            return
        visible = visible_media(
            self.media_time.unsqueeze(1), self.group_time.unsqueeze(1), self.item_group, self.visibility
        )
        mask = self._mask(visible, ~visible.any(-1, keepdim=True))
        self.view = MediaView(None if bool(mask.all()) else mask, blind)

    def repeat(self, beams: int) -> None:
        """Called after `begin_decoding`: each row is now given `beams` times in succession."""
        if self.view.blind is not None:
            self.view = MediaView(self.view.mask, self.view.blind.repeat_interleave(beams, dim=0))

    def before_block(self, index: int, hidden: Tensor) -> Tensor:
        """Hidden states `[R·n, T, D]` for block `index` of the language model, after its gated block if it has one."""
        layer = self.layer_before.get(index)
        if layer is None:
            return hidden
        keys_values = self.keys_values[layer] if self.keys_values else None
        x = self.layers[layer](hidden.to(self.dtype), self.view, keys_values)
        return x.to(hidden.dtype)


def compute_dtype(layers: ModuleSequence[GatedCrossAttentionBlock], dtype: torch.dtype | None) -> torch.dtype:
    """The dtype in which gated blocks compute: their weights', or `dtype` where that is wider."""
    own = layers[0].attn_gate.dtype
    return own if dtype is None else torch.promote_types(own, dtype)
