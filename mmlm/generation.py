"""The decode loop: prefill once, then one token a step; greedy, sampling, beams, streaming."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mmlm.cache import preallocated_cache
from mmlm.capture import CapturedStep, has_settling_layers
from mmlm.fusion import MediaContext
from mmlm.language_model import LanguageModel
from mmlm.prompt import Batch

# On a GPU, asking whether every row has ended costs a synchronisation; it is asked once in so many steps.
STEPS_BETWEEN_CHECKS = 16
ROOM = 128  # tokens, at least, for which steps are captured; then anew for twice as many positions as there are
SHORT = 16  # tokens, for which no step is captured
PROBED = 6  # tokens, by which captured steps are compared
LONGEST = 2048  # positions of a text whose steps are captured


@dataclass(frozen=True)
class GenerationOptions:
    """How to decode; names and meanings are transformers'.

    `temperature`, `top_k`, `top_p` act with `do_sample=True`; `length_penalty` acts with `num_beams > 1`. `stop`
    strings and `stop_token_ids` end a text, beside the language model's own end tokens, and are left out of it.
    Sampling draws from `seed`; None takes a fresh one.
    """

    max_new_tokens: int = 64
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    num_beams: int = 1
    length_penalty: float = 1.0
    num_return_sequences: int = 1
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    seed: int | None = None

    def __post_init__(self):
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for name in ("max_new_tokens", "num_beams", "num_return_sequences"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.temperature <= 0:
            raise ValueError(
                f"temperature must be above 0, not {self.temperature}; for no randomness leave do_sample off"
            )
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty must be above 0, not {self.repetition_penalty}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], not {self.top_p}")
        if not self.do_sample and (self.temperature != 1.0 or self.top_k is not None or self.top_p is not None):
            raise ValueError("temperature, top_k and top_p act only when sampling: pass do_sample=True")
        if self.do_sample and self.num_beams > 1:
            raise ValueError("choose beams or sampling, not both")
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences={self.num_return_sequences} needs do_sample=True or as many beams; "
                f"num_beams is {self.num_beams}"
            )
        if any(not text for text in self.stop):
            raise ValueError("a stop string is empty")
        if any(token < 0 for token in self.stop_token_ids):
            raise ValueError(f"stop_token_ids holds a negative id: {self.stop_token_ids}")

    def processors(self) -> LogitsProcessorList:
        """transformers' logits processors for these options, in its order."""
        chain = LogitsProcessorList()
        if self.repetition_penalty != 1.0:
            chain.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.do_sample:
            if self.temperature != 1.0:
                chain.append(TemperatureLogitsWarper(self.temperature))
            if self.top_k is not None:
                chain.append(TopKLogitsWarper(self.top_k))
            if self.top_p is not None and self.top_p < 1.0:
                chain.append(TopPLogitsWarper(self.top_p))
        return chain


