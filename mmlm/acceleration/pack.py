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
    """What `pack` found that a language model can bear; see `mmlm.model.acceleration.Acceleration`.

    widens: whether requests can compute in float32 between weights of 16 bits. records_on: the kind of device where
    steps are recorded, None for nowhere.
    """

    widens: bool = False
    records_on: str | None = None

    def active(self) -> AbstractContextManager[None]:
        """While open, in this thread, layers compute on their packed weights."""
        return use_packed()

    def is_wide(self, dtype: torch.dtype, device: torch.device) -> bool:
        """Whether a request that begins now computes in float32 between weights of this `dtype`."""
        plain = not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        return self.widens and dtype in HALVES and device.type == "cpu" and plain

    def recorded(self, cache: DynamicCache, mask: Tensor, positions: Tensor, length: int) -> RecordedSteps | None:
        """Recorded steps of a request, or None for a short text, another device, or a cache that cannot be recorded."""
        if self.records_on != mask.device.type or mask.shape[1] - length <= SHORT or not can_record(cache, mask):
            return None
        return RecordedSteps(cache, mask, positions, length)


def pack(network: MultimodalNetwork, weights: Weights = "exact") -> None:
    """Makes generation faster; `unpack` takes it back. The model stays on its device, and the same steps are taken.

    Steps of texts that are not very short are recorded and repeated, where the language model lets them, which some
    passes of it find out. Then its Python, hooks as well, runs in some of the steps alone, and a weight that
    changes is seen by the next text. On a CPU, layers compute on packed copies of their weights, for up to twice as
    much memory again as these take; and a language model of 16 bits computes in float32 between its weights, cache
    included, where some tokens of it show that it can.

    weights: with "fp16", "int8" or "int4" the language model and the gated blocks compute on weights of so many
    bits, which take a half, a quarter or a sixth of the memory, and not exactly the same; losses without gradients,
    too. Encoders and resamplers stay "exact", and so do steps of training (but for the last bits of the frozen
    encoders' features) and the language model outside of requests. ValueError for rounded weights on a GPU.
    """
    host = network.language_model
    if network.device.type != "cpu" and weights != "exact":
        raise ValueError(f"packed weights of {weights} are for a CPU, and the model is on {network.device}")
    if network.device.type == "cpu":
        _pack_weights(network, weights)
    host.acceleration = Acceleration()

    def context() -> MediaContext:
        return MediaContext(network.fusion, None, None, None, 1)

    if network.device.type == "cpu" and host.dtype in HALVES and has_fbgemm():  # or nothing is gained
        host.acceleration.widens = wide_steps_agree(host, context, tolerance=0.1)
    tolerance = 1e-3 if host.dtype == torch.float32 and weights in ("exact", "fp16") else 0.03
    if recorded_steps_agree(host, context, tolerance):
        host.acceleration.records_on = network.device.type


def unpack(network: MultimodalNetwork) -> None:
    """Takes back `pack`."""
    unpack_layers(network)
    network.language_model.acceleration = None


def _pack_weights(network: MultimodalNetwork, weights: Weights) -> None:
    if not available():
        raise ValueError("this build of torch has no oneDNN: leave the model unpacked")
    for part in (network.encoders, network.resamplers):
        pack_layers(part)
    for part in (network.fusion, network.language_model):
        pack_layers(part, weights)
