"""Retrieval recall between pictures and captions, from embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmlm.evaluation.metrics.measure import Measure, mean_of, ratio_of

KS = (1, 5, 10)


@dataclass(frozen=True)
class RetrievalScores:
    """Recall at k, 0 to 1: the share of queries with a right answer among the k nearest."""

    image_to_text: dict[int, float]
    text_to_image: dict[int, float]
    images: int
    texts: int


def retrieval_recall(
    image_embeddings: Tensor, text_embeddings: Tensor, image_of_text: Sequence[int], ks: Sequence[int] = KS
) -> RetrievalScores:
    """Recall at k in both directions over pictures with one or more captions each (Karpathy and Fei-Fei 2015).

    image_embeddings: `[N, E]`. text_embeddings: `[M, E]`. image_of_text: for each caption, the row of its picture.
    Similarity is the dot product, so give rows of unit norm. A picture's rank is that of its best caption among the
    captions of other pictures. Ties count against the query, so equal embeddings score zero, not one.
    ValueError where a caption has no picture, or a picture no caption.
    """
    image_rank, text_rank = retrieval_ranks(image_embeddings, text_embeddings, image_of_text)
    return RetrievalScores(
        image_to_text={k: (image_rank < k).float().mean().item() for k in ks},
        text_to_image={k: (text_rank < k).float().mean().item() for k in ks},
        images=len(image_rank),
        texts=len(text_rank),
    )


def recall_measures(image_rank: Tensor, text_rank: Tensor, image_of_text: Sequence[int]) -> list[Measure]:
    """Recall at 1, 5 and 10 both ways, as measures of pictures, each with its captions: items are pictures.

    The first is the mean reciprocal rank, by which single pictures can be ranked. The ranks are `retrieval_ranks`'.
    """
    owner, texts = np.asarray(image_of_text), np.bincount(image_of_text)
    found = [mean_of("picture to text MRR", (1 / (1 + image_rank.double())).cpu().numpy())]
    for k in KS:
        found.append(mean_of(f"picture to text R@{k}", (image_rank < k).double().cpu().numpy()))
    for k in KS:
        right = np.bincount(owner, weights=(text_rank < k).double().cpu().numpy())
        found.append(ratio_of(f"text to picture R@{k}", right, texts))
    return found


def retrieval_ranks(
    image_embeddings: Tensor, text_embeddings: Tensor, image_of_text: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """How many wrong captions are at least as near to each picture as its best one, `[N]`; and likewise of pictures to
    each caption, `[M]`. Arguments and errors are those of `retrieval_recall`.
    """
    owner = torch.as_tensor(image_of_text, device=image_embeddings.device)
    images, texts = len(image_embeddings), len(text_embeddings)
    if owner.shape != (texts,) or texts == 0 or owner.min() < 0 or owner.max() >= images:
        raise ValueError(f"image_of_text must name one of {images} pictures for each of {texts} captions")
    if len(owner.unique()) != images:
        raise ValueError("every picture needs at least one caption")

    similarity = image_embeddings.float() @ text_embeddings.float().T  # [N, M]
    own = owner[None, :] == torch.arange(images, device=owner.device)[:, None]  # [N, M]
    best = similarity.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
    image_rank = ((similarity >= best) & ~own).sum(dim=1)  # captions of other pictures at least as near
    right = similarity.gather(0, owner[None, :])  # [1, M]
    text_rank = ((similarity >= right) & ~own).sum(dim=0)
    return image_rank, text_rank
