"""Whisper's encoder and decoder over one window, with keys and values that belong to it alone.

Upstream keeps keys and values by hooks on the model, so two threads with one model would write into each other's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import whisper
from torch import Tensor, nn
from whisper.decoding import Inference
from whisper.model import Linear, MultiHeadAttention
from whisper.tokenizer import get_tokenizer


@dataclass(frozen=True)
class Heard:
    """A window as the decoder hears it, for every try to write it down.

    features: the encoder's tokens [1, S, D]. keys_values: the keys and values [1, S, D] of each block of the decoder,
        in the dtype that the encoder computed in.
    output: the model's `output_layer`.
    """

    features: Tensor
    keys_values: list[tuple[Tensor, Tensor]]
    output: nn.Module


def hear(
    model: whisper.Whisper, mel: Tensor, output: nn.Module | None = None, compute_dtype: torch.dtype = torch.float32
) -> Heard:
    """Encode a spectrogram [n_mels, 3000].

    output: the model's `output_layer`, where it is kept; it may be packed. compute_dtype: torch.bfloat16 multiplies
    in it on a CPU (autocast); the features keep the dtype of `mel`.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=compute_dtype == torch.bfloat16):
        features = model.encoder(mel[None])
        blocks: Any = model.decoder.blocks
        keys_values = [_keys_values(block.cross_attn, features) for block in blocks]
    return Heard(features.to(mel.dtype), keys_values, output_layer(model) if output is None else output)


def window_bytes(model: whisper.Whisper) -> int:
    """Bytes of what is kept of a window while it is written down: what is heard, and keys and values of its text."""
    dims = model.dims
    heard = dims.n_audio_ctx * dims.n_audio_state
    keys_values = 2 * dims.n_text_layer * (dims.n_audio_ctx + dims.n_text_ctx) * dims.n_text_state
    return (heard + keys_values) * (2 if model.device.type == "cuda" else 4)


def output_layer(model: whisper.Whisper) -> nn.Module:
    """What the decoder makes [..., D] → logits [..., V], by the weights of its token embedding.

    Upstream multiplies by them without a layer. As a layer it can be packed like the others.
    """
    with torch.device("meta"):
        layer = Linear(model.dims.n_text_state, model.dims.n_vocab, bias=False)
    layer.weight = model.decoder.token_embedding.weight
    return layer


def spoken_in(model: whisper.Whisper, heard: Heard) -> str:
    """The code of the most probable language of a window: `whisper.detect_language`."""
    tokenizer = get_tokenizer(model.is_multilingual, num_languages=model.num_languages)
    start = torch.tensor([tokenizer.sot], device=heard.features.device)
    (logits,) = Passes(model, heard, rows=1).begin(start, [0])
    return tokenizer.all_language_codes[int(logits[list(tokenizer.all_language_tokens)].argmax())]


