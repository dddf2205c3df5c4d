"""The quantiser of a codec: vectors → codes → vectors, by vector-quantize-pytorch, in float32."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from decoders.codecs.base import NonFiniteLatentsError
from decoders.values import check_kinds, check_least

# Codebook size → levels of each dimension (FSQ: Mentzer et al. 2023, table 1, and sizes near it).
FSQ_LEVELS = {
    64: (4, 4, 4), 240: (8, 6, 5), 256: (4, 4, 4, 4), 512: (8, 8, 8), 1000: (8, 5, 5, 5), 1024: (4, 4, 4, 4, 4),
    4375: (7, 5, 5, 5, 5), 15360: (8, 8, 8, 6, 5), 64000: (8, 8, 8, 5, 5, 5),
}  # fmt: skip


@dataclass(frozen=True)
class QuantizerConfig:
    """The kind and size of a quantiser.

    "vq": one codebook, learned by moving averages. "rvq": `num_codebooks` of them, each quantising the residual of the
    one before. "fsq": values rounded to a grid, with a codebook size from `FSQ_LEVELS`. "lfq": signs of values, with a
    power of two as codebook size. `dim` is the width of vectors of "vq" and "rvq"; the others' follows from their size.

    Against codebook collapse, "vq" and "rvq" start from k-means on the first batch, use the rotation trick (Fifty et
    al. 2024), and replace entries that are used less than `dead_below` times per batch, on average, by vectors of the
    batch.
    """

    kind: Literal["vq", "fsq", "lfq", "rvq"] = "vq"  # learned codebooks "vq" and "rvq", or fixed grids "fsq" and "lfq"
    codebook_size: int = 512  # codes that there are
    num_codebooks: int = 1  # of "rvq": each has the residual of the one before
    dim: int = 16  # width of the vectors of "vq" and "rvq"
    decay: float = 0.97  # of the moving averages that make the codebook
    commitment_weight: float = 0.25  # of the loss that keeps vectors near their codes
    dead_below: float = 0.2  # entries used less often a batch are replaced

    def __post_init__(self) -> None:
        if self.kind not in ("vq", "fsq", "lfq", "rvq"):
            raise ValueError(f'kind: the quantizer is "vq", "fsq", "lfq" or "rvq", not {self.kind!r}')
        check_kinds(self)
        check_least(self, commitment_weight=0, dead_below=0)
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay is a share from 0 to below 1, not {self.decay}")
        if self.codebook_size < 2 or self.num_codebooks < 1 or self.dim < 1:
            raise ValueError("codebook_size must be at least 2, num_codebooks and dim at least 1")
        if self.kind != "rvq" and self.num_codebooks != 1:
            raise ValueError(f'{self.num_codebooks} codebooks need the quantizer "rvq", not {self.kind!r}')
        if self.kind == "fsq" and self.codebook_size not in FSQ_LEVELS:
            raise ValueError(f'the codebook size of "fsq" is one of {sorted(FSQ_LEVELS)}, not {self.codebook_size}')
        if self.kind == "lfq" and self.codebook_size & (self.codebook_size - 1):
            raise ValueError(f'the codebook size of "lfq" is a power of two, not {self.codebook_size}')

    @property
    def latent_dim(self) -> int:
        """D, the width of the vectors."""
        if self.kind == "fsq":
            return len(FSQ_LEVELS[self.codebook_size])
        return int(math.log2(self.codebook_size)) if self.kind == "lfq" else self.dim


class Quantizer(nn.Module):
    """Latents [B, D, *grid] ↔ codes [B, K, *grid]."""

    def __init__(self, config: QuantizerConfig) -> None:
        from vector_quantize_pytorch import FSQ, LFQ, ResidualVQ, VectorQuantize  # which takes a second

        super().__init__()
        self.config = config
        self.layer: Any  # one of four upstream classes, whose methods differ
        if config.kind == "fsq":
            self.layer = FSQ(FSQ_LEVELS[config.codebook_size])
        elif config.kind == "lfq":
            self.layer = LFQ(dim=config.latent_dim, codebook_size=config.codebook_size)
        else:
            learned: dict[str, Any] = dict(
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
        """Latents [B, D, *grid] → codes [B, K, *grid], quantised latents [B, D, *grid], and in training a loss.

        `NonFiniteLatentsError` for latents that are not finite. RuntimeError in evaluation if the codebook was never
        trained: the library would initialise it from the first batch it sees.
        """
        with torch.autocast(latents.device.type, enabled=False):
            vectors = latents.float().flatten(2).transpose(1, 2)  # [B, N, D], the library's default layout
            if not bool(torch.isfinite(vectors).all()):
                raise NonFiniteLatentsError("the latents to be quantised contain NaN or infinite values")
            if not self.training and not self.initialised:
                raise RuntimeError("the codebook has not been learned: train the codec first, or load its weights")
            quantised, codes, *losses = self.layer(vectors)
        codes = codes.long().view(*codes.shape[:2], self.config.num_codebooks)
        grid = latents.shape[2:]
        loss = losses[0].sum() if self.training and losses else None
        return (
            codes.transpose(1, 2).unflatten(2, grid),
            quantised.transpose(1, 2).unflatten(2, grid),
            loss,
        )

    def latents(self, codes: Tensor) -> Tensor:
        """Codes [B, K, *grid], all in range → latents [B, D, *grid]."""
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
        """Whether a code is the index of the nearest codebook entry, rather than the result of rounding."""
        return self.config.kind in ("vq", "rvq")

    @property
    def initialised(self) -> bool:
        """Whether the codebook is ready: false for a learned codebook before its first batch."""
        return all(bool(flag) for name, flag in self.layer.named_buffers() if name.endswith("initted"))
