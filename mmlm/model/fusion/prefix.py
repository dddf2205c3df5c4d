"""LLaVA's way: media stand among the words, as embeddings in the places of their tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmlm.model.config import FusionConfig
from mmlm.model.fusion.interface import Fusion, MediaContext, MediaItems
from mmlm.model.language_model import LanguageModel
from mmlm.model.modules import weight_of
from mmlm.prompting.processor import IGNORE_INDEX, Batch
from mmlm.prompting.vocabulary import MediaVocabulary

PROBED = 8  # tokens that a language model is run on


class PrefixContext(MediaContext):
    """The media of one request as embeddings, which stand in the text as often as an item has latents.

    A token sees the media before it as it sees the words before it: by the language model's own attention.
    """

    def __init__(
        self, media_ids: Tensor, pad_id: int, rows: int, items: MediaItems | None, embeddings: Tensor | None
    ) -> None:
        """embeddings: `[N, L, D]`, of the latents of all items. pad_id: of the tokens that pad a row."""
        super().__init__(rows, items)
        self.media_ids, self.pad_id = media_ids, pad_id
        self.embeddings: Tensor | None = None  # [P, D]: of all real latents, row by row
        self._decoding = False
        if items is None or embeddings is None:
            return
        self.counts = items.counts()
        self.embeddings = embeddings.flatten(0, 1) if items.mask is None else embeddings[items.mask]
        totals = self.counts.new_zeros(rows).index_add(0, items.rows, self.counts)
        self.first = totals.cumsum(0) - totals  # [R]: where the embeddings of a row begin
        self.seen = torch.zeros_like(totals)  # [R]: how many of them the text so far has

    def placed(self, batch: Batch) -> Batch:
        if self.embeddings is None:
            return batch
        return spread(batch, self._is_media(batch.input_ids), self.counts, self.pad_id)

    def _is_media(self, ids: Tensor) -> Tensor:
        return torch.isin(ids, self.media_ids.to(ids.device))

    def embedded(self, ids: Tensor, embeddings: Tensor) -> Tensor:
        if self.embeddings is None or self._decoding:
            return embeddings
        beams = ids.shape[0] // self.rows
        is_media = self._is_media(ids)
        number = self.seen.repeat_interleave(beams).unsqueeze(1) + is_media.cumsum(1)  # from 1, of its row
        self.seen = number[::beams, -1]
        row, column = is_media.nonzero(as_tuple=True)
        own = self.embeddings[self.first[row // beams] + number[row, column] - 1]
        return embeddings.index_put((row, column), own.to(embeddings.dtype))

    def skip(self, ids: Tensor) -> None:
        if self.embeddings is not None:
            self.seen = self.seen + self._is_media(ids).sum(1)

    def begin_decoding(self) -> None:
        self._decoding = True

    def repeat(self, beams: int) -> None:
        """Nothing to do: what was read of the media is in the language model's cache."""


class Prefix(Fusion):
    """A projector of latents to the width of the language model: two linear layers with a GELU between them.

    Names and shapes are those of LLaVA-1.5's `mm_projector` (Liu et al. 2023, arXiv 2310.03744), `mlp2x_gelu`. An item
    takes as many positions in the text as it has latents.
    """

    starts_at_zero = "projector.2.bias"

    def __init__(
        self, config: FusionConfig, dim: int, blocks: int, media_dim: int, vocabulary: MediaVocabulary
    ) -> None:
        super().__init__(config, dim, blocks, media_dim, vocabulary)
        self.pad_id = vocabulary.pad_id
        last = nn.Linear(dim, dim)
        nn.init.zeros_(last.bias)
        self.projector = nn.Sequential(nn.Linear(media_dim, dim), nn.GELU(), last)

    def context(self, rows: int, items: MediaItems | None = None, dtype: torch.dtype | None = None) -> PrefixContext:
        """The media as embeddings; they get the dtype of those of the words."""
        own = None if items is None else self.projector(items.latents.to(weight_of(self.projector[0]).dtype))
        return PrefixContext(self.media_ids, self.pad_id, rows, items, own)

    def positions(self, latents: int) -> int:
        return latents

    @torch.no_grad()
    def check(self, language_model: LanguageModel) -> None:
        """ValueError for a language model that reads more of a token than its embedding.

        The embeddings of words, put in the places of media, must give what the words give.
        """
        host = language_model
        words = torch.arange(PROBED, device=host.device).unsqueeze(0) % host.vocabulary.offset
        own = host.model.get_input_embeddings()(words)
        ids = torch.full_like(words, int(self.media_ids[0]))
        item = torch.zeros(1, dtype=torch.long, device=host.device)
        context = PrefixContext(self.media_ids, self.pad_id, 1, MediaItems(own, item, item), own)
        try:
            with host.request():
                plain = host(words, use_cache=False).logits
            with host.request(context):
                found = host(ids, use_cache=False).logits
            size = plain.nan_to_num().abs().max()  # damaged weights are told where they are used
            same = torch.allclose(found, plain, rtol=0.0, atol=1e-3 * float(size), equal_nan=True)
        except (RuntimeError, IndexError):  # the model looks the ids up elsewhere
            same = False
        if not same:
            raise ValueError(
                f"{type(host.model).__name__} reads more of a token than its embedding, as models with embeddings for "
                "each layer do, so media cannot stand in the places of words: take another language model"
            )

    @staticmethod
    def described(config: FusionConfig) -> str:
        return "a projector into the embeddings, media stand among the words"


def spread(batch: Batch, places: Tensor, counts: Tensor, pad_id: int) -> Batch:
    """The batch with the i-th token of `places` repeated `counts[i]` times, its rows padded anew.

    places: bool `[B, T]`, N of them. counts: `[N]`. Rows are padded on the left where they all end in a token, as those
    to be continued do, else on the right.
    """
    mask = batch.attention_mask
    copies = mask.clamp(max=1)  # of each token; 0 of padding
    copies[places] = counts.to(copies)
    lengths = copies.sum(1)
    longest = int(lengths.max())
    source = torch.arange(mask.numel(), device=mask.device).repeat_interleave(copies.flatten())
    row = source // mask.shape[1]
    begins = lengths.cumsum(0) - lengths  # of each row, in `source`
    shift = longest - lengths if bool(mask[:, -1].all()) else torch.zeros_like(lengths)
    column = torch.arange(len(source), device=mask.device) - (begins - shift)[row]

    def spread_out(values: Tensor, empty: int) -> Tensor:
        made = values.new_full((len(values), longest), empty)
        made[row, column] = values.flatten()[source]
        return made

    labels = None if batch.labels is None else spread_out(batch.labels, IGNORE_INDEX)
    return Batch(spread_out(batch.input_ids, pad_id), spread_out(mask, 0), labels, batch.shared)
