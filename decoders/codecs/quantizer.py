"""The discrete middle of a codec: vectors to codes and back, by vector-quantize-pytorch, in float32."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import FSQ, LFQ, ResidualVQ, VectorQuantize

# Levels of each dimension by codebook size (FSQ: Mentzer et al. 2023, table 1, and their neighbours).
FSQ_LEVELS = {
    64: (4, 4, 4), 240: (8, 6, 5), 256: (4, 4, 4, 4), 512: (8, 8, 8), 1000: (8, 5, 5, 5), 1024: (4, 4, 4, 4, 4),
    4375: (7, 5, 5, 5, 5), 15360: (8, 8, 8, 6, 5), 64000: (8, 8, 8, 5, 5, 5),
}  # fmt: skip


@dataclass(frozen=True)
class QuantizerConfig:
    """Which quantiser, and how large.

    "vq": one codebook, learned as moving averages. "rvq": `num_codebooks` of them, each for what the former left.
    "fsq": a rounded grid, of the sizes in `FSQ_LEVELS`. "lfq": signs, a power of two. `dim` acts for the learned ones.

    Against collapse, of "vq" and "rvq": k-means on the first batch, the rotation trick (Fifty et al. 2024), and entries
    hit less than `dead_below` times a batch, on average, are replaced by vectors of the batch.
    """

    kind: Literal["vq", "fsq", "lfq", "rvq"] = "vq"
    codebook_size: int = 512
    num_codebooks: int = 1
    dim: int = 16
    decay: float = 0.97
    commitment_weight: float = 0.25
    dead_below: float = 0.2

    def __post_init__(self) -> None:
        if self.kind not in ("vq", "fsq", "lfq", "rvq"):
            raise ValueError(f'quantizer is "vq", "fsq", "lfq" or "rvq", not {self.kind!r}')
        if self.codebook_size < 2 or self.num_codebooks < 1 or self.dim < 1:
            raise ValueError("codebook_size must be at least 2, num_codebooks and dim at least 1")
        if self.kind != "rvq" and self.num_codebooks != 1:
            raise ValueError(f'{self.num_codebooks} codebooks need quantizer "rvq", not {self.kind!r}')
        if self.kind == "fsq" and self.codebook_size not in FSQ_LEVELS:
            raise ValueError(f'"fsq" has codebook sizes {sorted(FSQ_LEVELS)}, not {self.codebook_size}')
        if self.kind == "lfq" and self.codebook_size & (self.codebook_size - 1):
            raise ValueError(f'the codebook of "lfq" is a power of two, not {self.codebook_size}')

    @property
    def latent_dim(self) -> int:
        """D of the vectors that go in and come out."""
        if self.kind == "fsq":
            return len(FSQ_LEVELS[self.codebook_size])
        return int(math.log2(self.codebook_size)) if self.kind == "lfq" else self.dim


class Quantizer(nn.Module):
    """Latents [B, D, *grid] ↔ codes [B, K, *grid]."""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        if config.kind == "fsq":
            self.layer: nn.Module = FSQ(FSQ_LEVELS[config.codebook_size])
        elif config.kind == "lfq":
            self.layer = LFQ(dim=config.latent_dim, codebook_size=config.codebook_size)
        else:
            learned = dict(
                dim=config.dim, codebook_size=config.codebook_size, decay=config.decay, kmeans_init=True,
                commitment_weight=config.commitment_weight, threshold_ema_dead_code=config.dead_below,
                rotation_trick=True,
            )  # fmt: skip
            self.layer = (
                VectorQuantize(**learned)
                if config.kind == "vq"
                else ResidualVQ(num_quantizers=config.num_codebooks, **learned)
            )

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """codes [B, K, *grid], the latents that they stand for [B, D, *grid], and in training a loss.

        Raises FloatingPointError for latents that are not finite (a code would be made up for them), and RuntimeError
        in evaluation before any training: k-means would then start from whatever came first.
        """
        with torch.autocast(latents.device.type, enabled=False):
            vectors = latents.float().flatten(2).transpose(1, 2)  # [B, N, D]: the library's own layout is the tried one
            if not bool(torch.isfinite(vectors).all()):
                raise FloatingPointError("the latents to be quantised hold NaN or infinite values")
            if not self.training and not self.initialised:
                raise RuntimeError("the codebook has not been learned: train the codec, or load its weights, first")
            quantised, codes, *losses = self.layer(vectors)
        codes = codes.long().view(*codes.shape[:2], self.config.num_codebooks)
        grid = latents.shape[2:]
        loss = sum(loss.sum() for loss in losses) if self.training and losses else None
        return (
            codes.transpose(1, 2).unflatten(2, grid),
            quantised.transpose(1, 2).unflatten(2, grid),
            loss,
        )

    def latents(self, codes: Tensor) -> Tensor:
        """Codes [B, K, *grid], all within range → latents [B, D, *grid]."""
        grid = codes.shape[2:]
        flat = codes.flatten(2).transpose(1, 2)  # [B, N, K]
        with torch.autocast(codes.device.type, enabled=False):
            if self.config.kind in ("fsq", "lfq"):
                vectors = self.layer.indices_to_codes(flat[..., 0])
            else:
                vectors = self.layer.get_output_from_indices(flat if self.config.kind == "rvq" else flat[..., 0])
        return vectors.transpose(1, 2).unflatten(2, grid)

    @property
    def nearest(self) -> bool:
        """Whether a code is that of the nearest entry of a codebook, and no rounding."""
        return self.config.kind in ("vq", "rvq")

    @property
    def initialised(self) -> bool:
        """Whether codes mean anything yet: false for a learned codebook that has seen no batch."""
        return all(bool(flag) for name, flag in self.layer.named_buffers() if name.endswith("initted"))
