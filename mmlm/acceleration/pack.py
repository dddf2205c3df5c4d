"""The one switch for speed: packed weights and recorded steps for a whole network."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from mmlm.acceleration.kernels import HALVES, Weights, available, has_fbgemm
from mmlm.acceleration.packing import pack_layers, unpack_layers, use_packed
from mmlm.acceleration.probes import recorded_steps_agree, wide_steps_agree
from mmlm.acceleration.recorded_step import SHORT, RecordedSteps, can_record
from mmlm.model.fusion.media_context import MediaContext
from mmlm.model.network import MultimodalNetwork


@dataclass
class Acceleration:
    """What `pack` found to work for a language model; implements `mmlm.model.acceleration.Acceleration`.

    widens: whether requests can be wide, which means float32 activations with 16-bit weights (see `packing.py`).
    records_on: the device type where steps are recorded and replayed; None if they are not.
    """

    widens: bool = False
    records_on: str | None = None

    def active(self) -> AbstractContextManager[None]:
        """While open, in this thread, layers use their packed weights."""
        return use_packed()

    def is_wide(self, dtype: torch.dtype, device: torch.device) -> bool:
        """Whether a request that begins now is wide; dtype, device: of the weights."""
        plain = not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        return self.widens and dtype in HALVES and device.type == "cpu" and plain

    def recorded(self, cache: DynamicCache, mask: Tensor, positions: Tensor, length: int) -> RecordedSteps | None:
        """Recorded steps of a request; None for a short text, another device, or a cache that cannot be recorded.

        mask, positions: `[R, capacity]`, of the `length` positions so far and of all that may follow.
        """
        if self.records_on != mask.device.type or mask.shape[1] - length <= SHORT or not can_record(cache, mask):
            return None
        return RecordedSteps(cache, mask, positions, length)


def pack(network: MultimodalNetwork, weights: Weights = "exact") -> None:
    """Makes generation faster; `unpack` undoes it. The model stays on its device, and decoding takes the same steps.

    Steps of texts that are not very short are recorded and replayed, if a few passes of the language model show that
    this gives the same logits. Its Python code, hooks included, then runs only in some of the steps, and a changed
    weight takes effect with the next text. On a CPU, layers use packed copies of their weights, which take up to twice
    the memory of the weights in addition; and a 16-bit language model computes in float32, cache included, if a few
    passes show that it can.

    weights: "fp16", "int8" or "int4" quantise the weights of the language model and the gated blocks to that many bits,
    in a half, a quarter or a sixth of float32's memory. Results then change; so do losses computed without gradients.
    Encoders and resamplers stay "exact". Training steps change only in the last bits of the frozen encoders' features,
    and the language model outside of requests does not change. ValueError for quantised weights on a GPU, and on a CPU
    if torch was built without oneDNN.
    """
    host = network.language_model
    if network.device.type != "cpu" and weights != "exact":
        raise ValueError(
            f"weights={weights!r} is for a CPU, and the model is on {network.device}: use weights='exact' there"
        )
    if network.device.type == "cpu":
        _pack_weights(network, weights)
    acceleration = host.acceleration = Acceleration()

    def context() -> MediaContext:
        no_items = torch.zeros(0, dtype=torch.long, device=network.device)
        return MediaContext(network.fusion, None, no_items, no_items, rows=1)

    if network.device.type == "cpu" and host.dtype in HALVES and has_fbgemm():  # else wide steps save no time
        acceleration.widens = wide_steps_agree(host, context, tolerance=0.1)
    tolerance = 1e-3 if host.dtype == torch.float32 and weights in ("exact", "fp16") else 0.03
    if recorded_steps_agree(host, context, tolerance):
        acceleration.records_on = network.device.type


def unpack(network: MultimodalNetwork) -> None:
    """Undoes `pack`, and frees the packed weights."""
    unpack_layers(network)
    network.language_model.acceleration = None


def _pack_weights(network: MultimodalNetwork, weights: Weights) -> None:
    if not available():
        raise ValueError("this build of torch has no oneDNN: leave the model unpacked")
    for part in (network.encoders, network.resamplers):
        pack_layers(part)
    for part in (network.fusion, network.language_model):
        pack_layers(part, weights)
