"""Whisper's encoder and decoder over one window, with keys and values that belong to it alone.

Upstream keeps keys and values by hooks on the model, so two threads with one model would write into each other's text.
"""

from __future__ import annotations

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

    features: the encoder's tokens [1, S, D]. keys_values: the keys and values [1, S, D] of each block of the decoder.
    output: the model's `output_layer`.
    """

    features: Tensor
    keys_values: list[tuple[Tensor, Tensor]]
    output: nn.Module


def hear(model: whisper.Whisper, mel: Tensor, output: nn.Module | None = None) -> Heard:
    """Encode a spectrogram [n_mels, 3000]. output: the model's `output_layer`, where it is kept; it may be packed."""
    features = model.encoder(mel[None])
    blocks: Any = model.decoder.blocks
    keys_values = [_keys_values(block.cross_attn, features) for block in blocks]
    return Heard(features, keys_values, output_layer(model) if output is None else output)


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
        x = self._pass(tokens[None])[0, positions]
        self.written[:, :, 1:, : self.length] = self.written[:, :, :1, : self.length]
        return self.heard.output(x).float()

    def step(self, tokens: Tensor) -> Tensor:
        """The next token of each row, [R] → logits [R, V]."""
        return self.heard.output(self._pass(tokens[:, None])[:, 0]).float()

    def attend(self, tokens: Tensor, heads: list[list[int]]) -> tuple[Tensor, Tensor]:
        """All tokens [T] of a text → logits [T, V], and the scores [N, T, S] of N heads for what is heard.

        heads: (layer, head) of each. Scores are those before the softmax.
        """
        asked: list[Tensor] = []
        x = self._pass(tokens[None], asked)[0]
        scores = {
            layer: _scores(self.blocks[layer].cross_attn, asked[layer], self.heard.keys_values[layer][0])
            for layer in {layer for layer, _ in heads}
        }
        return self.heard.output(x).float(), torch.stack([scores[layer][head] for layer, head in heads])

    def rearrange_kv_cache(self, source_indices: list[int]) -> None:
        """Beam i goes on from what beam `source_indices[i]` was."""
        if source_indices != list(range(len(source_indices))):
            self.written[:, :, :, : self.length] = self.written[:, :, source_indices, : self.length]

    def _pass(self, tokens: Tensor, asked: list[Tensor] | None = None) -> Tensor:
        """Tokens [R, T] → what the decoder makes of them, [R, T, D].

        asked: takes the inputs [1, R * T, D] of each block's attention to the recording.
        """
        decoder, (rows, count), start = self.decoder, tokens.shape, self.length
        self.length = end = start + count
        x = decoder.token_embedding(tokens) + decoder.positional_embedding[start:end]
        x = x.to(self.heard.features.dtype)
        for block, written, heard in zip(self.blocks, self.written, self.heard.keys_values, strict=True):
            normed = block.attn_ln(x)
            written[0, :rows, start:end], written[1, :rows, start:end] = _keys_values(block.attn, normed)
            keys, values = written[:, :rows, :end]
            x = x + _attended(block.attn, normed, keys, values, causal=count > 1)
            # To the recording all tokens of all rows attend alike: as one row they read its keys and values once.
            normed = block.cross_attn_ln(x).view(1, rows * count, -1)
            x = x + _attended(block.cross_attn, normed, *heard).view_as(x)
            if asked is not None:
                asked.append(normed)
            x = x + block.mlp(block.mlp_ln(x))
        return decoder.ln(x)


def _keys_values(attention: MultiHeadAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    return attention.key(x), attention.value(x)


def _attended(attention: MultiHeadAttention, x: Tensor, keys: Tensor, values: Tensor, causal: bool = False) -> Tensor:
    """MultiHeadAttention of [R, T, D] to keys and values [R, S, D]."""
    query, key, value = (_split(one, attention.n_head) for one in (attention.query(x), keys, values))
    found = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    return attention.out(found.transpose(1, 2).flatten(2))


def _scores(attention: MultiHeadAttention, x: Tensor, keys: Tensor) -> Tensor:
    """The scores [H, T, S] of each head for [1, T, D] and keys [1, S, D], before the softmax."""
    query, key = _split(attention.query(x), attention.n_head)[0], _split(keys, attention.n_head)[0]
    scale = query.shape[-1] ** -0.25
    return ((query * scale) @ (key * scale).transpose(-1, -2)).float()


def _split(x: Tensor, heads: int) -> Tensor:
    """[R, T, D] → [R, H, T, D / H]"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
