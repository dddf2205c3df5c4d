"""Flamingo's gated cross-attention, and the one MediaContext of a request."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlm.language_model import LanguageModel
from mmlm.resampler import feed_forward, merge_heads, split_heads

Visibility = Literal["latest", "group", "all"]


class MaskedCrossAttention(nn.Module):
    """Text queries over media keys and values; names and shapes are OpenFlamingo's (open_flamingo/src/helpers.py)."""

    def __init__(self, dim: int, media_dim: int, heads: int = 8, dim_head: int = 64):
        super().__init__()
        inner = heads * dim_head
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(media_dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def keys_values(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Latents `[..., L, media_dim]` → keys and values `[..., L, H, d]`."""
        keys, values = self.to_kv(latents).chunk(2, dim=-1)
        return keys.unflatten(-1, (self.heads, -1)), values.unflatten(-1, (self.heads, -1))

    def forward(self, x: Tensor, view: "MediaView", keys: Tensor, values: Tensor) -> Tensor:
        """`x [R·n, T, D]` over keys and values `[R, H, M, d]`; the n rows that share media (beams) share them here."""
        rows, length = keys.shape[0], x.shape[1]
        queries = self.to_q(self.norm(x))
        if x.shape[0] != rows:  # fold the beams of a request into its query axis: nothing is copied
            queries = queries.reshape(rows, -1, queries.shape[-1])
        attended = F.scaled_dot_product_attention(split_heads(queries, self.heads), keys, values, attn_mask=view.mask)
        attended = merge_heads(attended).reshape(x.shape[0], length, -1)
        if view.blind is not None:
            attended = attended.masked_fill(view.blind, 0.0)
        return self.to_out(attended)


class GatedCrossAttentionBlock(nn.Module):
    """`x + tanh(attn_gate)·attn(x)`, then `+ tanh(ff_gate)·ff(x)`; both gates start at zero, so `x` passes unchanged.

    Alayrac et al. 2022, section 3.1.2; names of open_flamingo/src/helpers.py.
    """

    def __init__(self, dim: int, media_dim: int, heads: int = 8, dim_head: int = 64, ff_mult: int = 4):
        super().__init__()
        self.attn = MaskedCrossAttention(dim, media_dim, heads, dim_head)
        self.attn_gate = nn.Parameter(torch.zeros(1))
        self.ff = feed_forward(dim, ff_mult)
        self.ff_gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, view: "MediaView", keys_values: tuple[Tensor, Tensor] | None) -> Tensor:
        """`x [B, T, D]` → `[B, T, D]`; without keys and values (a request without media) only the feed-forward acts."""
        if keys_values is not None:
            x = torch.addcmul(x, self.attn(x, view, *keys_values), self.attn_gate.to(x.dtype).tanh())
        return torch.addcmul(x, self.ff(x), self.ff_gate.to(x.dtype).tanh())


@dataclass
class MediaView:
    """What the text of one pass may see.

    `mask` broadcasts to `[R, 1, T, M]`, True where seen; `blind [R·n, T, 1]` marks tokens that see nothing.

    Blind tokens get an open mask, so that no softmax runs over nothing, and their attention output is set to zero.
    None means no restriction.
    """

    mask: Tensor | None = None
    blind: Tensor | None = None


def visible_media(media_time: Tensor, group_time: Tensor, item_group: Tensor, visibility: Visibility) -> Tensor:
    """Which text sees which media item: bool `[R, T, N]`.

    `media_time [R, T]` counts the media tokens up to each position, itself included; `group_time [R, T]` counts runs of
    consecutive media tokens; `item_group [R, N]` is the run of each item, 0 for padding. A token sees item j when j is
    the latest ("latest"), of the latest run ("group"), or any earlier one ("all"); never a later one.
    """
    order = torch.arange(1, item_group.shape[1] + 1, device=media_time.device)
    earlier = (order <= media_time.unsqueeze(-1)) & (item_group > 0).unsqueeze(1)
    if visibility == "all":
        return earlier
    if visibility == "group":
        return earlier & (item_group.unsqueeze(1) == group_time.unsqueeze(-1))
    return earlier & (order == media_time.unsqueeze(-1))


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
        if latents is None:
            return
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


class Fusion(nn.Module):
    """The gated blocks of a language model: one before every `cross_attention_every`-th block.

    As in OpenFlamingo, block i is preceded by one when `(i + 1) % cross_attention_every == 0`.
    """

    def __init__(
        self,
        host: LanguageModel,
        media_dim: int,
        cross_attention_every: int = 1,
        visibility: Visibility = "latest",
        heads: int = 8,
        dim_head: int = 64,
        ff_mult: int = 4,
    ):
        super().__init__()
        blocks = len(host.blocks)
        if not 1 <= cross_attention_every <= blocks:
            raise ValueError(
                f"cross_attention_every must be 1..{blocks} for this language model, not {cross_attention_every}"
            )
        if visibility not in ("latest", "group", "all"):
            raise ValueError(f"visibility is 'latest', 'group' or 'all', not {visibility!r}")
        places = range(cross_attention_every - 1, blocks, cross_attention_every)
        self.layer_before = {block: layer for layer, block in enumerate(places)}
        self.visibility: Visibility = visibility
        self.media_ids = torch.tensor(list(host.vocabulary.media_ids))
        self.layers = nn.ModuleList(
            GatedCrossAttentionBlock(host.hidden_size, media_dim, heads, dim_head, ff_mult) for _ in places
        )
