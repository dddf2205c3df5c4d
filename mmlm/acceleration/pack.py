"""The one switch for speed: packed weights and recorded steps for a whole network."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from mmlm.acceleration import choosing
from mmlm.acceleration.copies import use_packed
from mmlm.acceleration.kernels import HALVES, Weights, has_fbgemm
from mmlm.acceleration.packing import Chosen, choose_kernels, pack_layers, quantised, share_copies, unpack_layers
from mmlm.acceleration.probes import why_not_recorded, why_not_wide
from mmlm.acceleration.recorded_step import SHORT, RecordedSteps, can_record, record
from mmlm.model.fusion.interface import MediaContext
from mmlm.model.network import MultimodalNetwork

log = logging.getLogger(__name__)


@dataclass
class Acceleration:
    """What `pack` found to work for a model; implements `mmlm.model.acceleration.Acceleration`. Printed, it tells all.

    widens: whether requests can be wide, which means float32 activations with 16-bit weights (see `packing.py`).
    records_on: the device type where steps are recorded and replayed; None if they are not.
    chosen: the kernels of the linear layers, by shape.
    declined: what was tried and is not used → why.
    """

    widens: bool = False
    records_on: str | None = None
    chosen: list[Chosen] = field(default_factory=list)
    declined: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"steps are recorded: {'no' if self.records_on is None else 'yes'}",
            f"float32 activations with 16-bit weights: {'yes' if self.widens else 'no'}",
            *map(str, self.chosen),
            *(f"not used: {what}: {why}" for what, why in self.declined.items()),
        ]
        return "\n".join(lines)

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

    def record(self, step: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor] | None:
        """A function that repeats a step on the memory that it works on; None where steps are not recorded."""
        recorded = self.records_on == device.type and not torch.is_autocast_enabled(device.type)
        return record(step, device) if recorded else None


def pack(network: MultimodalNetwork, weights: Weights = "exact") -> Acceleration:
    """Makes generation faster; `unpack` undoes it. The model stays on its device, and decoding takes the same steps.

    Steps of texts that are not very short are recorded and replayed, if a few passes of the language model show that
    this gives the same logits. Its Python code, hooks included, then runs only in some of the steps, and a changed
    weight takes effect with the next text. On a CPU, kernels for linear layers are timed beside the layers' own
    forward, and the fastest compute; most use packed copies of the weights, which take up to twice the memory of the
    weights in addition. The choice is kept for later processes (`choosing.py`). A 16-bit language model computes in
    float32, cache included, if a few passes show that it can.

    weights: "fp16", "int8" or "int4" quantise the weights of the language model and the gated blocks to that many bits,
    in a half, a quarter or a sixth of float32's memory, wherever that is faster than the layer's own forward. Results
    then change; so do losses computed without gradients. Encoders and resamplers stay "exact". Training steps change
    only in the last bits of the frozen encoders' features, and the language model outside of requests does not change.
    Returns what was chosen, and what was declined and why; `logging` has it too. Declined is what fails where plain
    passes do not, or gives other logits. All other errors come out, memory that ends among them. ValueError for
    quantised weights on a GPU.
    Passes of other threads wait until it is done. A text that was begun before goes on after it, or ends in a
    ModelChangedError where weights are quantised otherwise now.
    """
    with network.changes.changing("packed", lambda: quantised(network)):
        return _pack(network, weights)


def _pack(network: MultimodalNetwork, weights: Weights) -> Acceleration:
    host = network.language_model
    on_cpu = network.device.type == "cpu"
    if not on_cpu and weights != "exact":
        raise ValueError(
            f"weights={weights!r} is for a CPU, and the model is on {network.device}: use weights='exact' there"
        )
    host.acceleration = acceleration = Acceleration()

    def context() -> MediaContext:
        return network.fusion.context(rows=1)

    if on_cpu:
        for part in (network.encoders, network.resamplers, *_elsewhere(network)):
            pack_layers(part)
            acceleration.chosen += choose_kernels(part)
        written = (network.fusion, host)
        for part in written:
            pack_layers(part, weights)
        if host.dtype in HALVES and has_fbgemm():  # else wide steps save no time
            wide = [chosen for part in written for chosen in choose_kernels(part, wide=True)]
            reason = why_not_wide(host, context, tolerance=0.1)
            acceleration.widens = reason is None
            acceleration.chosen += wide if reason is None else []
            acceleration.declined |= {} if reason is None else {"float32 activations": reason}
        for part in () if acceleration.widens else written:
            acceleration.chosen += choose_kernels(part)
        acceleration.declined |= choosing.declined()
    tolerance = 1e-3 if host.dtype == torch.float32 and weights in ("exact", "fp16") else 0.03
    reason = why_not_recorded(host, context, tolerance)
    acceleration.records_on = network.device.type if reason is None else None
    acceleration.declined |= {} if reason is None else {"recorded steps": reason}
    log.info("packed: %s", acceleration)
    return acceleration


def unpack(network: MultimodalNetwork) -> None:
    """Undoes `pack`, and frees the packed weights. Texts go on as with `pack`; those of wide requests do not."""
    with network.changes.changing("unpacked", lambda: quantised(network)):
        for part in (network, *_elsewhere(network)):
            unpack_layers(part)
        network.language_model.acceleration = None


def share_packed(network: MultimodalNetwork, other: MultimodalNetwork) -> None:
    """Has a packed network use the packed copies of another one, wherever the two share a weight and its packing."""
    for part, twin in zip((network, *_elsewhere(network)), (other, *_elsewhere(other)), strict=False):
        share_copies(part, twin)


def _elsewhere(network: MultimodalNetwork) -> list[nn.Module]:
    """Layers that compute for a network and are none of its modules: the one that gives Whisper's logits."""
    return [network.transcriber.output] if network.transcribes else []
