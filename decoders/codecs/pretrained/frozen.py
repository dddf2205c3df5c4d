"""The base class of published codecs: a frozen network in float32."""

from __future__ import annotations

from typing import Any

from torch import nn

from decoders.codecs.base import MediaCodec


class FrozenCodec(MediaCodec):
    """A codec whose network has no gradients and stays in eval mode and in float32, whatever its parent module does.

    In half precision aMUSEd's decoder gives NaN; in training mode DAC drops codebooks and Emu3's batch norms change.
    """

    network: Any  # an upstream module, whose parts subclasses use by name

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).float()
        self.eval()

    def train(self, mode: bool = True) -> FrozenCodec:
        """Stay in eval mode, so that a parent's `train()` changes no code."""
        return super().train(False)
