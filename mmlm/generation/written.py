"""What ids say that were written: texts and media in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.parts import Codes


def parts_of(model: MultimodalNetwork, ids: Sequence[int]) -> Iterator[str | Codes]:
    """Text and codes in turn, empty texts left out; a medium that was not finished is left out as well."""
    spans = {span.begin: span for span in model.language_model.vocabulary.spans.values()}
    words: list[int] = []
    place = 0
    while place < len(ids):
        span = spans.get(ids[place])
        if span is None:
            words.append(ids[place])
            place += 1
            continue
        if words and (text := model.processor.decode(words)):
            yield text
        words = []
        end = next((at + 1 for at in range(place, len(ids)) if ids[at] == span.end), None)
        if end is None:
            return
        yield Codes(span.layout.modality, span.to_codes(list(ids[place:end])))
        place = end
    if words and (text := model.processor.decode(words)):
        yield text
