"""SigLIP's image tower of any size."""

from __future__ import annotations

from functools import partial
from typing import Any

from open_clip.timm_model import TimmModel
from timm.layers.norm import LayerNorm
from timm.models.vision_transformer import VisionTransformer
from torch import nn


class SiglipTower(TimmModel):
    """open_clip's wrapper of timm's vision transformer, which by itself builds only the sizes that have a name.

    image_size: height and width. sizes: those of timm's VisionTransformer. norm_eps: of its layer norms.
    """

    def __init__(self, image_size: tuple[int, int], *, norm_eps: float, **sizes: Any) -> None:
        nn.Module.__init__(self)
        self.image_size = image_size
        self.trunk = VisionTransformer(
            img_size=image_size,
            num_classes=0,
            global_pool="map",
            class_token=False,
            norm_layer=partial(LayerNorm, eps=norm_eps),  # pyright: ignore[reportArgumentType]
            **sizes,
        )
        self.head = nn.Sequential()
