"""How media reach the language model: what each way of joining them is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mmlm.model.config import FusionConfig
from mmlm.model.fusion.visibility import Visibility
from mmlm.model.language_model import LanguageModel
from mmlm.prompting.processor import Batch
from mmlm.prompting.vocabulary import MediaVocabulary


@dataclass(frozen=True)
class MediaItems:
    """The media of a batch after the resampler, row by row and in the order of their tokens.

    latents: `[N, L, V]`, of all N items. rows, slots: `[N]`; item i is number `slots[i]`, from 0, of row `rows[i]`.
    mask: `[N, L]`, True where a latent is real, at least one per item; None if all are.
    """

    latents: Tensor
    rows: Tensor
    slots: Tensor
    mask: Tensor | None = None

    def counts(self) -> Tensor:
        """The number of real latents of each item, `[N]`."""
        return torch.full_like(self.rows, self.latents.shape[1]) if self.mask is None else self.mask.sum(1)


class MediaContext(ABC):
    """The media of one request, and a `ForwardCallback`: it follows the text through the passes of the request.

    A prompt may come in one pass or in several, and from any pass on each row may be repeated for beams
    (`row·n + beam`). What is computed of the media is computed once.

    rows: R, the number of rows of the request. items: None for a request without media.
    """

    def __init__(self, rows: int, items: MediaItems | None) -> None:
        self.rows = rows
        self._counts = None if items is None else (items.rows, items.counts())

    def latents_per_item(self) -> list[int]:
        """The number of latents of each item, row by row."""
        return [] if self._counts is None else self._counts[1].tolist()

    def latents_per_row(self) -> list[int]:
        """The total number of latents of each row's media."""
        if self._counts is None:
            return [0] * self.rows
        rows, counts = (part.tolist() for part in self._counts)
        return [sum(count for row, count in zip(rows, counts, strict=True) if row == own) for own in range(self.rows)]

    def placed(self, batch: Batch) -> Batch:
        """The batch, which has one token for each item, with as many as the item takes positions in the text."""
        return batch

    def on_ids(self, ids: Tensor) -> None:  # noqa: B027 - not every way needs it
        """Called first in each pass, with its ids `[R·n, T]`."""

    def embedded(self, ids: Tensor, embeddings: Tensor) -> Tensor:
        """Embeddings `[R·n, T, D]` of the ids of a pass → what the language model reads."""
        return embeddings

    def before_block(self, index: int, hidden: Tensor) -> Tensor:
        """Hidden states `[R·n, T, D]` for block `index` of the language model → what the block reads."""
        return hidden

    @abstractmethod
    def skip(self, ids: Tensor) -> None:
        """Called in place of the passes over the first ids `[R, T]`, whose keys and values are known."""

    @abstractmethod
    def begin_decoding(self) -> None:
        """Called after the prompt: no media follow."""

    @abstractmethod
    def repeat(self, beams: int) -> None:
        """Called after `begin_decoding`: each row is now given `beams` times in succession."""


class MediaSlots:
    """The media of rows from many requests that are decoded together, and a `ForwardCallback` of their steps.

    Rows come and go. This one is for ways of joining media in which decoding has nothing to do; others override it.

    version: counts what a step that was recorded on the memory before does not see.
    """

    version = 0

    def join(self, row: int, context: MediaContext, source: int) -> None:
        """From now on row `row` has the media of row `source` of a context after `begin_decoding`."""

    def move(self, source: int, row: int) -> None:
        """From now on row `row` has the media of row `source`."""

    def show(self, rows: int) -> bool:
        """Steps are now of the first `rows` rows; whether any of them attends to media in the blocks."""
        return False

    def on_ids(self, ids: Tensor) -> None:
        """As `MediaContext`."""

    def embedded(self, ids: Tensor, embeddings: Tensor) -> Tensor:
        """As `MediaContext`."""
        return embeddings

    def before_block(self, index: int, hidden: Tensor) -> Tensor:
        """As `MediaContext`."""
        return hidden


class Fusion(nn.Module, ABC):
    """What is added to join media to one language model: its weights, and the `MediaContext` of each request.

    config: the sizes. dim, blocks: the width of the language model and the number of its blocks. media_dim: the width
        of latents. vocabulary: with the ids of the tokens that mark the places of media.
    ValueError for a config that the language model is too short for.
    starts_at_zero: how the names of those weights end that are zero until they are trained.
    visibility: which of the media before it a text sees.
    """

    starts_at_zero: ClassVar[str]
    visibility: Visibility = "all"

    def __init__(
        self, config: FusionConfig, dim: int, blocks: int, media_dim: int, vocabulary: MediaVocabulary
    ) -> None:
        super().__init__()
        self.media_ids = torch.tensor(list(vocabulary.media_ids), device="cpu")

    @abstractmethod
    def context(self, rows: int, items: MediaItems | None = None, dtype: torch.dtype | None = None) -> MediaContext:
        """The media of a request of so many rows. dtype: of the hidden states, if it is wider than the weights'."""

    def slots(self, dtype: torch.dtype | None = None) -> MediaSlots:
        """Room for the media of many requests that are decoded together; dtype as in `context`."""
        return MediaSlots()

    def positions(self, latents: int) -> int:
        """How many positions of the text an item of so many latents takes."""
        return 1

    def check(self, language_model: LanguageModel) -> None:  # noqa: B027 - not every way needs it
        """ValueError for a language model that media cannot join in this way; found by running it."""

    @property
    def is_untrained(self) -> bool:
        """Whether what starts at zero still is: nothing was learned of media yet."""
        named = self.named_parameters()
        return not any(bool(tensor.any()) for name, tensor in named if name.endswith(self.starts_at_zero))

    @staticmethod
    @abstractmethod
    def described(config: FusionConfig) -> str:
        """The sizes of a config in a few words."""
