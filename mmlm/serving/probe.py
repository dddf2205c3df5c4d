"""Whether a language model can decode rows of unequal length together, found by running it."""

from __future__ import annotations

import torch

from mmlm.acceleration.probes import ERRORS, PROBED, longest_text, probe
from mmlm.generation.decoder import Decoder
from mmlm.model.network import MultimodalNetwork
from mmlm.serving.slots import Slots

TOLERANCE = 1e-2  # of the difference's norm, relative to that of the logits; another mask changes far more


@torch.no_grad()
def longest_together(network: MultimodalNetwork) -> int:
    """Positions of the longest rows whose steps give, beside other rows, the logits that they have alone; 0 for none.

    They do not in a family that counts a key's distance by its place in the cache. Memory that ends comes out.
    """
    host = network.language_model
    room = longest_text(host) - PROBED
    if room < PROBED:
        return 0

    def decoder() -> Decoder:
        return Decoder(host, network.fusion.context(rows=1), probe(host, rows=1), room)

    try:
        alone, joined = decoder(), decoder()
        if not alone.keeps_all:
            return 0
        logits = alone.prefill()
        joined.prefill()
        slots = Slots(
            host, network.fusion, wide=bool(joined.wide), codes=False, since=host.changes.count, block=PROBED + room
        )
        slots.join(joined)
        for _ in range(PROBED):
            tokens = logits.argmax(-1) % host.vocabulary.offset
            logits, found = alone.step(tokens), slots.step(tokens)
            if not float((found - logits).norm()) <= TOLERANCE * float(logits.norm()):
                return 0
    except ERRORS as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return 0
    return PROBED + room
