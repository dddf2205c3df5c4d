"""The media of one request: keys and values for each gated block, and which text may attend to which item."""

import torch
from torch import Tensor

from mmlm.model.fusion.cross_attention import Fusion, KeysValues
from mmlm.model.fusion.visibility import MediaView, visible_media


class MediaContext:
    """The media of one request: keys and values for each gated block, and which text may attend to which item.

    Keys and values are computed once. The context is a `ForwardCallback`: it follows the text through `on_ids`. A
    prompt may come in one pass or in several, and from any pass on each row may be repeated for beams (`row·n + beam`).
    """

    def __init__(
        self,
        fusion: Fusion,
        latents: Tensor | None,
        item_rows: Tensor | None,
        item_slots: Tensor | None,
        rows: int,
        mask: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """latents: `[N, L, V]`, of all items of the batch; None for a request without media.

        item_rows, item_slots: `[N]`; item i is number `item_slots[i]`, from 0, of row `item_rows[i]`. None like the
            latents. rows: R, the number of rows.
        mask: `[N, L]`, True where a latent is real, at least one per item; None if all are.
        dtype: the dtype in which the gated blocks compute, if it is wider than that of their weights.
        """
        self.fusion = fusion
        own = fusion.layers[0].attn_gate.dtype
        self.dtype = own if dtype is None else torch.promote_types(own, dtype)
        self.rows = rows
        self.view = MediaView()
        self.real: Tensor | None = None
        self.keys_values: list[KeysValues] = []  # one pair for each gated block; empty without media
        self._decoding = False
        self._items: tuple[Tensor, Tensor] | None = None  # the row of each item, and its number of latents
        if latents is None:
            return
        assert item_rows is not None and item_slots is not None
        counts = torch.full_like(item_rows, latents.shape[1]) if mask is None else mask.sum(1)
        self._items = item_rows, counts
        self.num_items = int(item_slots.max()) + 1
        self.num_latents = latents.shape[1]
        self.device = latents.device
        self.item_group = torch.zeros(rows, self.num_items, dtype=torch.long, device=latents.device)
        self.media_time = torch.zeros(rows, dtype=torch.long, device=latents.device)
        self.group_time = torch.zeros_like(self.media_time)
        self.last_was_media = torch.zeros(rows, dtype=torch.bool, device=latents.device)
        dense = latents.shape[0] == rows * self.num_items  # rows have equally many items, so a reshape is enough
        if mask is not None and not bool(mask.all()):
            placed = mask.new_zeros(rows, self.num_items, self.num_latents).index_put((item_rows, item_slots), mask)
            self.real = placed.flatten(1)  # [R, M]
        latents = latents.to(self.dtype)
        for layer in fusion.layers:
            keys, values = layer.attn.keys_values(latents)
            places = None if dense else (item_rows, item_slots)
            self.keys_values.append((self._arrange(keys, places), self._arrange(values, places)))

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

    def latents_per_row(self) -> list[int]:
        """The total number of latents of each row's media."""
        if self._items is None:
            return [0] * self.rows
        rows, counts = (part.tolist() for part in self._items)
        return [sum(count for row, count in zip(rows, counts, strict=True) if row == own) for own in range(self.rows)]

    def on_ids(self, ids: Tensor) -> None:
        """Called first in each pass with its ids `[R·n, T]`; updates what they may attend to."""
        if self._decoding or not self.keys_values:
            return
        beams = ids.shape[0] // self.rows
        ids = ids[::beams]  # the beams of a row have the same media tokens
        is_media = torch.isin(ids, self.fusion.media_ids.to(ids.device))
        before = torch.cat([self.last_was_media.unsqueeze(1), is_media[:, :-1]], dim=1)
        starts = is_media & ~before
        media_time = self.media_time.unsqueeze(1) + is_media.cumsum(1)
        group_time = self.group_time.unsqueeze(1) + starts.cumsum(1)
        row, column = is_media.nonzero(as_tuple=True)
        self.item_group[row, media_time[row, column] - 1] = group_time[row, column]
        self.media_time, self.group_time = media_time[:, -1], group_time[:, -1]
        self.last_was_media = is_media[:, -1]
        visible = visible_media(media_time, group_time, self.item_group, self.fusion.visibility)
        self.view = self._view(visible, beams)

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
        if self.fusion.visibility == "latest":
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
            self.media_time.unsqueeze(1), self.group_time.unsqueeze(1), self.item_group, self.fusion.visibility
        )
        mask = self._mask(visible, ~visible.any(-1, keepdim=True))
        self.view = MediaView(None if bool(mask.all()) else mask, blind)

    def repeat(self, beams: int) -> None:
        """Called after `begin_decoding`: each row is now given `beams` times in succession."""
        if self.view.blind is not None:
            self.view = MediaView(self.view.mask, self.view.blind.repeat_interleave(beams, dim=0))

    def before_block(self, index: int, hidden: Tensor) -> Tensor:
        """Hidden states `[R·n, T, D]` for block `index` of the language model, after its gated block if it has one."""
        layer = self.fusion.layer_before.get(index)
        if layer is None:
            return hidden
        keys_values = self.keys_values[layer] if self.keys_values else None
        x = self.fusion.layers[layer](hidden.to(self.dtype), self.view, keys_values)
        return x.to(hidden.dtype)
