"""The examples of each training step, as a pure function of the seed, so that a resumed run sees the same ones.

The examples form one endless stream, epoch after epoch. Each epoch is a permutation of the records, with one text drawn
for each. A step takes the next `size` examples, across the end of an epoch where needed, so that every step is full and
no record is left out. Within a window of steps the examples are sorted by length, which saves padding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from mmlm.data.records import RecordSet

_ORDER, _DRAW, _STEPS = range(3)  # one stream of random numbers for each purpose


class ExampleStream:
    """Examples (record, text): the index of a record, and the index of one of its `texts`,
    in which descriptions come before answers.

    size: examples per step. caption_share: probability of a caption where a record has captions and questions.
    length: (record, text) → the length of an example in any unit, for sorting; None does not sort.
    window: how many steps are sorted together; 1 keeps the plain shuffle.
    """

    def __init__(
        self,
        records: RecordSet,
        size: int,
        *,
        seed: int = 0,
        caption_share: float = 0.5,
        length: Callable[[int, int], int] | None = None,
        window: int = 16,
    ) -> None:
        self.size, self.seed, self.caption_share = size, seed, caption_share
        self.window = window if length is not None else 1
        self.length = length
        self.questions = np.array([sum(text.asked for text in record.texts) for record in records])
        self.captions = np.array([len(record.texts) for record in records]) - self.questions
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)
        self._window = lru_cache(maxsize=1)(self._sort_window)

    def step(self, index: int) -> list[tuple[int, int]]:
        """The (record, text) pairs of step `index`, counted from 0."""
        return self._window(index // self.window)[index % self.window]

    def _draw_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the records in an epoch, and the text drawn for each record."""
        count = len(self.captions)
        order = np.random.default_rng([self.seed, epoch, _ORDER]).permutation(count)
        which, kind = np.random.default_rng([self.seed, epoch, _DRAW]).random((2, count))
        caption = np.where(self.questions == 0, True, (self.captions > 0) & (kind < self.caption_share))
        number = np.where(caption, self.captions, self.questions)
        return order, np.where(caption, 0, self.captions) + (which * number).astype(np.int64)

    def _sort_window(self, window: int) -> list[list[tuple[int, int]]]:
        """The steps of a window, each a list of examples."""
        start = window * self.window * self.size
        examples = []
        for position in range(start, start + self.window * self.size):
            epoch, place = divmod(position, len(self.captions))
            order, text = self._epoch(epoch)
            record = int(order[place])
            examples.append((record, int(text[record])))
        steps = np.arange(self.window)
        if self.length is not None and self.window > 1:
            length = self.length
            examples.sort(key=lambda example: length(*example))  # stable: equal lengths keep the shuffled order
            steps = np.random.default_rng([self.seed, window, _STEPS]).permutation(self.window)
        return [examples[i * self.size : (i + 1) * self.size] for i in steps]
