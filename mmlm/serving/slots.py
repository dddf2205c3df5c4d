"""Rows of many requests, decoded together: each has its own prompt, length and media, and comes and goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from mmlm.generation.cache import SlotLayer
from mmlm.generation.decoder import Decoder
from mmlm.generation.memory import check_memory
from mmlm.model.code_places import CodePlaces
from mmlm.model.fusion.interface import Fusion
from mmlm.model.language_model import LanguageModel

BLOCK = 64
PLAIN = 5  # steps of a shape before it is recorded, which takes as long as a few
MOST_RECORDED = 64  # shapes


class Slots:
    """The rows of a language model that are decoded together: 0..count−1. The last fills the place of one that leaves.

    Rows that write codes can be beside rows of text: what acts for codes acts in their rows alone.

    wide, since: as those of the `Decoder`s whose rows join; rows of one kind alone can be together.
    block: what a step reads is a multiple of so many positions, so that the shapes of steps are few.
    """

    def __init__(self, host: LanguageModel, fusion: Fusion, *, wide: bool, since: int, block: int = BLOCK) -> None:
        self.host, self.wide, self.since, self.block = host, wide, since, block
        self.count = 0
        self.lengths: list[int] = []
        self._writing: list[bool] = []  # whether a row writes codes
        self.media = fusion.slots(torch.float32 if wide else None)
        self.cache: DynamicCache | None = None
        self._layers: list[SlotLayer] = []
        self.capacity = (0, 0)  # rows, positions
        self.position_bytes = 0  # of the keys and values of one position of a row
        device = host.device
        self._rows = torch.empty(0, dtype=torch.long, device=device)  # 0, 1, 2, …
        self._tokens = torch.empty(0, 1, dtype=torch.long, device=device)
        self._places = torch.empty(0, dtype=torch.long, device=device)  # where a row writes next
        self._positions = torch.empty(0, 1, dtype=torch.long, device=device)
        self._since = torch.empty(0, dtype=torch.long, device=device)  # see `CodePlaces`
        self._codes = torch.empty(0, dtype=torch.bool, device=device)  # `_writing`, for a pass
        self._mask = torch.empty(0, 0, dtype=torch.long, device=device)
        self.ids = torch.empty(0, 0, dtype=torch.long, device=device)
        self._steps: dict[tuple[object, ...], Callable[[], Tensor]] = {}  # recorded, by shape
        self._tried: Counter[tuple[object, ...]] = Counter()
        self._version = self.media.version  # of the memory that they were recorded on

    def join(self, decoder: Decoder, copies: int = 1) -> list[int]:
        """The slots of a decoder's rows after its prompt, each `copies` times in succession.

        MemoryLimitError where there is no room, and then nothing has changed.
        """
        rows, capacity = decoder.ids.shape
        self._reserve(self.count + rows * copies, capacity, decoder)
        length, found = decoder.length, []
        given = decoder.keys_values()
        for source in range(rows):
            for _ in range(copies):
                slot = self.count
                for layer, own in zip(self._layers, given, strict=True):
                    for buffer, part in zip(layer.buffers, own or (), strict=True):
                        buffer[slot, :, :length] = part[source]
                self.ids[slot, :length] = decoder.ids[source, :length]
                self._mask[slot] = 0
                self._mask[slot, :length] = decoder.mask[source, :length]
                self._places[slot] = length
                self._positions[slot] = decoder.positions[source, length]
                self._codes[slot] = decoder.codes is not None
                self._since[slot] = 0 if decoder.codes is None else decoder.codes.since(source)
                self.media.join(slot, decoder.context, source)
                self.lengths.append(length)
                self._writing.append(decoder.codes is not None)
                self.count += 1
                found.append(slot)
        return found

    def leave(self, slot: int) -> int | None:
        """Frees a slot; the slot whose row is there from now on, None if it was the last."""
        last = self.count - 1
        self.count = last
        own, length = self.lengths[slot], self.lengths[last]
        for layer in self._layers:
            for buffer in layer.buffers:  # what has left may be NaN, and NaN times a weight of zero is NaN
                if slot != last:
                    buffer[slot, :, :length] = buffer[last, :, :length]
                    buffer[slot, :, length:own] = 0
                buffer[last, :, :length] = 0
        if slot == last:
            self.lengths.pop()
            self._writing.pop()
            return None
        for part in (self.ids, self._mask, self._places, self._positions, self._since, self._codes):
            part[slot] = part[last]
        self.media.move(last, slot)
        self.lengths[slot], self._writing[slot] = self.lengths.pop(), self._writing.pop()
        return last

    def step(self, tokens: Tensor) -> Tensor:
        """Appends `tokens [count]` and gives the logits `[count, V]` that follow, of codes too if a row writes them."""
        count = self.count
        longest = max(self.lengths) + 1
        end = min(-(-longest // self.block) * self.block, self.capacity[1])
        self._tokens[:count, 0] = tokens
        self.ids[self._rows[:count], self._places[:count]] = tokens
        rows = count if self.host.acceleration is None else min(few(count), self.capacity[0])
        for part in (self._places, self._positions, self._since, self._codes):  # of rows that nobody has
            part[count:rows] = 0
        with self.host.changes.passing(self.since):
            logits = self._repeated(rows, end)[:count]
        self.lengths = [length + 1 for length in self.lengths]
        return logits

    def _repeated(self, count: int, end: int) -> Tensor:
        """A step of the first `count` rows, recorded where the model was packed and the shape comes again."""
        shape = (count, end, self.media.show(count), any(self._writing), all(self._writing))
        if self._version != self.media.version:
            self._forget_steps()
        if (repeat := self._steps.get(shape)) is not None:
            return repeat()
        run = self._pass(count, end)
        self._tried[shape] += 1
        acceleration = self.host.acceleration
        if acceleration is not None and self._tried[shape] > PLAIN and len(self._steps) < MOST_RECORDED:
            recorded = acceleration.record(run, self.host.device)
            if recorded is not None:
                self._steps[shape] = recorded
                return recorded()
        return run()

    def _pass(self, count: int, end: int) -> Callable[[], Tensor]:
        """A step of the first `count` rows that reads `end` positions, on the memory as it is now."""
        cache = self.cache
        assert cache is not None, "rows have joined"
        rows, places = self._rows[:count], self._places[:count]
        tokens, positions, mask = self._tokens[:count], self._positions[:count], self._mask[:count, :end]
        for layer in self._layers:
            layer.show(rows, places, end)
        codes, lora = None, None
        if any(self._writing):
            codes = CodePlaces.of_rows(self.host.vocabulary.spans.get("image"), self._since[:count])
            if not all(self._writing) and not self.host.lora_config.reads:
                lora = self._codes[:count]

        def run() -> Tensor:
            with self.host.request(self.media, codes, wide=self.wide, lora=lora):
                mask.scatter_(1, places.unsqueeze(1), 1)
                output = self.host(
                    tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
                    logits_to_keep=1,
                )  # fmt: skip
                places.add_(1)
                positions.add_(1)
            return output.logits[:, -1].float()

        return run

    def check_room(self, decoder: Decoder, copies: int = 1) -> None:
        """MemoryLimitError where a decoder's rows could not join, as far as that is known before its prompt is read."""
        if self.cache is not None:
            self._check_memory(*self._grown(self.count + decoder.ids.shape[0] * copies, decoder.ids.shape[1]))

    def _grown(self, rows: int, positions: int) -> tuple[int, int]:
        """How much room there is to be for so many rows of so many positions."""
        have_rows, have_positions = self.capacity
        return (
            have_rows if rows <= have_rows else max(rows, 2 * have_rows),
            have_positions if positions <= have_positions else -(-positions // self.block) * self.block,
        )

    def _check_memory(self, rows: int, positions: int) -> None:
        needed = self.position_bytes * rows * positions
        have_rows, have_positions = self.capacity
        if needed > self.position_bytes * have_rows * have_positions:  # both are there while one is copied
            check_memory(needed, rows, positions, self.host.device)

    def _reserve(self, rows: int, positions: int, decoder: Decoder) -> None:
        have_rows, have_positions = self.capacity
        rows, positions = self._grown(rows, positions)
        if (rows, positions) == self.capacity:
            return
        given = decoder.keys_values()
        self.position_bytes = sum(part[:1, :, :1].nbytes for own in given for part in own or ())
        self._check_memory(rows, positions)
        if self.cache is None:
            self.cache = DynamicCache(config=self.host.model.config)
            self._layers = [SlotLayer() for _ in given]
            self.cache.layers[:] = self._layers
        for layer, own in zip(self._layers, given, strict=True):
            if own is not None:
                layer.reserve(rows, positions, own)
        device = self.host.device
        self._rows = torch.arange(rows, device=device)
        for name in ("_tokens", "_places", "_positions", "_since", "_codes"):
            before = getattr(self, name)
            made = before.new_zeros(rows, *before.shape[1:])
            made[:have_rows] = before
            setattr(self, name, made)
        for name in ("_mask", "ids"):
            made = torch.zeros(rows, positions, dtype=torch.long, device=device)
            made[:have_rows, :have_positions] = getattr(self, name)
            setattr(self, name, made)
        self.capacity = rows, positions
        self._forget_steps()

    def _forget_steps(self) -> None:
        """Recorded steps work on the memory that there was: other memory has taken its place."""
        self._steps.clear()
        self._tried.clear()
        self._version = self.media.version


def few(rows: int) -> int:
    """The next of a few numbers: a recorded step is for one number of rows, and a row more costs little."""
    step = 1 if rows <= 4 else 2 if rows <= 8 else 4
    return -(-rows // step) * step
