"""How far pictures are apart where plain squares do not see it: in faint outlines, and for a frozen CLIP."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from encoders.clip import ClipImageEncoder


def clip_distance(encoder: ClipImageEncoder, weight: float = 0.1) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss of made and real pictures [B, 3, H, W] in 0..1: `weight` times the mean square distance of patch tokens.

    Tokens are the middle and the last block's, each normed; gradients pass through the frozen encoder to the pictures.
    """
    visual = encoder.model.visual
    settings = visual.preprocess_cfg
    mean, std = (torch.tensor(settings[name]).view(3, 1, 1) for name in ("mean", "std"))

    def tokens(pictures: Tensor) -> list[Tensor]:
        if pictures.shape[2:] != encoder.image_size:
            pictures = F.interpolate(pictures, encoder.image_size, mode="bicubic", antialias=True)
        batch = (pictures - mean.to(pictures)) / std.to(pictures)
        found = visual.forward_intermediates(
            batch.to(encoder.dtype), indices=layers, intermediates_only=True, output_fmt="NLC"
        )["image_intermediates"]
        return [F.layer_norm(own.float(), own.shape[-1:]) for own in found]

    depth = len(visual.transformer.resblocks) if hasattr(visual, "transformer") else len(visual.trunk.blocks)
    layers = sorted({depth // 2 - 1, depth - 1} - {-1})

    def distance(made: Tensor, real: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = tokens(real)
        pairs = zip(tokens(made), wanted, strict=True)
        return weight * torch.stack([F.mse_loss(own, other) for own, other in pairs]).mean()

    return distance


def contrast_distance(patch: int = 8, weight: float = 0.25, floor: float = 0.01) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss of made and real pictures [B, 3, H, W] in 0..1: mean squares of each patch beside its own variance.

    An outline of a tenth of the contrast counts as much as a strong one, down to a variance of about `floor`, where
    there is none to be seen.
    """

    def distance(made: Tensor, real: Tensor) -> Tensor:
        variance = (F.avg_pool2d(real.square(), patch) - F.avg_pool2d(real, patch).square()).mean(1)
        squares = F.avg_pool2d((made - real).square(), patch).mean(1)
        return weight * (squares / (variance.clamp_min(0) + floor)).mean()

    return distance
