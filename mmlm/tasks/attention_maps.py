"""What the tokens of an answer attend to: the patches of pictures and the moments of recordings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from encoders.base import Features
from mmlm.generation.log_probs import Answer, example_of
from mmlm.generation.memory import check_memory
from mmlm.model.fusion.gated_block import MaskedCrossAttention
from mmlm.model.fusion.media_context import CrossAttentionContext
from mmlm.model.network import MultimodalNetwork
from mmlm.model.resampler import PerceiverResampler, split_heads
from mmlm.model.segments import positions
from mmlm.prompting.parts import modality_of
from mmlm.prompting.processor import IGNORE_INDEX


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """What n tokens attend to in one medium.

    modality: "image" or "audio". weights: `[n, S]`, or `[G, H, n, S]` of each gated block and head; the shares of the
        attention at each of the S tokens that the encoder makes of the medium: patches row by row, or 50 a second.
        Over all media of the prompt they add up to 1, or to 0 for a token that sees none.
    """

    modality: str
    weights: Tensor


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """token_ids: of the answer, n. media: a map for each medium of the prompt, in order.

    gates: `[G]`, by how much each gated block adds what it attends to: `tanh(attn_gate)`.
    """

    token_ids: tuple[int, ...]
    media: tuple[AttentionMap, ...]
    gates: Tensor


@torch.no_grad()
def attention_maps(
    model: MultimodalNetwork, prompt: Sequence[Any], answer: Answer, *, average: bool = True
) -> AttentionMaps:
    """What each token of an answer attends to in the media of its prompt, at the position from which it is written.

    prompt: a list of parts. answer: as in `log_probs`: a text (which `<|endofchunk|>` closes), ids, or a result.
    average: over heads, and over gated blocks by how far their gates are open, which is how much of it reaches the
        text; False keeps both apart.
    A perceiver resampler mixes the tokens of a medium into latents. What a latent is made of is then the mean of its
    own attention over the resampler's layers and heads: a picture of the way, and not exact as without a resampler.
    One uncached pass. ValueError for a model whose media join the text by a prefix: the language model's own attention
    reads them there. MemoryLimitError where the maps would not fit.
    """
    example = example_of(model, prompt, answer)
    if max(example.input_ids) >= model.language_model.vocabulary.code_offset:
        raise ValueError("maps are of texts: the answer, or its prompt, holds codes")
    start = next(index for index, label in enumerate(example.labels or ()) if label != IGNORE_INDEX)
    with model.changes.passing():
        batch = model.processor.collate([example]).to(model.device)
        features = model.encode_media(example.media)
        kinds = [modality_of(part) for part in example.media]
        media = [type(part)(own) for part, own in zip(example.media, features, strict=True)]
        context = model.media_context(batch, [media])
        if not isinstance(context, CrossAttentionContext):
            raise ValueError("the media of this model are read as a prefix: it has no gated blocks to look into")
        host = model.language_model
        host.check_length(batch.input_ids.shape[1])
        watching = _Watching(context, start - 1, average)
        if media:
            watching.check_memory(batch.input_ids.shape[1])
            with host.request(watching, wide=host.is_wide):
                host(
                    batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, logits_to_keep=1,
                    position_ids=positions(batch.attention_mask),
                )  # fmt: skip
        found = []
        for slot, (kind, own) in enumerate(zip(kinds, features, strict=True)):
            weights = watching.weights(slot)
            shares = _made_of(model.resamplers[kind], own, weights.shape[-1])
            found.append(AttentionMap(kind, weights.cpu() @ shares.cpu()))
    return AttentionMaps(tuple(example.input_ids[start:]), tuple(found), watching.gates.cpu())


class _Watching:
    """The media of one request of one row, whose attention is kept on its way through the blocks."""

    def __init__(self, context: CrossAttentionContext, first: int, average: bool) -> None:
        """first: the position from which attention is kept; the last one writes nothing that was asked for."""
        self.context, self.first, self.average = context, first, average
        self.gates = torch.stack([layer.attn_gate.float().tanh()[0] for layer in context.layers])
        open_by = self.gates.abs()
        self.shares = open_by / open_by.sum() if bool(open_by.any()) else torch.full_like(open_by, 1 / len(open_by))
        self.kept: list[Tensor] = []
        self.mean: Tensor | None = None

    def check_memory(self, length: int) -> None:
        """MemoryLimitError where what is kept would not fit."""
        keys = self.context.keys_values[0][0]
        blocks = 1 if self.average else len(self.context.layers)
        size = 4 * keys.shape[1] * keys.shape[2] * (length - self.first) * blocks
        check_memory(size, 1, length, keys.device)

    def on_ids(self, ids: Tensor) -> None:
        """As the context."""
        self.context.on_ids(ids)

    def embedded(self, ids: Tensor, embeddings: Tensor) -> Tensor:
        """As the context."""
        return self.context.embedded(ids, embeddings)

    def before_block(self, index: int, hidden: Tensor) -> Tensor:
        """As the context; keeps the attention of the block's gated block, if it has one."""
        layer = self.context.layer_before.get(index)
        if layer is not None:
            weights = self._attention(self.context.layers[layer].attn, hidden, self.context.keys_values[layer][0])
            if self.average:
                mean = weights.mean(0) * self.shares[layer]
                self.mean = mean if self.mean is None else self.mean + mean
            else:
                self.kept.append(weights)
        return self.context.before_block(index, hidden)

    def _attention(self, attn: MaskedCrossAttention, hidden: Tensor, keys: Tensor) -> Tensor:
        """`[H, n, M]` of hidden states `[1, T, D]` and keys `[1, H, M, d]`."""
        view, rows = self.context.view, slice(self.first, -1)
        queries = split_heads(attn.to_q(attn.norm(hidden[:, rows].to(self.context.dtype))), attn.heads)
        scores = queries.float() @ keys.float().transpose(-1, -2) / math.sqrt(keys.shape[-1])
        if view.mask is not None:
            scores = scores.masked_fill(~view.mask[:, :, rows], -torch.inf)
        weights = scores.softmax(-1)[0]
        return weights if view.blind is None else weights.masked_fill(view.blind[0, rows], 0.0)

    def weights(self, slot: int) -> Tensor:
        """`[n, L]` or `[G, H, n, L]` over the latents of the medium in this place."""
        found = torch.stack(self.kept) if self.mean is None else self.mean
        latents = self.context.num_latents
        return found[..., slot * latents : (slot + 1) * latents]


def _made_of(resampler: PerceiverResampler, features: Features, latents: int) -> Tensor:
    """What each latent of a medium is made of: shares `[latents, S]` of its tokens. Rows of no latent are zero."""
    tokens = features.tokens.shape[1]
    if resampler.latents is None:
        shares = resampler.unstacked(torch.eye(resampler.count(tokens)), tokens)
        shares = shares / shares.sum(1, keepdim=True)
    else:
        shares = resampler.attention(features.tokens, features.times)
    return F.pad(shares, (0, 0, 0, latents - shares.shape[0]))
