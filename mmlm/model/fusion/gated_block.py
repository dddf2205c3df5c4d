"""Flamingo's gated cross-attention block, which runs before a block of the language model."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlm.model.fusion.visibility import MediaView
from mmlm.model.resampler import feed_forward, merge_heads, split_heads

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one block, `[R, H, M, d]` each."""


class MaskedCrossAttention(nn.Module):
    """Attention of text to media; names and shapes are those of OpenFlamingo (open_flamingo/src/helpers.py)."""

    def __init__(self, dim: int, media_dim: int, heads: int = 8, dim_head: int = 64) -> None:
        super().__init__()
        inner = heads * dim_head
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(media_dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def keys_values(self, latents: Tensor) -> KeysValues:
        """Latents `[..., L, media_dim]` → keys and values `[..., L, H, d]`."""
        keys, values = self.to_kv(latents).chunk(2, dim=-1)
        return keys.unflatten(-1, (self.heads, -1)), values.unflatten(-1, (self.heads, -1))

    def forward(self, x: Tensor, view: MediaView, keys: Tensor, values: Tensor) -> Tensor:
        """`x [R·n, T, D]`, keys and values `[R, H, M, d]` → `[R·n, T, D]`; n rows (beams) share one row of media."""
        rows, length = keys.shape[0], x.shape[1]
        queries = self.to_q(self.norm(x))
        if x.shape[0] != rows:  # fold the beams into the query axis, so that keys and values are not copied
            queries = queries.reshape(rows, -1, queries.shape[-1])
        attended = F.scaled_dot_product_attention(split_heads(queries, self.heads), keys, values, attn_mask=view.mask)
        attended = merge_heads(attended).reshape(x.shape[0], length, -1)
        if view.blind is not None:
            attended = attended.masked_fill(view.blind, 0.0)
        return self.to_out(attended)


class GatedCrossAttentionBlock(nn.Module):
    """`x + tanh(attn_gate)·attn(x)`, then `x + tanh(ff_gate)·ff(x)` (Alayrac et al. 2022, section 3.1.2).

    Both gates start at zero, so that the block starts as the identity. Names are those of open_flamingo/src/helpers.py.
    """

    def __init__(self, dim: int, media_dim: int, heads: int = 8, dim_head: int = 64, ff_mult: int = 4) -> None:
        super().__init__()
        self.attn = MaskedCrossAttention(dim, media_dim, heads, dim_head)
        self.attn_gate = nn.Parameter(torch.zeros(1))
        self.ff = feed_forward(dim, ff_mult)
        self.ff_gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, view: MediaView, keys_values: KeysValues | None) -> Tensor:
        """`x [B, T, D]` → `[B, T, D]`; without keys and values (no media), only the feed-forward acts."""
        if keys_values is not None:
            x = torch.addcmul(x, self.attn(x, view, *keys_values), self.attn_gate.to(x.dtype).tanh())
        return torch.addcmul(x, self.ff(x), self.ff_gate.to(x.dtype).tanh())
