"""The one MediaContext of a request: each gated block's keys and values, and which text sees which item."""

import torch
from torch import Tensor

from mmlm.model.fusion.cross_attention import Fusion
from mmlm.model.fusion.visibility import MediaView, visible_media


class MediaContext:
    """One request's media: each block's keys and values, made once, and which text sees which item.

    It hears every pass of the language model (`on_ids`), so it knows how far the text has come; prompts may arrive in
    one pass or in pieces, and each row may be repeated for beams (`row·n + beam`) from any pass on.
    """

    def __init__(
        self,
        fusion: "Fusion",
        latents: Tensor | None,
        item_rows: Tensor,
        item_slots: Tensor,
        rows: int,
        mask: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ):
        """`latents [N, L, V]` of all items; item i is number `item_slots[i]`, from 0, of row `item_rows[i]`.

        `mask [N, L]`: True where a latent is real, at least one of each item; None where all are. dtype: of what the
        gated blocks compute, where that is wider than their weights.
        """
        self.fusion = fusion
        own = fusion.layers[0].attn_gate.dtype
        self.dtype = own if dtype is None else torch.promote_types(own, dtype)
        self.rows = rows
        self.view = MediaView()
        self.real: Tensor | None = None
        self.keys_values: list[tuple[Tensor, Tensor] | None] = [None] * len(fusion.layers)
        self._decoding = False
        self._items: tuple[Tensor, Tensor] | None = None  # the row of each item, and how many latents it has
        if latents is None:
            return
        counts = torch.full_like(item_rows, latents.shape[1]) if mask is None else mask.sum(1)
        self._items = item_rows, counts
        self.num_items = int(item_slots.max()) + 1
        self.num_latents = latents.shape[1]
        self.device = latents.device
        self.item_group = torch.zeros(rows, self.num_items, dtype=torch.long, device=latents.device)
        self.media_time = torch.zeros(rows, dtype=torch.long, device=latents.device)
        self.group_time = torch.zeros_like(self.media_time)
        self.last_was_media = torch.zeros(rows, dtype=torch.bool, device=latents.device)
        dense = latents.shape[0] == rows * self.num_items  # every row has every item: a reshape, no copy
        if mask is not None and not bool(mask.all()):
            placed = mask.new_zeros(rows, self.num_items, self.num_latents).index_put((item_rows, item_slots), mask)
            self.real = placed.flatten(1)  # [R, M]
        latents = latents.to(self.dtype)
        for index, layer in enumerate(fusion.layers):
            self.keys_values[index] = tuple(
                self._arrange(part, item_rows, item_slots, dense) for part in layer.attn.keys_values(latents)
            )

    def _arrange(self, part: Tensor, item_rows: Tensor, item_slots: Tensor, dense: bool) -> Tensor:
        """`[N, L, H, d]` of items → `[R, H, M, d]` of rows, M = num_items·L; missing items are zero and masked."""
        if dense:
            placed = part
        else:
            placed = part.new_zeros(self.rows, self.num_items, *part.shape[1:])
            placed = placed.index_put((item_rows, item_slots), part)
        return placed.reshape(self.rows, self.num_items * self.num_latents, *part.shape[2:]).transpose(1, 2)

    def latents_per_row(self) -> list[int]:
        """How many latents the media of each row have in all."""
        if self._items is None:
            return [0] * self.rows
        rows, counts = (part.tolist() for part in self._items)
        return [sum(count for row, count in zip(rows, counts, strict=True) if row == own) for own in range(self.rows)]

    def on_ids(self, ids: Tensor) -> None:
        """Follows the text: updates what the ids `[R·n, T]` of this pass may see."""
        if self._decoding or self.keys_values[0] is None:
            return
        beams = ids.shape[0] // self.rows
        ids = ids[::beams]  # a row's beams share its media tokens, so one of them tells for all
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
        """Which latents each token may look at, `[R, 1, T, M]`, from which items `[R, T, N]`; blind tokens at all."""
        seen = visible.repeat_interleave(self.num_latents, dim=-1)
        if self.real is not None:
            seen = seen & self.real.unsqueeze(1)
        return (seen | blind).unsqueeze(1)

    def begin_decoding(self) -> None:
        """After the prompt no media follow, so what text sees is settled: no later pass builds a mask.

        With "latest" visibility each row keeps the keys and values of its last item alone.
        """
        self._decoding = True
        if self.keys_values[0] is None:
            return
        has_media = self.media_time > 0
        blind = None if bool(has_media.all()) else ~has_media.view(-1, 1, 1)
        if self.fusion.visibility == "latest":
            if self.num_items > 1:
                first = (self.media_time - 1).clamp(min=0) * self.num_latents
                window = first.unsqueeze(1) + torch.arange(self.num_latents, device=self.device)
                row = torch.arange(self.rows, device=self.device).unsqueeze(1)
                self.keys_values = [
                    tuple(part.transpose(1, 2)[row, window].transpose(1, 2).contiguous() for part in pair)
                    for pair in self.keys_values
                ]
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
        """Tells a settled context that each row now comes `beams` times, one after the other."""
        if self.view.blind is not None:
            self.view = MediaView(self.view.mask, self.view.blind.repeat_interleave(beams, dim=0))

    def before_block(self, index: int, hidden: Tensor) -> Tensor:
        """Hidden states `[R·n, T, D]` for LM block `index`, through the gated block that precedes it, if one does."""
        layer = self.fusion.layer_before.get(index)
        if layer is None:
            return hidden
        x = self.fusion.layers[layer](hidden.to(self.dtype), self.view, self.keys_values[layer])
        return x.to(hidden.dtype)
