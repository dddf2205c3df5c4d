"""What all published codecs share: a network that stays as it was trained."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from decoders.codecs.base import MediaCodec


class FrozenCodec(MediaCodec):
    """A codec around a network without gradients, in evaluation mode and in float32, whatever surrounds it.

    In half precision aMUSEd's decoder gives NaN; in training mode DAC drops codebooks and Emu3's batch norms move.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).float()
        self.eval()

    def train(self, mode: bool = True) -> FrozenCodec:
        """Stay in evaluation mode, so that a parent's `train()` changes no code."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenCodec:
        # A parent's .half() or .to(bfloat16) moves the weights, but leaves every bit of them.
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)
