"""Distances of pictures beside the mean square: in faint outlines, and in the features of a frozen CLIP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from encoders.clip import ClipImageEncoder


@dataclass(frozen=True)
class PerceptualLoss:
    """A loss of reconstructed and real media [B, C, *size], and what identifies it in a checkpoint."""

    measure: Callable[[Tensor, Tensor], Tensor]
    identity: dict[str, Any]

    def __call__(self, made: Tensor, real: Tensor) -> Tensor:
        return self.measure(made, real)


def clip_judge(name: str, device: str = "cpu") -> PerceptualLoss:
    """`clip_distance` of a CLIP by its name."""
    from mmlm.assembly.frozen import image_encoder_of

    encoder = image_encoder_of(name, True, torch.float32).to(device)
    if not isinstance(encoder, ClipImageEncoder):
        raise ValueError(f"{name} is not an open_clip model, whose features pictures are compared by")
    return clip_distance(encoder)


def clip_distance(encoder: ClipImageEncoder, weight: float = 0.1) -> PerceptualLoss:
    """Of pictures [B, 3, H, W] in 0..1: `weight` times the mean square distance of patch tokens.

    Tokens are those of the middle and the last block, each layer-normed; gradients pass through the frozen encoder to
    the pictures.
    """
    visual: Any = encoder.model.visual
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

    return PerceptualLoss(distance, {"kind": "clip", "encoder": encoder.fingerprint(), "weight": weight})


def contrast_distance(patch: int = 8, weight: float = 0.25, floor: float = 0.01) -> PerceptualLoss:
    """Of pictures [B, 3, H, W] in 0..1: the mean square of each patch, divided by the patch's own variance.

    An outline with a tenth of the contrast counts as much as a strong one, down to a variance of about `floor`, where
    none can be seen.
    """

    def distance(made: Tensor, real: Tensor) -> Tensor:
        variance = (F.avg_pool2d(real.square(), patch) - F.avg_pool2d(real, patch).square()).mean(1)
        squares = F.avg_pool2d((made - real).square(), patch).mean(1)
        return weight * (squares / (variance.clamp_min(0) + floor)).mean()

    return PerceptualLoss(distance, {"kind": "contrast", "patch": patch, "weight": weight, "floor": floor})