class Decoder:
    """Runs the language model over a prompt once, then token by token, with everything a step needs made beforehand."""

    def __init__(
        self, host: LanguageModel, context: MediaContext, batch: Batch, max_new_tokens: int, codes: bool = False
    ):
        """`codes`: logits of all codes come last, and what may follow what is the caller's to see to."""
        if not host.accepts("past_key_values"):
            raise ValueError(
                f"{type(host.model).__name__} keeps no keys and values (no past_key_values), so it would forget the "
                "text at each step; choose a language model that does"
            )
        host.check_codes(batch.input_ids, codes)
        self.host, self.context = host, context
        self.codes = host.code_places() if codes else None
        rows, length = batch.input_ids.shape
        self.length = length
        self.cache = preallocated_cache(host.model.config, length + max_new_tokens)
        self.padded = not bool(batch.attention_mask.all())
        self.mask = torch.cat([batch.attention_mask, batch.attention_mask.new_ones(rows, max_new_tokens)], dim=1)
        self.positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        # The ids so far, prompt included: [rows, length + max_new_tokens].
        self.ids = torch.cat([batch.input_ids, batch.input_ids.new_zeros(rows, max_new_tokens)], dim=1)
        self.captures = host.captures_on == self.ids.device.type and max_new_tokens > SHORT and self.can_capture()
        self.captured: CapturedStep | None = None
        self.room = ROOM
        self.wide: bool | None = None  # whether hidden states and cache are float32: as the prompt's pass finds it

    def can_capture(self) -> bool:
        """Whether steps can be as `CapturedStep` has them; another thing is whether they give the same."""
        short = self.ids.shape[1] <= LONGEST
        return short and has_settling_layers(self.cache) and not torch.is_autocast_enabled(self.ids.device.type)

    def prefill(self) -> Tensor:
        """Logits `[R, V]` after the prompt."""
        self.wide = self.host.is_wide if self.wide is None else self.wide
        logits = self._forward(self.ids[:, : self.length], self._seen(), self.positions[:, : self.length])
        self.context.begin_decoding()
        return logits

    def repeat(self, times: int) -> None:
        """From here on each row comes `times` times, one after the other."""
        if times > 1:
            index = torch.arange(self.ids.shape[0], device=self.ids.device).repeat_interleave(times)
            self.mask, self.positions, self.ids = self.mask[index], self.positions[index], self.ids[index]
            self.cache.reorder_cache(index)
            self.context.repeat(times)
            if self.codes is not None:
                self.codes.repeat(times)

    def step(self, tokens: Tensor) -> Tensor:
        """Appends `tokens [R]` and gives the logits `[R, V]` that follow."""
        self.ids[:, self.length] = tokens
        start, self.length = self.length, self.length + 1
        if self.captures:
            if self.captured is None or start == self.captured.end:
                end = min(self.ids.shape[1], max(2 * start, start + self.room))
                self.captured = CapturedStep(self.cache, self.mask, self.positions, start, end)
            return self.captured(tokens, self._forward)
        return self._forward(tokens.unsqueeze(1), self._seen(), self.positions[:, start : self.length])

    def reorder(self, index: Tensor) -> None:
        """Row i goes on from what row `index[i]` was; rows of one request share their media, so these stay."""
        self.ids = self.ids[index]
        self.cache.reorder_cache(index)

    def _seen(self) -> Tensor | None:
        """What of the text so far is no padding; None where all is."""
        return self.mask[:, : self.length] if self.padded else None

    def _forward(self, ids: Tensor, mask: Tensor | None, positions: Tensor) -> Tensor:
        if self.wide and not self.host.widens:
            raise RuntimeError("the model was unpacked while a text was being written: begin the text again")
        # The request is opened for each pass alone: between the steps of a stream, the caller's thread is its own.
        with self.host.request(self.context, self.codes, wide=bool(self.wide)):
            output = self.host(
                ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits = output.logits[:, -1].float()
        vocabulary = self.host.vocabulary
        logits[:, vocabulary.end_of_chunk_id + 1 : vocabulary.code_offset] = -torch.inf  # placeholders, padding
        return logits


def captured_steps_agree(host: LanguageModel, context: Callable[[], MediaContext], tolerance: float) -> bool:
    """Whether captured steps give the logits of plain ones, which the language model itself is asked.

    They do not where a family tells positions from the length of its cache, and there are none where a pass goes by the
    values of a tensor, as those of some mixtures of experts do. tolerance: of the logits' norm.
    """
    room = _longest_text(host) - PROBED

    def logits(captures: bool) -> Tensor | None:
        decoder = Decoder(host, context(), _probe(host, rows=1), room) if room >= PROBED else None
        if decoder is None or not decoder.can_capture():
            return None
        decoder.captures, decoder.room = captures, room
        return _probed_logits(decoder)

    return _agree(host, logits, tolerance)


def wide_steps_agree(host: LanguageModel, context: Callable[[], MediaContext], tolerance: float) -> bool:
    """Whether steps that are float32 between weights of 16 bits give the logits of plain ones, but for rounding.

    A family may multiply by weights that are no layer's, and take inputs of 16 bits alone. tolerance: as above.
    """

    def logits(wide: bool) -> Tensor:
        decoder = Decoder(host, context(), _probe(host, rows=2), PROBED)
        decoder.captures, decoder.wide = False, wide
        return _probed_logits(decoder)

    return _agree(host, logits, tolerance)


def _probe(host: LanguageModel, rows: int) -> Batch:
    """A prompt; the first of two rows is padded, as some families build another mask then."""
    ids = torch.arange(PROBED, device=host.device).repeat(rows, 1) % host.vocabulary.offset
    seen = torch.ones_like(ids)
    seen[: rows - 1, 0] = 0
    return Batch(ids, seen)


def _probed_logits(decoder: Decoder) -> Tensor:
    """Logits `[PROBED, R, V]` of steps that repeat the prompt."""
    ids = decoder.ids[:, : decoder.length].clone()
    decoder.prefill()
    return torch.stack([decoder.step(tokens) for tokens in ids.unbind(1)])


@torch.no_grad()
def _agree(host: LanguageModel, logits: Callable[[bool], Tensor | None], tolerance: float) -> bool:
    """Whether there are logits of one way, and those of the other are the same, wherever they are finite."""
    if not host.accepts("past_key_values"):
        return False
    with torch.autocast(host.device.type, enabled=False):
        try:
            found = logits(True)
        except Exception:  # whatever a family says: it cannot
            return False
        if found is None:
            return False
        plain = logits(False)
    seen = plain.isfinite()
    return bool(seen.any() and (found - plain)[seen].norm() <= tolerance * plain[seen].norm())


def _longest_text(host: LanguageModel) -> int:
    """Positions of the longest text whose steps are captured, where a limit that the cache does not know would show."""
    windows = [getattr(layer, "sliding_window", LONGEST) for layer in DynamicCache(config=host.model.config).layers]
    return min(LONGEST, host.max_length or LONGEST, *windows)


@torch.no_grad()
def stream_tokens(
    decoder: Decoder, options: GenerationOptions, stop_ids: list[int], generator: torch.Generator | None
) -> Iterator[Tensor]:
    """Greedy tokens, or with a generator sampled ones, a step at a time: `[B·num_return_sequences]`.

    Rows that have ended repeat `stop_ids[0]`.
    A caller that knows of another reason to stop just stops iterating.
    """
    processors = options.processors()
    logits = decoder.prefill()
    if options.num_return_sequences > 1:
        decoder.repeat(options.num_return_sequences)
        logits = logits.repeat_interleave(options.num_return_sequences, dim=0)
    device = logits.device
    stops = torch.tensor(stop_ids, device=device)
    ended = torch.zeros(logits.shape[0], dtype=torch.bool, device=device)
    check_every = _steps_between_checks(device)
    for step in range(1, options.max_new_tokens + 1):
        if processors:
            logits = processors(decoder.ids[:, : decoder.length], logits)
        if generator is None:
            tokens = logits.argmax(-1)
        else:
            tokens = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
        tokens = torch.where(ended, stops[0], tokens)
        yield tokens
        ended = ended | torch.isin(tokens, stops)
        if step == options.max_new_tokens or (step % check_every == 0 and bool(ended.all())):
            return
        logits = decoder.step(tokens)


def sampler(options: GenerationOptions, device: torch.device) -> torch.Generator | None:
    """What sampling draws from, for all batches of a request; None where nothing is drawn."""
    if not options.do_sample:
        return None
    generator = torch.Generator(device)
    if options.seed is None:
        generator.seed()
    else:
        generator.manual_seed(options.seed)
    return generator


def _steps_between_checks(device: torch.device) -> int:
    return 1 if device.type == "cpu" else STEPS_BETWEEN_CHECKS


@torch.no_grad()
def beam_search(
    decoder: Decoder, options: GenerationOptions, stop_ids: list[int], stopped: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Beam search; ids `[B, num_return_sequences, max_new_tokens]`, best first, filled up with `stop_ids[0]`.

    The score of a hypothesis is its log-probability divided by `length ** length_penalty`, the ending token counted;
    the search ends when no running beam can beat the worst kept hypothesis (transformers' `early_stopping=False`).
    `stopped` may end hypotheses for other reasons: new ids `[n, t]` → bool `[n]`.
    """
    beams, processors = options.num_beams, options.processors()
    check_every = _steps_between_checks(decoder.ids.device)
    logits = decoder.prefill()
    rows, prompt = logits.shape[0], decoder.length
    decoder.repeat(beams)
    logits = logits.repeat_interleave(beams, dim=0)
    device, vocab = logits.device, logits.shape[-1]
    stops = torch.tensor(stop_ids, device=device)
    candidates = (1 + len(stop_ids)) * beams  # enough that `beams` of them go on
    row_start = torch.arange(rows, device=device).unsqueeze(1) * beams

    running = torch.zeros(rows, beams, device=device)
    running[:, 1:] = -torch.inf  # all beams start equal: only the first may branch
    kept_ids = torch.full((rows, beams, options.max_new_tokens), stop_ids[0], device=device)
    kept = torch.full((rows, beams), -torch.inf, device=device)
    open_rows = torch.ones(rows, 1, dtype=torch.bool, device=device)

    for length in range(1, options.max_new_tokens + 1):
        log_probs = logits.log_softmax(-1)
        if processors:
            log_probs = processors(decoder.ids[:, : decoder.length], log_probs)
        totals = (running.view(-1, 1) + log_probs).view(rows, beams * vocab)
        scores, choice = totals.topk(candidates)
        source, tokens = row_start + choice // vocab, choice % vocab
        ends = torch.isin(tokens, stops)
        new_ids = torch.cat([decoder.ids[:, prompt : decoder.length][source], tokens.unsqueeze(-1)], dim=-1)
        if stopped is not None:
            ends = ends | stopped(new_ids.flatten(0, 1)).view_as(ends)
        last = length == options.max_new_tokens
        # Only an ending within the best `beams` is kept, and only for rows whose search is still open.
        finished = (ends | last) & (torch.arange(candidates, device=device) < beams) & open_rows
        merged = torch.cat([kept, (scores / length**options.length_penalty).masked_fill(~finished, -torch.inf)], dim=1)
        filled = torch.full((rows, candidates, options.max_new_tokens), stop_ids[0], device=device)
        filled[:, :, :length] = new_ids
        kept, order = merged.topk(beams)
        kept_ids = torch.cat([kept_ids, filled], dim=1).gather(1, order.unsqueeze(-1).expand(-1, -1, filled.shape[-1]))
        if last:
            break
        running, order = scores.masked_fill(ends, -torch.inf).topk(beams)
        best_possible = running[:, :1] / length**options.length_penalty
        open_rows = open_rows & (best_possible > kept.min(dim=1, keepdim=True).values)
        if length % check_every == 0 and not bool(open_rows.any()):
            break
        source, tokens = source.gather(1, order).flatten(), tokens.gather(1, order).flatten()
        decoder.reorder(source)
        logits = decoder.step(tokens)
    return kept_ids[:, : options.num_return_sequences]
