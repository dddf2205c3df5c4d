"""How the rows of a language model can be decoded together, found by running it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mmlm.acceleration.probes import ERRORS, PROBED, longest_text, probe
from mmlm.generation.decoder import Decoder
from mmlm.model.network import MultimodalNetwork
from mmlm.serving.slots import Slots

TOLERANCE = 1e-2  # of the difference's norm, relative to that of the logits; another mask changes far more
TYPICAL = 8, 128  # rows of a step that is timed, and positions that each reads


@dataclass(frozen=True)
class Together:
    """What rows a step can hold.

    longest: positions of the longest rows; 0 where each row needs a step of its own. mixed: whether rows that write
    codes can be beside rows of text.
    """

    longest: int
    mixed: bool


@torch.no_grad()
def together(network: MultimodalNetwork) -> Together:
    """Which rows get, beside others, the logits that they have alone. Memory that ends comes out.

    They do not in a family that counts a key's distance by its place in the cache, and those of text not beside codes
    where low-rank adapters cannot tell rows apart, as in some mixtures of experts.
    """
    longest = longest_text(network.language_model)
    if longest < 2 * PROBED or not _same(network, [False], longest):
        return Together(0, mixed=False)
    return Together(longest, network.language_model.codes is not None and _same(network, [False, True], 2 * PROBED))


def _same(network: MultimodalNetwork, codes: Sequence[bool], positions: int) -> bool:
    """Whether rows, of which some write codes, have the logits beside each other that they have alone."""
    try:
        alone = [_decoder(network, own, positions) for own in codes]
        if not all(decoder.keeps_all for decoder in alone):
            return False
        logits = [decoder.prefill() for decoder in alone]
        slots = _joined(network, codes, positions)
        for _ in range(PROBED):
            tokens = [own.argmax(-1) % network.language_model.vocabulary.offset for own in logits]
            logits = [decoder.step(own) for decoder, own in zip(alone, tokens, strict=True)]
            for own, found in zip(logits, slots.step(torch.cat(tokens)).unsqueeze(1), strict=True):
                if not float((found[:, : own.shape[1]] - own).norm()) <= TOLERANCE * float(own.norm()):
                    return False
    except ERRORS as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return False
    return True


def _decoder(network: MultimodalNetwork, codes: bool, positions: int) -> Decoder:
    """One with a short prompt, which is not read yet."""
    host = network.language_model
    return Decoder(host, network.fusion.context(rows=1), probe(host, rows=1), positions - PROBED, codes=codes)


def _joined(network: MultimodalNetwork, codes: Sequence[bool], positions: int) -> Slots:
    """Slots with a row for each, of which some write codes."""
    host = network.language_model
    decoders = [_decoder(network, own, positions) for own in codes]
    for decoder in decoders:
        decoder.prefill()
    wide = bool(decoders[0].wide)
    slots = Slots(host, network.fusion, wide=wide, since=host.changes.count, block=positions)
    for decoder in decoders:
        slots.join(decoder)
    return slots


def typical_step(network: MultimodalNetwork) -> Callable[[], object]:
    """A step of several rows of text that can be taken again and again, for timing."""
    rows, positions = TYPICAL[0], min(TYPICAL[1], longest_text(network.language_model))
    tokens = torch.zeros(rows, dtype=torch.long, device=network.language_model.device)
    slots = _joined(network, [False] * rows, positions)

    def step() -> None:
        nonlocal slots
        if slots.lengths[0] == positions:
            slots = _joined(network, [False] * rows, positions)
        slots.step(tokens)

    return step
