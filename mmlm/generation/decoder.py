"""A language model over a prompt once, then token by token."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmlm.generation.cache import PreallocatedLayer, preallocated_cache
from mmlm.generation.memory import check_memory
from mmlm.model.acceleration import RecordedSteps
from mmlm.model.changes import ModelChangedError
from mmlm.model.fusion.interface import MediaContext
from mmlm.model.language_model import LanguageModel
from mmlm.prompting.processor import Batch

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one layer, `[R, H, t, d]` each."""

_COPIES = 6  # of logits, at the time of choosing: plain, scores, sums, sorted, their places


class Decoder:
    """Runs the language model over a prompt once, then token by token, with everything a step needs made beforehand."""

    def __init__(
        self, host: LanguageModel, context: MediaContext, batch: Batch, max_new_tokens: int, codes: bool = False,
        since: int | None = None,
    ):  # fmt: skip
        """batch: with its media in place, see `MediaContext.placed`.

        codes: logits of all codes come last, and what may follow what is the caller's to see to.

        since: `host.changes.count` when the context was made; None for now. No pass is made after a later change.
        """
        host.check_codes(batch.input_ids, codes)
        self.host, self.context = host, context
        self.since = host.changes.count if since is None else since
        self.codes = host.code_places() if codes else None
        rows, length = batch.input_ids.shape
        self.length = length
        self.cache = preallocated_cache(host.model.config, length + max_new_tokens)
        self.padded = not bool(batch.attention_mask.all())
        self.mask = torch.cat([batch.attention_mask, batch.attention_mask.new_ones(rows, max_new_tokens)], dim=1)
        self.positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        # The ids so far, prompt included: [rows, length + max_new_tokens].
        self.ids = torch.cat([batch.input_ids, batch.input_ids.new_zeros(rows, max_new_tokens)], dim=1)
        self.record = None if host.acceleration is None else host.acceleration.recorded
        self.recorded: RecordedSteps | None = None
        self.read = 0  # positions of the prompt that have been read
        self.started = False
        self.wide: bool | None = None  # whether hidden states and cache are float32: as the prompt's pass finds it

    def prefill(self) -> Tensor:
        """Logits `[R, V]` after the prompt, read in one pass; errors are those of `advance`."""
        logits = self.advance(self.length)
        assert logits is not None, "the whole prompt has been read"
        return logits

    def advance(self, count: int) -> Tensor | None:
        """Reads the next `count` positions of the prompt; logits `[R, V]` after the last, None before.

        ValueError where the model keeps no keys and values of it. Here and in `step`, ModelChangedError where the
        model was changed since `since`.
        """
        if self.wide is None:
            with self.host.changes.passing(self.since):
                self.wide = self.host.is_wide
        start, end = self.read, min(self.read + count, self.length)
        logits = self._forward(self.ids[:, start:end], self._seen(end), self.positions[:, start:end])
        self.read = end
        if self.cache.get_seq_length() == 0:
            raise ValueError(
                f"{type(self.host.model).__name__} keeps no keys and values: it left past_key_values "
                "empty, so it would forget the text at each step; choose a language model that keeps them"
            )
        if end < self.length:
            return None
        self.context.begin_decoding()
        return logits

    def skip(self, keys_values: Sequence[KeysValues | None]) -> None:
        """Begins with the `keys_values` of the first t positions, in place of a pass over them.

        They come from a prompt that begins with the same ids and media. Only caches where `keeps_all` can begin so.
        """
        for layer, known in zip(self.cache.layers, keys_values, strict=True):
            if known is not None:
                assert isinstance(layer, PreallocatedLayer), "see keeps_all"
                layer.update(*known)
        self.read = next(known[0].shape[2] for known in keys_values if known is not None)
        self.context.skip(self.ids[:, : self.read])

    @property
    def keeps_all(self) -> bool:
        """Whether every layer keeps a key and a value for each position, and nothing else."""
        return all(isinstance(layer, PreallocatedLayer) for layer in self.cache.layers)

    def keys_values(self) -> list[KeysValues | None]:
        """What `keeps_all` caches hold of the text so far; None for a layer that reads those of another one."""
        own = [layer for layer in self.cache.layers if isinstance(layer, PreallocatedLayer)]
        return [
            (layer.keys, layer.values) if layer.keys is not None and layer.values is not None else None for layer in own
        ]

    def repeat(self, times: int) -> None:
        """From here on each row comes `times` times, one after the other. MemoryLimitError where there is no room."""
        if times > 1:
            self._check_room(times)
            index = torch.arange(self.ids.shape[0], device=self.ids.device).repeat_interleave(times)
            self.mask, self.positions, self.ids = self.mask[index], self.positions[index], self.ids[index]
            self._reorder_cache(index)
            self.context.repeat(times)
            if self.codes is not None:
                self.codes.repeat(times)

    def _check_room(self, times: int) -> None:
        rows, capacity = self.ids.shape
        cached = sum(layer.nbytes for layer in self.cache.layers if isinstance(layer, PreallocatedLayer))
        vocabulary = self.host.vocabulary
        logits = rows * (vocabulary.code_offset + vocabulary.code_rows) * 4 * _COPIES
        check_memory(times * (cached + logits), times * rows, capacity, self.ids.device)

    def step(self, tokens: Tensor) -> Tensor:
        """Appends `tokens [R]` and gives the logits `[R, V]` that follow."""
        self.ids[:, self.length] = tokens
        start, self.length = self.length, self.length + 1
        if not self.started and self.record is not None:  # only now: rows may have been repeated since the prompt
            self.recorded = self.record(self.cache, self.mask, self.positions, start)
        self.started = True
        if self.recorded is not None:
            with self.host.changes.passing(self.since):  # a replayed step does not come to `_forward`
                return self.recorded(tokens, self._forward)
        return self._forward(tokens.unsqueeze(1), self._seen(self.length), self.positions[:, start : self.length])

    def reorder(self, index: Tensor, ids: bool = True) -> None:
        """Row i goes on from what row `index[i]` was; rows of one request share their media, so these stay.

        ids: whether `self.ids` is reordered as well, which only logits processors read.
        """
        if ids:
            self.ids = self.ids[index]
        self._reorder_cache(index)
        if self.codes is not None:
            self.codes.reorder(index)

    def _reorder_cache(self, index: Tensor) -> None:
        self.cache.reorder_cache(index)  # pyright: ignore[reportArgumentType]  # annotated as the old LongTensor

    def _seen(self, end: int) -> Tensor | None:
        """What of the first `end` positions is no padding; None where nothing of the prompt is."""
        return self.mask[:, :end] if self.padded else None

    def _forward(self, ids: Tensor, mask: Tensor | None, positions: Tensor) -> Tensor:
        # The request is opened for each pass alone: between the steps of a stream, the caller's thread is its own.
        with self.host.changes.passing(self.since), self.host.request(self.context, self.codes, wide=bool(self.wide)):
            if self.wide and self.host.acceleration is None:
                raise ModelChangedError("unpacked")
            output = self.host(
                ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return output.logits[:, -1].float()

    def anew(self, context: MediaContext) -> None:
        """Computes the text so far once more, in one pass that keeps nothing. context: a fresh one."""
        codes = None if self.codes is None else self.host.code_places()
        with self.host.request(context, codes, wide=bool(self.wide)):
            self.host(
                self.ids[:, : self.length],
                attention_mask=self._seen(self.length),
                position_ids=self.positions[:, : self.length],
                use_cache=False,
            )
