"""openai-whisper's decoding of one window, with keys, values and random numbers that belong to it alone.

Upstream samples from torch's global generator, and encodes a window again for each try. Here the draws come from a
generator that is given, and the passes of the model from `passes.py`; rules, beams and ranking are upstream's.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
import whisper
from torch import Tensor
from torch.distributions import Categorical
from whisper.decoding import (
    BeamSearchDecoder,
    DecodingOptions,
    DecodingResult,
    DecodingTask,
    GreedyDecoder,
    LogitFilter,
    SuppressTokens,
)

from encoders.transcription.passes import Heard, Passes


class NonFiniteTextError(ValueError):
    """Whisper computed NaN where it should have computed probabilities."""

    def __init__(self, precision: str) -> None:
        super().__init__(
            f"Whisper computed NaN, so what is said is unknown: it overflows in {precision}, or its weights are damaged"
        )


def decode_window(
    model: whisper.Whisper, heard: Heard, options: DecodingOptions, generator: torch.Generator
) -> DecodingResult:
    """The text of a window that was encoded by `hear`: `whisper.decode`, with samples drawn from `generator`.

    options: with the language. NonFiniteTextError where the model computes NaN.
    """
    result = _Task(model, heard, options, generator).run(heard.features)[0]
    if math.isnan(result.avg_logprob):
        raise NonFiniteTextError("float16" if options.fp16 else "float32")
    return result


class _Task(DecodingTask):
    """Upstream's decoding of one window, with other passes and another source of random numbers."""

    def __init__(
        self, model: whisper.Whisper, heard: Heard, options: DecodingOptions, generator: torch.Generator
    ) -> None:
        super().__init__(model, options)
        self.passes = Passes(model, heard, rows=self.n_group)
        if isinstance(self.decoder, BeamSearchDecoder):
            self.decoder.inference = self.passes
        elif options.temperature > 0:
            self.decoder = _Sampler(options, self.tokenizer.eot, generator)
        self.logit_filters = [
            _Suppressed(rule, heard.features.device) if isinstance(rule, SuppressTokens) else rule
            for rule in self.logit_filters
        ]

    def _main_loop(self, audio_features: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, list[float]]:
        """Tokens [R, T], the same in every row, which are continued; their log-probabilities, and that nobody speaks.

        Upstream's loop. Of the first pass, logits are computed where they are used: at two positions.
        """
        rows, no_speech = len(tokens), math.nan
        sums = torch.zeros(rows, device=tokens.device)
        for step in range(self.sample_len):
            if step == 0:
                at_start, logits = self.passes.begin(tokens[0], [self.sot_index, -1])
                if self.tokenizer.no_speech is not None:
                    no_speech = float(at_start.softmax(dim=-1)[self.tokenizer.no_speech])
                logits = logits.repeat(rows, 1)
            else:
                logits = self.passes.step(tokens[:, -1])
            for rule in self.logit_filters:
                rule.apply(logits, tokens)
            tokens, ended = self.decoder.update(tokens, logits, sums)
            if ended or tokens.shape[-1] > self.n_ctx:
                break
        return tokens, sums, [no_speech] * rows


class _Suppressed(LogitFilter):
    """Upstream's SuppressTokens, with its ids as a tensor that is made once and not for each token."""

    def __init__(self, rule: SuppressTokens, device: torch.device) -> None:
        self.ids = torch.tensor(rule.suppress_tokens, dtype=torch.long, device=device)

    def apply(self, logits: Tensor, tokens: Tensor) -> None:
        """Logits [R, V], changed in place."""
        logits.index_fill_(1, self.ids, -math.inf)


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