class Passes(Inference):
    """The decoder's passes over the tokens that are new (TextDecoder.forward), with its keys and values so far.

    rows: texts that are written side by side, as beams are. All begin with the same tokens, which are read once.
    """

    def __init__(self, model: whisper.Whisper, heard: Heard, rows: int) -> None:
        self.decoder, self.heard = model.decoder, heard
        blocks: Any = self.decoder.blocks
        self.blocks: list[Any] = list(blocks)
        self.length = 0  # of the texts so far
        size = (len(self.blocks), 2, rows, model.dims.n_text_ctx, model.dims.n_text_state)
        self.written = heard.features.new_empty(size)  # keys and values of the tokens, of each block

    def begin(self, tokens: Tensor, positions: list[int]) -> Tensor:
        """The first tokens [T] of all rows → the logits [P, V] at P of their positions."""
        x = _passed([self], [tokens[None]])[0, positions]
        self.written[:, :, 1:, : self.length] = self.written[:, :, :1, : self.length]
        return self.heard.output(x).float()

    def step(self, tokens: Tensor) -> Tensor:
        """The next token of each row, [R] → logits [R, V]."""
        return step_together([self], [tokens])[0]

    def attend(self, tokens: Tensor, heads: list[list[int]]) -> tuple[Tensor, Tensor]:
        """All tokens [T] of a text → logits [T, V], and the scores [N, T, S] of N heads for what is heard.

        heads: (layer, head) of each. Scores are those before the softmax.
        """
        asked: list[Tensor] = []
        x = _passed([self], [tokens[None]], asked)[0]
        scores = {
            layer: _scores(self.blocks[layer].cross_attn, asked[layer], self.heard.keys_values[layer][0])
            for layer in {layer for layer, _ in heads}
        }
        return self.heard.output(x).float(), torch.stack([scores[layer][head] for layer, head in heads])

    def rearrange_kv_cache(self, source_indices: list[int]) -> None:
        """Beam i goes on from what beam `source_indices[i]` was."""
        if source_indices != list(range(len(source_indices))):
            self.written[:, :, :, : self.length] = self.written[:, :, source_indices, : self.length]

    def write(self, layer: int, rows: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keeps keys and values [1, R * T, D] of a block's new tokens; those of all tokens so far, [R, T, D]."""
        count = keys.shape[1] // rows
        for kept, own in zip(self.written[layer], (keys, values), strict=True):
            kept[:rows, self.length : self.length + count] = own.view(rows, count, -1)
        keys, values = self.written[layer, :, :rows, : self.length + count]
        return keys, values


def step_together(parts: Sequence[Passes], tokens: Sequence[Tensor]) -> list[Tensor]:
    """The next token of each row of several texts, [R] each → logits [R, V] of each text.

    parts: of one model. Its weights are read once for all of them, and what each text attends to is its own. So its
    logits are those that it has alone, to the rounding of sums.
    """
    x = _passed(parts, [own[:, None] for own in tokens])[0]
    return list(parts[0].heard.output(x).float().split([len(own) for own in tokens]))


def _passed(parts: Sequence[Passes], tokens: Sequence[Tensor], asked: list[Tensor] | None = None) -> Tensor:
    """New tokens [R, T] of each text → what the decoder makes of those of all texts, [1, sum of R * T, D].

    asked: takes the inputs of each block's attention to the recording, of the same shape.
    """
    decoder = parts[0].decoder
    counts = [own.numel() for own in tokens]
    embedded = [
        (decoder.token_embedding(own) + decoder.positional_embedding[part.length :][: own.shape[1]]).flatten(0, 1)
        for part, own in zip(parts, tokens, strict=True)
    ]
    x = torch.cat(embedded)[None].to(parts[0].heard.features.dtype)
    for layer, block in enumerate(parts[0].blocks):
        normed = block.attn_ln(x)
        each = (one.split(counts, dim=1) for one in (block.attn.query(normed), *_keys_values(block.attn, normed)))
        found = [
            _attended(query, *part.write(layer, len(own), keys, values), block.attn.n_head, causal=own.shape[1] > 1)
            for part, own, query, keys, values in zip(parts, tokens, *each, strict=True)
        ]
        x = x + block.attn.out(torch.cat(found, dim=1))
        normed = block.cross_attn_ln(x)
        queries = block.cross_attn.query(normed).split(counts, dim=1)
        # To a recording all tokens of all rows attend alike: as one row they read its keys and values once.
        found = [
            _attended(query, *part.heard.keys_values[layer], block.cross_attn.n_head)
            for part, query in zip(parts, queries, strict=True)
        ]
        x = x + block.cross_attn.out(torch.cat(found, dim=1))
        if asked is not None:
            asked.append(normed)
        x = x + block.mlp(block.mlp_ln(x))
    for part, own in zip(parts, tokens, strict=True):
        part.length += own.shape[1]
    return decoder.ln(x)


def _keys_values(attention: MultiHeadAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    return attention.key(x), attention.value(x)


def _attended(query: Tensor, keys: Tensor, values: Tensor, heads: int, causal: bool = False) -> Tensor:
    """What queries [1, R * T, D] find in keys and values [R, S, D], of the same shape as queries."""
    rows = query.view(len(keys), -1, query.shape[-1])
    asked, keys, values = (_split(one, heads) for one in (rows.to(keys.dtype), keys, values))
    found = F.scaled_dot_product_attention(asked, keys, values, is_causal=causal)
    return found.transpose(1, 2).reshape(query.shape).to(query.dtype)


def _scores(attention: MultiHeadAttention, x: Tensor, keys: Tensor) -> Tensor:
    """The scores [H, T, S] of each head for [1, T, D] and keys [1, S, D], before the softmax."""
    query, key = _split(attention.query(x), attention.n_head)[0], _split(keys.to(x.dtype), attention.n_head)[0]
    scale = query.shape[-1] ** -0.25
    return ((query * scale) @ (key * scale).transpose(-1, -2)).float()


def _split(x: Tensor, heads: int) -> Tensor:
    """[R, T, D] → [R, H, T, D / H]"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
