"""Packed weights for Whisper's transcribing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mmlm.acceleration.copies import use_packed
from mmlm.acceleration.hardware import multiplies
from mmlm.acceleration.kernels import Weights
from mmlm.acceleration.packing import Chosen, choose_kernels, pack_layers

if TYPE_CHECKING:
    from encoders.transcription.transcriber import Transcriber


def pack_transcriber(transcriber: Transcriber, weights: Weights = "exact") -> list[Chosen]:
    """Lets a transcriber on a CPU compute with packed weights, see `pack`; gives the kernels that were chosen.

    weights: "fp16", "int8" and "int4" quantise the layers that write: text may change. Those that hear, the encoder
    and the keys and values of a recording, keep their weights: they take a whole window at once, for which int8 has one
    scale. With "int8" and "int4" they multiply in bfloat16, where the processor has instructions for it.
    ValueError for another value, and for a transcriber on a GPU.
    """
    device = transcriber.model.device
    if device.type != "cpu":
        raise ValueError(f"packed weights are for a CPU, and Whisper is on {device}")
    model, chosen = transcriber.model, []
    for part in (model, transcriber.output):
        pack_layers(part, weights)
    of_a_window = ("cross_attn.key", "cross_attn.value")
    crossing = [module for name, module in model.decoder.named_modules() if name.endswith(of_a_window)]
    for part in (model.encoder, *crossing):
        pack_layers(part)
    for part in (model, transcriber.output):
        chosen += choose_kernels(part)
    transcriber.computing = use_packed
    rounds = weights in ("int8", "int4") and multiplies(torch.bfloat16)
    transcriber.compute_dtype = torch.bfloat16 if rounds else torch.float32
    return chosen
