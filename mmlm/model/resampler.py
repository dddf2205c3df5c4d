"""The PerceiverResampler, which turns any number of media features into a fixed number of latents."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlm.model.modules import ModuleSequence


def feed_forward(dim: int, mult: int = 4) -> nn.Sequential:
    """A feed-forward layer with a norm before it, exact GELU and no biases: `[..., D]` → `[..., D]`.

    Parameter names (`0`, `1`, `3`) are those of OpenFlamingo (open_flamingo/src/helpers.py), so that its checkpoints
    load.
    """
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, mult * dim, bias=False),
        nn.GELU(),
        nn.Linear(mult * dim, dim, bias=False),
    )


def split_heads(x: Tensor, heads: int) -> Tensor:
    """`[B, T, H·d]` → `[B, H, T, d]`."""
    return x.view(*x.shape[:-1], heads, x.shape[-1] // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """`[B, H, T, d]` → `[B, T, H·d]`."""
    return x.transpose(1, 2).flatten(2)


TIME_FEATURES = 64  # 32 sines, 32 cosines
SHORTEST_PERIOD, LONGEST_PERIOD = 2.0, 20_000.0  # seconds


def time_features(seconds: Tensor) -> Tensor:
    """Sines and cosines of times: `[N, S]` in seconds → `[N, S, TIME_FEATURES]`, with periods from 2 s to 5.6 h."""
    steps = torch.linspace(0, 1, TIME_FEATURES // 2, device=seconds.device)
    periods = SHORTEST_PERIOD * (LONGEST_PERIOD / SHORTEST_PERIOD) ** steps
    phases = seconds.unsqueeze(-1).float() * (2 * math.pi / periods)
    return torch.cat([phases.sin(), phases.cos()], dim=-1)


class PerceiverAttention(nn.Module):
    """Attention of the latents to media features and to the latents (Alayrac et al. 2022, section 3.1.1)."""

    def __init__(self, dim: int, heads: int = 8, dim_head: int = 64) -> None:
        super().__init__()
        inner = heads * dim_head
        self.heads = heads
        self.norm_media = nn.LayerNorm(dim)
        self.norm_latents = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    def forward(self, media: Tensor, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        """`media [N, S, D]`, `latents [N, L, D]`, `mask [N, S]` (True = real) → `[N, L, D]`."""
        queries, keys, values = self._parts(media, latents)
        if mask is not None:
            mask = F.pad(mask, (0, latents.shape[1]), value=True)[:, None, None, :]
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.to_out(merge_heads(attended))

    def weights(self, media: Tensor, latents: Tensor) -> Tensor:
        """The attention itself, without a mask: `[N, H, L, S + L]`, in float32."""
        queries, keys, _ = self._parts(media, latents)
        return (queries.float() @ keys.float().transpose(-1, -2) / math.sqrt(keys.shape[-1])).softmax(-1)

    def _parts(self, media: Tensor, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries `[N, H, L, d]`, keys and values `[N, H, S + L, d]`."""
        latents = self.norm_latents(latents)
        keys, values = self.to_kv(torch.cat([self.norm_media(media), latents], dim=1)).chunk(2, dim=-1)
        return (
            split_heads(self.to_q(latents), self.heads),
            split_heads(keys, self.heads),
            split_heads(values, self.heads),
        )


