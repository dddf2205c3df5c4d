"""Checks, by running the language model, that recorded steps and wide steps give the logits of plain ones."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from mmlm.acceleration.choosing import out_of_memory
from mmlm.acceleration.recorded_step import LONGEST, RecordedSteps, can_record
from mmlm.generation.decoder import Decoder
from mmlm.model.fusion.interface import MediaContext
from mmlm.model.language_model import LanguageModel
from mmlm.prompting.processor import Batch

PROBED = 6  # tokens of the prompt, and steps that are compared
ERRORS = (RuntimeError, TypeError, ValueError, IndexError)  # of code that does not support such steps


def why_not_recorded(host: LanguageModel, context: Callable[[], MediaContext], tolerance: float) -> str | None:
    """Why recorded steps do not give the logits of plain ones; None if they do, checked by running the language model.

    They do not if a family derives positions from the length of its cache. They cannot be recorded if a pass depends on
    the values of a tensor, as in some mixtures of experts. tolerance: of the difference's norm, relative to the norm
    of the plain logits.
    """
    room = longest_text(host) - PROBED

    def logits(recorded: bool) -> Tensor | None:
        decoder = Decoder(host, context(), probe(host, rows=1), room) if room >= PROBED else None
        if decoder is None or not can_record(decoder.cache, decoder.mask):
            return None
        decoder.record = functools.partial(RecordedSteps, room=room) if recorded else None
        return _probed_logits(decoder)

    return _why_not(host, logits, tolerance)


def why_not_wide(host: LanguageModel, context: Callable[[], MediaContext], tolerance: float) -> str | None:
    """Why wide steps (float32 with 16-bit weights) give other logits than plain ones, beyond rounding; None if not.

    They fail if a family multiplies by weights outside its layers, which accept 16-bit inputs only. tolerance: as in
    `why_not_recorded`.
    """

    def logits(wide: bool) -> Tensor:
        decoder = Decoder(host, context(), probe(host, rows=2), PROBED)
        decoder.record, decoder.wide = None, wide
        return _probed_logits(decoder)

    return _why_not(host, logits, tolerance)


def probe(host: LanguageModel, rows: int) -> Batch:
    """A prompt `[rows, PROBED]`. Of two rows the first is padded, because some families then build another mask."""
    ids = torch.arange(PROBED, device=host.device).repeat(rows, 1) % host.vocabulary.offset
    attention_mask = torch.ones_like(ids)
    attention_mask[: rows - 1, 0] = 0
    return Batch(ids, attention_mask)


def _probed_logits(decoder: Decoder) -> Tensor:
    """Logits `[PROBED, R, V]` of steps that repeat the prompt."""
    ids = decoder.ids[:, : decoder.length].clone()
    decoder.prefill()
    return torch.stack([decoder.step(tokens) for tokens in ids.unbind(1)])


@torch.no_grad()
def _why_not(host: LanguageModel, logits: Callable[[bool], Tensor | None], tolerance: float) -> str | None:
    """None if `logits(True)` equal `logits(False)`, within the tolerance, where these are finite; else what is wrong.

    An error of `logits(True)` alone is such a reason; one of `logits(False)` is the model's own, and comes out.
    """
    with torch.autocast(host.device.type, enabled=False):
        found, reason = None, "the cache has layers of changing shape, or is too short"
        try:
            found = logits(True)
        except ERRORS as error:
            if out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
        plain = logits(False)
    if found is None or plain is None:
        return reason
    finite = plain.isfinite()
    if not finite.any():
        return "no logits are finite"
    off = float((found - plain)[finite].norm() / plain[finite].norm())
    return None if off <= tolerance else f"logits differ by {off:.2g} of their norm"


def longest_text(host: LanguageModel) -> int:
    """Positions of the longest text whose steps are recorded: a limit that the cache does not know shows there."""
    config: Any = host.model.config
    windows = [getattr(layer, "sliding_window", LONGEST) for layer in DynamicCache(config=config).layers]
    return min(LONGEST, host.max_length or LONGEST, *windows)
