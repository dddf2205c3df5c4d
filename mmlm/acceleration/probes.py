"""Asking a language model itself whether recorded and wide steps give what plain ones give."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from mmlm.acceleration.recorded_step import LONGEST, RecordedSteps, can_record
from mmlm.generation.decoder import Decoder
from mmlm.model.fusion.media_context import MediaContext
from mmlm.model.language_model import LanguageModel
from mmlm.prompting.processor import Batch

PROBED = 6  # tokens, by which recorded steps are compared


def recorded_steps_agree(host: LanguageModel, context: Callable[[], MediaContext], tolerance: float) -> bool:
    """Whether recorded steps give the logits of plain ones, which the language model itself is asked.

    They do not where a family tells positions from the length of its cache, and there are none where a pass goes by the
    values of a tensor, as those of some mixtures of experts do. tolerance: of the logits' norm.
    """
    room = _longest_text(host) - PROBED

    def logits(recorded: bool) -> Tensor | None:
        decoder = Decoder(host, context(), _probe(host, rows=1), room) if room >= PROBED else None
        if decoder is None or not can_record(decoder.cache, decoder.mask):
            return None
        decoder.record = functools.partial(RecordedSteps, room=room) if recorded else None
        return _probed_logits(decoder)

    return _agree(host, logits, tolerance)


def wide_steps_agree(host: LanguageModel, context: Callable[[], MediaContext], tolerance: float) -> bool:
    """Whether steps that are float32 between weights of 16 bits give the logits of plain ones, but for rounding.

    A family may multiply by weights that are no layer's, and take inputs of 16 bits alone. tolerance: as above.
    """

    def logits(wide: bool) -> Tensor:
        decoder = Decoder(host, context(), _probe(host, rows=2), PROBED)
        decoder.record, decoder.wide = None, wide
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
    """Positions of the longest text whose steps are recorded, where a limit that the cache does not know would show."""
    windows = [getattr(layer, "sliding_window", LONGEST) for layer in DynamicCache(config=host.model.config).layers]
    return min(LONGEST, host.max_length or LONGEST, *windows)
