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
from whisper.utils import compression_ratio

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
    attempt = Attempt(model, heard, options, generator)
    attempt.begin()
    while not attempt.has_ended:
        attempt.take(attempt.passes.step(attempt.last))
    return attempt.result()


class Attempt(DecodingTask):
    """Upstream's decoding of one window, a token of each row at a time: `begin`, then `take` until it `has_ended`.

    passes: of the model, over this window. The other arguments are those of `decode_window`.
    """

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
        self.decoder.reset()
        device = heard.features.device
        self.tokens = torch.tensor([self.initial_tokens] * self.n_group, device=device)  # [R, T], the prompt included
        self.has_ended = False
        self._sums, self._no_speech, self._taken = torch.zeros(self.n_group, device=device), math.nan, 0

    @property
    def last(self) -> Tensor:
        """The last token of each row, [R]."""
        return self.tokens[:, -1]

    def begin(self) -> None:
        """Reads the prompt, and takes the first token of each row.

        Upstream computes the logits of the whole prompt. Here they are computed where they are used: at two positions.
        """
        at_start, logits = self.passes.begin(self.tokens[0], [self.sot_index, -1])
        if self.tokenizer.no_speech is not None:
            self._no_speech = float(at_start.softmax(dim=-1)[self.tokenizer.no_speech])
        self.take(logits.repeat(self.n_group, 1))

    def take(self, logits: Tensor) -> None:
        """Takes the next token of each row by logits [R, V], which are changed."""
        for rule in self.logit_filters:
            rule.apply(logits, self.tokens)
        self.tokens, ended = self.decoder.update(self.tokens, logits, self._sums)
        self._taken += 1
        self.has_ended = bool(ended) or self.tokens.shape[-1] > self.n_ctx or self._taken == self.sample_len

    def result(self) -> DecodingResult:
        """The best row's text, as `DecodingTask.run` gives it. NonFiniteTextError where the model computed NaN."""
        rows, sums = self.decoder.finalize(self.tokens[None], self._sums[None])
        eot = self.tokenizer.eot
        texts = [row[self.sample_begin : (row == eot).nonzero()[0, 0]] for row in rows[0]]
        (best,) = self.sequence_ranker.rank([texts], sums)
        tokens = texts[best].tolist()
        text = self.tokenizer.decode(tokens).strip()
        log_prob = sums[0][best] / (len(tokens) + 1)
        if math.isnan(log_prob):
            raise NonFiniteTextError("float16" if self.options.fp16 else "float32")
        return DecodingResult(
            audio_features=self.passes.heard.features[0], language=self.options.language or "en", tokens=tokens,
            text=text, avg_logprob=log_prob, no_speech_prob=self._no_speech, temperature=self.options.temperature,
            compression_ratio=compression_ratio(text),
        )  # fmt: skip


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
