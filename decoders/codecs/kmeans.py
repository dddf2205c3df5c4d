"""k-means over vectors: how codebooks without a network are learned."""

from __future__ import annotations

import torch
from torch import Tensor


def kmeans(vectors: Tensor, count: int, rounds: int, draw: torch.Generator) -> Tensor:
    """`count` centres [count, D] of vectors [N, D], after some rounds of Lloyd's algorithm (1982).

    draw: chooses the different vectors that it starts from; where there are fewer, so are the centres. A centre that
    nothing is near to stays where it is.
    """
    different = vectors.unique(dim=0)
    centres = different[torch.randperm(len(different), generator=draw)[:count].to(vectors.device)]
    for _ in range(rounds):
        chosen = nearest(vectors, centres)
        counts = torch.bincount(chosen, minlength=len(centres)).unsqueeze(1)
        sums = torch.zeros_like(centres).index_add_(0, chosen, vectors)
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres


def nearest(vectors: Tensor, centres: Tensor) -> Tensor:
    """The number of the centre [C, D] that is nearest to each vector [N, D]."""
    return torch.cat([torch.cdist(some, centres).argmin(1) for some in vectors.split(4096)])
