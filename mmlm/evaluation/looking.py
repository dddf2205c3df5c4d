"""What frozen nets make of pictures and texts, for suites that compare those: retrieval, CLIP score, FID."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from encoders.clip import ClipImageEncoder
from encoders.media.image import load_image
from mmlm.training.reporting import counted

BATCH = 32


def embedded_pictures(clip: ClipImageEncoder, sources: Sequence[Any], batch_size: int = BATCH) -> Tensor:
    """CLIP embeddings `[N, E]` of pictures, anything that `load_image` takes, on the CPU."""
    return in_batches(
        lambda own: clip.embed_images(torch.stack([clip.preprocess(load_image(one)) for one in own])),
        sources, batch_size, "looking",
    )  # fmt: skip


def embedded_texts(clip: ClipImageEncoder, texts: Sequence[str], batch_size: int = BATCH) -> Tensor:
    """CLIP embeddings `[N, E]` of texts, on the CPU."""
    return in_batches(clip.embed_texts, texts, batch_size, "reading")


def in_batches(net: Callable[[list[Any]], Tensor], items: Sequence[Any], batch_size: int, what: str) -> Tensor:
    """The outputs of a net for all items, joined. what: the work, for those who wait."""
    starts = counted(range(0, len(items), batch_size), f"{what}, in batches")
    return torch.cat([net(list(items[start : start + batch_size])).cpu() for start in starts])
