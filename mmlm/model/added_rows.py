"""Embedding and head rows of added tokens and codes, beside the language model's own."""

import torch
from torch import Tensor, nn


class AddedRows(nn.Module):
    """Embedding and head rows of the added tokens, beside the language model's own: `[n, D]` each, float32."""

    def __init__(self, embedding: Tensor, head: Tensor):
        super().__init__()
        self.embedding = nn.Parameter(embedding)
        self.head = nn.Parameter(head)


class CodeRows(AddedRows):
    """The same of codes, and what is added to a picture's codes by their place in it, `[1 + codes, D]`.

    Learned places, as DALL-E's (Ramesh et al. 2021): the language model's own positions count tokens, and where a row
    of a picture begins would have to be worked out from them.
    """

    def __init__(self, embedding: Tensor, head: Tensor, places: int):
        super().__init__(embedding, head)
        drawn = torch.randn(places, embedding.shape[1]).to(embedding)  # on the CPU, so that a seed is one everywhere
        self.places = nn.Parameter(0.1 * embedding.std() * drawn) if places else None


@torch.no_grad()
def _replace_rows(model: nn.Module, rows: dict[str, Tensor]) -> None:
    model.resize_token_embeddings(rows["embedding"].shape[0], mean_resizing=False)
    model.get_input_embeddings().weight.copy_(rows["embedding"])
    if "head" in rows:
        model.get_output_embeddings().weight.copy_(rows["head"])


@torch.no_grad()
def _mean_rows(embedding: nn.Module, head: nn.Module, count: int) -> tuple[Tensor, Tensor]:
    """Starting rows `[count, D]` for embedding and head: the mean of the existing ones (Hewitt 2021).

    Taken from what the embedding puts out, so that a scale inside it (Gemma 3) is kept.
    """
    total = torch.zeros((), device=embedding.weight.device)
    for ids in torch.arange(embedding.weight.shape[0], device=embedding.weight.device).split(8192):
        total = total + embedding(ids).float().sum(0)
    mean = total / embedding.weight.shape[0]
    head_mean = head.weight.float().mean(0)
    return mean.repeat(count, 1), head_mean.repeat(count, 1)


def _scattered(rows: tuple[Tensor, Tensor], *layers: nn.Module) -> list[Tensor]:
    """Rows `[n, D]` each with noise as large as the layers' own rows differ: codes must not begin as one."""
    return [
        own + layer.weight.float().std(0) * torch.randn(own.shape).to(own)
        for own, layer in zip(rows, layers, strict=True)
    ]
