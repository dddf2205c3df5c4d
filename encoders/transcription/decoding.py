"""openai-whisper's decoding of one window, with keys, values and random numbers that belong to it alone.

Upstream keeps keys and values by hooks on the model and samples from torch's global generator, so two threads with one
model would write into each other's text. Here the model's layers are called with a cache of the window's own; rules,
beams and ranking are upstream's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
import whisper
from torch import Tensor
from torch.distributions import Categorical
from whisper.decoding import BeamSearchDecoder, DecodingOptions, DecodingResult, DecodingTask, GreedyDecoder, Inference
from whisper.model import MultiHeadAttention


class NonFiniteTextError(ValueError):
    """Whisper computed NaN where it should have computed probabilities."""

    def __init__(self, precision: str) -> None:
        super().__init__(
            f"Whisper computed NaN, so what is said is unknown: it overflows in {precision}, or its weights are damaged"
        )


def decode_window(
    model: whisper.Whisper, mel: Tensor, options: DecodingOptions, generator: torch.Generator
) -> DecodingResult:
    """The text of a spectrogram [n_mels, 3000]: `whisper.decode`, with samples drawn from `generator`.

    NonFiniteTextError where the model computes NaN.
    """
    result = _Task(model, options, generator).run(mel[None])[0]
    if math.isnan(result.avg_logprob):
        raise NonFiniteTextError("float16" if options.fp16 else "float32")
    return result


class _Task(DecodingTask):
    """Upstream's decoding of one window, with another cache and another source of random numbers."""

    def __init__(self, model: whisper.Whisper, options: DecodingOptions, generator: torch.Generator) -> None:
        super().__init__(model, options)
        self.inference = _Inference(model, self.sample_begin)
        if isinstance(self.decoder, BeamSearchDecoder):
            self.decoder.inference = self.inference
        elif options.temperature > 0:
            self.decoder = _Sampler(options, self.tokenizer.eot, generator)


class _Inference(Inference):
    """The decoder's pass over the tokens that are new (TextDecoder.forward), with its keys and values so far."""

    def __init__(self, model: whisper.Whisper, prompt_length: int) -> None:
        self.decoder, self.prompt_length = model.decoder, prompt_length
        blocks: Any = self.decoder.blocks
        self.blocks: list[Any] = list(blocks)
        self.length = 0
        self.written: list[tuple[Tensor, Tensor]] = []  # of each block: keys and values of the tokens, [R, T, D]
        self.heard: list[tuple[Tensor, Tensor]] = []  # … and of the recording

    def logits(self, tokens: Tensor, audio_features: Tensor) -> Tensor:
        """Tokens so far [R, T] and tokens of the recording [1, S, D] → logits [R, T or 1, V]."""
        if not self.heard:
            self.heard = [_keys_values(block.cross_attn, audio_features) for block in self.blocks]
        if tokens.shape[-1] > self.prompt_length:
            tokens = tokens[:, -1:]
        decoder, start, self.length = self.decoder, self.length, self.length + tokens.shape[-1]
        x = decoder.token_embedding(tokens) + decoder.positional_embedding[start : self.length]
        x = x.to(audio_features.dtype)
        mask: Any = decoder.mask
        for index, block in enumerate(self.blocks):
            normed = block.attn_ln(x)
            keys, values = _keys_values(block.attn, normed)
            if start:
                earlier_keys, earlier_values = self.written[index]
                keys, values = torch.cat([earlier_keys, keys], dim=1), torch.cat([earlier_values, values], dim=1)
                self.written[index] = keys, values
            else:
                self.written.append((keys, values))
            x = x + _attended(block.attn, normed, (keys, values), mask)
            x = x + _attended(block.cross_attn, block.cross_attn_ln(x), self.heard[index], None)
            x = x + block.mlp(block.mlp_ln(x))
        x = decoder.ln(x)
        return (x @ decoder.token_embedding.weight.to(x.dtype).T).float()

    def rearrange_kv_cache(self, source_indices: list[int]) -> None:
        """Beam i goes on from what beam `source_indices[i]` was."""
        if source_indices != list(range(len(source_indices))):
            self.written = [(keys[source_indices], values[source_indices]) for keys, values in self.written]


def _keys_values(attention: MultiHeadAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    return attention.key(x), attention.value(x)


def _attended(
    attention: MultiHeadAttention, x: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor | None
) -> Tensor:
    return attention.out(attention.qkv_attention(attention.query(x), *keys_values, mask)[0])


class _Sampler(GreedyDecoder):
    """Draws each token from a generator of its own; otherwise upstream's."""

    def __init__(self, options: DecodingOptions, eot: int, generator: torch.Generator) -> None:
        super().__init__(options.temperature, eot)
        self.precision = "float16" if options.fp16 else "float32"
        self.generator = generator

    def update(self, tokens: Tensor, logits: Tensor, sum_logprobs: Tensor) -> tuple[Tensor, bool]:
        """Tokens [R, T] with one more token, drawn by logits [R, V], and whether all rows have ended."""
        weights = Categorical(logits=logits / self.temperature, validate_args=False).probs
        if bool(weights.isnan().any()):
            raise NonFiniteTextError(self.precision)
        drawn = torch.multinomial(weights, 1, replacement=True, generator=self.generator).squeeze(1)
        ended = tokens[:, -1] == self.eot
        log_probs = F.log_softmax(logits.float(), dim=-1).gather(1, drawn[:, None]).squeeze(1)
        sum_logprobs += log_probs * ~ended
        drawn[ended] = self.eot
        return torch.cat([tokens, drawn[:, None]], dim=-1), bool((drawn == self.eot).all())
