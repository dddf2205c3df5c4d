"""From records to batches: a record and one of its texts become token ids, many of them become a step's parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from encoders.base import Features
from mmlm.data.records import RecordSet
from mmlm.prompt import Batch, Example, Image, Processor, PromptTemplate

REMEMBERED = 200_000  # encoded texts kept in memory, some hundred bytes each


class Examples:
    """The texts of a RecordSet as training examples: `[picture, prompt] → answer`.

    Text t of a record is its caption t, or question t − len(captions).
    """

    def __init__(self, records: RecordSet, processor: Processor, template: PromptTemplate):
        self.records, self.processor, self.template = records, processor, template
        self.encode = lru_cache(REMEMBERED)(self._encode)

    def _encode(self, record: int, text: int) -> Example:
        entry = self.records[record]
        image = Image(entry.key)  # stands for the picture, whose features are given beside the batch
        if text < len(entry.captions):
            return self.processor.encode(self.template.caption_prompt(image), entry.captions[text])
        question, answer = entry.qa[text - len(entry.captions)]
        return self.processor.encode(self.template.question_prompt(image, question), answer)

    def length(self, record: int, text: int) -> int:
        """Tokens of an example."""
        return len(self.encode(record, text).input_ids)

    def collate(self, chosen: Sequence[tuple[int, int]], features: Sequence[Features]) -> tuple[Batch, list]:
        """A batch padded to its longest row, and each row's media."""
        batch = self.processor.collate([self.encode(*pair) for pair in chosen], padding_side="right")
        return batch, [[features[record]] for record, _ in chosen]

    def too_long(self) -> dict[int, str]:
        """Records with a text that the language model has no room for, and how long it is.

        A token is at least a byte, so only texts with many bytes need the tokenizer.
        """
        limit = self.processor.max_length
        if limit is None:
            return {}
        room = limit - 8 - len((self.template.caption + self.template.question).encode())
        found = {}
        for index, record in enumerate(self.records):
            texts = [*record.captions, *(question + answer for question, answer in record.qa)]
            for number, text in enumerate(texts):
                if len(text.encode()) > room:
                    try:
                        self.encode(index, number)
                    except ValueError as error:
                        found[index] = str(error)
        return found