class PerceiverResampler(nn.Module):
    """Turns media features `[N, S, input_dim]` into latents `[N, num_latents, dim]`.

    Names, shapes and defaults are those of open_flamingo/src/helpers.py. If `input_dim` differs from `dim`, a linear
    projection comes first; if they are equal there is none, as in OpenFlamingo.

    depth: number of layers. With 0 there are no latents: every token is projected, normalised and passed on. That suits
        encoders with few tokens, and trains faster, because the text attends to the tokens themselves.
    timed: adds to each token a learned linear map of `time_features` of the time at which its audio window or video
        frame begins. Flamingo has a learned embedding for each frame; this map works for any time. It starts at zero.
    stack: number of consecutive tokens that are concatenated into one before the projection. Whisper gives 50 tokens a
        second, and words come more slowly. The last group is filled up with zeros.
    frame: number of tokens of each frame of a video; those of two frames are not joined in one. None: any are.
    ValueError when `stack` is below 1.
    """

    def __init__(
        self,
        dim: int,
        input_dim: int | None = None,
        depth: int = 6,
        num_latents: int = 64,
        heads: int = 8,
        dim_head: int = 64,
        ff_mult: int = 4,
        timed: bool = False,
        stack: int = 1,
        frame: int | None = None,
    ) -> None:
        super().__init__()
        if stack < 1:
            raise ValueError(f"stack must be at least 1, not {stack}")
        self.stack, self.frame = stack, frame
        width = stack * (input_dim or dim)
        self.projection = nn.Linear(width, dim, bias=False) if width != dim else None
        self.time = nn.Linear(TIME_FEATURES, dim, bias=False) if timed else None
        if self.time is not None:
            nn.init.zeros_(self.time.weight)
        self.latents = nn.Parameter(torch.randn(num_latents, dim)) if depth else None
        self.layers = ModuleSequence[nn.ModuleList](
            nn.ModuleList([PerceiverAttention(dim, heads, dim_head), feed_forward(dim, ff_mult)]) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Tensor, mask: Tensor | None = None, times: Tensor | None = None) -> Tensor:
        """`features [N, S, input_dim]` → `[N, num_latents, dim]`.

        mask: `[N, S]`, True for real tokens; None if all are. times: `[N, S]`, the seconds at which the window or frame
        of each token begins; None for zero.
        With `depth=0` → `[N, count(S), dim]`, and `latent_mask` tells which of these are real.
        """
        features, mask = self._projected(features, mask, times)
        if self.latents is None:
            return self.norm(features)
        return self._resample(self.latents, features, mask)

    def attention(self, features: Tensor, times: Tensor | None = None) -> Tensor:
        """What latents are made of: of one item's `features [1, S, input_dim]`, shares `[num_latents, S]`.

        They are the mean over layers and heads of the attention that goes to features, in float32; the rest of it goes
        to other latents. ValueError with `depth=0`, where there are no latents.
        """
        if self.latents is None:
            raise ValueError("a resampler of depth 0 has no latents: each token is passed on by itself")
        media, _ = self._projected(features.to(self.norm.weight.device), None, times)
        shares = torch.zeros(len(self.latents), media.shape[1], device=media.device)
        latents = self.latents.unsqueeze(0)
        for attention, ff in self.layers:
            assert isinstance(attention, PerceiverAttention), "it is made so"
            shares += attention.weights(media, latents)[0, :, :, : media.shape[1]].mean(0)
            latents = latents + attention(media, latents)
            latents = latents + ff(latents)
        shares = shares / shares.sum(1, keepdim=True)
        return self.unstacked(shares / self.stack, features.shape[1])

    def _projected(self, features: Tensor, mask: Tensor | None, times: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the layers attend to `[N, S', dim]`, with its mask; arguments as those of `forward`."""
        features = features.to(self.norm.weight.dtype)
        if self.stack > 1:
            if mask is not None:
                features = features.masked_fill(~mask.unsqueeze(-1), 0.0)
                mask = self._stacked(mask).any(-1)
            times = None if times is None else self._stacked(times)[..., 0]
            features = self._stacked(features).flatten(2)
        if self.projection is not None:
            features = self.projection(features)
        if self.time is not None and times is not None:
            features = features + self.time(time_features(times.to(features.device)).to(features.dtype))
        return features, mask

    def count(self, tokens: int) -> int:
        """The number of outputs of an item of so many tokens."""
        if self.latents is not None:
            return len(self.latents)
        if self.stack == 1:
            return tokens
        frame = min(self.frame or tokens, tokens)
        return -(-tokens // frame) * -(-frame // self.stack)

    def latent_mask(self, mask: Tensor | None) -> Tensor | None:
        """Which outputs of `forward` are real, `[N, L]`, when it is given `mask [N, S]`; None if all are."""
        if mask is None or self.latents is not None:
            return None
        return self._stacked(mask).any(-1) if self.stack > 1 else mask

    def unstacked(self, x: Tensor, tokens: int) -> Tensor:
        """What is said of each group of tokens, `[L, S']`, said of each of so many tokens: `[L, S]`."""
        frame = min(self.frame or tokens, tokens)
        each = x.repeat_interleave(self.stack, 1).unflatten(1, (-1, -(-frame // self.stack) * self.stack))
        return each[..., :frame].flatten(1)[:, :tokens]

    def _stacked(self, x: Tensor) -> Tensor:
        """`[N, S, ...]` → `[N, S', stack, ...]`, each frame filled up with zeros."""
        frame = min(self.frame or x.shape[1], x.shape[1])
        frames = _filled(x, frame).unflatten(1, (-1, frame)).flatten(0, 1)  # [N * F, frame, ...]
        return _filled(frames, self.stack).unflatten(1, (-1, self.stack)).unflatten(0, (len(x), -1)).flatten(1, 2)

    def _resample(self, latents: Tensor, features: Tensor, mask: Tensor | None) -> Tensor:
        latents = latents.expand(features.shape[0], -1, -1)
        for attention, ff in self.layers:
            latents = latents + attention(features, latents, mask)
            latents = latents + ff(latents)
        return self.norm(latents)


def _filled(x: Tensor, multiple: int) -> Tensor:
    """`[N, S, ...]` with zeros behind, so that S is a multiple."""
    return F.pad(x, (0,) * 2 * (x.ndim - 2) + (0, -x.shape[1] % multiple))
