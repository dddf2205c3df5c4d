"""Packed weights for Whisper's transcribing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmlm.acceleration.copies import use_packed
from mmlm.acceleration.kernels import Weights
from mmlm.acceleration.packing import Chosen, choose_kernels, pack_layers

if TYPE_CHECKING:
    from encoders.transcription.transcriber import Transcriber


def pack_transcriber(transcriber: Transcriber, weights: Weights = "exact") -> list[Chosen]:
    """Lets a transcriber on a CPU compute with packed weights, see `pack`; gives the kernels that were chosen.

    weights: "fp16", "int8" and "int4" quantise all of Whisper, its encoder too: its text may change. ValueError for
    another value, and for a transcriber on a GPU.
    """
    device = transcriber.model.device
    if device.type != "cpu":
        raise ValueError(f"packed weights are for a CPU, and Whisper is on {device}")
    chosen = []
    for part in (transcriber.model, transcriber.output):
        pack_layers(part, weights)
        chosen += choose_kernels(part)
    transcriber.computing = use_packed
    return chosen
