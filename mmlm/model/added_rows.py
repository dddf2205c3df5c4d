"""Embedding and head rows of added tokens and codes, which the language model's own weights do not hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmlm.model.blocks import embedding_and_head
from mmlm.model.modules import weight_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class AddedRows(nn.Module):
    """Embedding and head rows of the added tokens: `[n, D]` each, float32."""

    def __init__(self, embedding: Tensor, head: Tensor) -> None:
        super().__init__()
        self.embedding = nn.Parameter(embedding)
        self.head = nn.Parameter(head)


class CodeRows(AddedRows):
    """Embedding and head rows of codes, with learned position embeddings for the codes of an image.

    positions: rows of `places` `[positions, D]`, one for the opening boundary and one for each code; 0 for none.
    `places` is learned, as in DALL-E (Ramesh et al. 2021), because the language model's own positions count tokens and
    do not tell where a row of the image begins.
    """

    def __init__(self, embedding: Tensor, head: Tensor, positions: int) -> None:
        super().__init__(embedding, head)
        # Drawn on the CPU, so that a seed gives the same values on every device.
        drawn = torch.randn(positions, embedding.shape[1]).to(embedding)
        self.places = nn.Parameter(0.1 * embedding.std() * drawn) if positions else None


@torch.no_grad()
def replace_rows(model: PreTrainedModel, rows: dict[str, Tensor]) -> None:
    """Resizes the model's vocabulary to `rows["embedding"]` `[V, D]`, and copies these and any "head" rows into it."""
    model.resize_token_embeddings(rows["embedding"].shape[0], mean_resizing=False)
    embedding, head = embedding_and_head(model)
    weight_of(embedding).copy_(rows["embedding"])
    if "head" in rows:
        weight_of(head).copy_(rows["head"])


@torch.no_grad()
def mean_rows(embedding: nn.Module, head: nn.Module, count: int) -> tuple[Tensor, Tensor]:
    """Initial rows `[count, D]` for embedding and head: the mean of the existing rows (Hewitt 2021).

    The mean is taken over the outputs of the embedding, to include a scale inside it (Gemma 3).
    """
    weight = weight_of(embedding)
    total = torch.zeros((), device=weight.device)
    for ids in torch.arange(weight.shape[0], device=weight.device).split(8192):
        total = total + embedding(ids).float().sum(0)
    mean = total / weight.shape[0]
    head_mean = weight_of(head).float().mean(0)
    return mean.repeat(count, 1), head_mean.repeat(count, 1)


def scattered(rows: Tensor, layer: nn.Module) -> Tensor:
    """Rows `[n, D]` with noise of the standard deviation of the layer's own rows, so that no two codes start equal."""
    return rows + weight_of(layer).float().std(0) * torch.randn(rows.shape).to(rows)
