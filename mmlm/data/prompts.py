"""What asks for a text of a record: the same prompt in training and in evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from mmlm.data.records import Record, Text
from mmlm.prompting.parts import Media, Part
from mmlm.prompting.templates import PromptTemplate


def prompt_of(template: PromptTemplate, record: Record, text: Text, media: Sequence[Media]) -> list[Part]:
    """The parts that ask for `text`, one of `record.texts`, given the record's media, pictures first."""
    if text.asked:
        return template.spoken_prompt(media, record.transcript if text.reads else None, text.question)
    return [*media, template.caption if text.kind == "caption" else template.transcript]
