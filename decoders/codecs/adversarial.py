"""The adversarial part of VQGAN (Esser et al. 2021): a patch discriminator and the losses of both sides."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from decoders.codecs.blocks import CONVOLUTION


class PatchCritic(nn.Module):
    """A score for each patch of media, higher for real ones: [B, C, *size] → [B, 1, *fewer] (Isola et al. 2017)."""

    def __init__(self, channels: int, dimensions: int, width: int = 48, layers: int = 3) -> None:
        super().__init__()
        convolution = CONVOLUTION[dimensions]
        widths = [width * 2**layer for layer in range(layers)]
        self.layers = nn.Sequential(convolution(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2))
        for before, after in zip(widths, widths[1:]):
            self.layers += nn.Sequential(
                convolution(before, after, 4, stride=2, padding=1), nn.GroupNorm(8, after), nn.LeakyReLU(0.2)
            )
        self.layers.append(convolution(widths[-1], 1, 3, padding=1))

    def forward(self, media: Tensor) -> Tensor:
        return self.layers(media)


def adversarial_losses(
    critic: PatchCritic, made: Tensor, real: Tensor, distance: Tensor, last: Tensor
) -> tuple[Tensor, Tensor]:
    """The codec's adversarial loss and the critic's hinge loss; one backward pass through their sum trains both.

    made, real: media [B, C, *size]. distance: the reconstruction loss. last: the last weight of the codec's decoder.
    The codec's loss is weighted so that its gradient at `last` is as large as that of `distance`: VQGAN's adaptive
    weight.
    """
    frozen = {name: weight.detach() for name, weight in critic.named_parameters()}
    fooled = -functional_call(critic, frozen, (made,)).mean()
    slopes = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (distance, fooled)]
    weight = (slopes[0] / (slopes[1] + 1e-4)).clamp(0, 1e4)
    judged = F.relu(1 - critic(real)).mean() + F.relu(1 + critic(made.detach())).mean()
    return weight * fooled, 0.5 * judged
