"""What is looked up for a question, made to fit into its prompt."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from decoders.values import check_kinds, check_least
from encoders.base import Features
from encoders.media.video import is_video
from mmlm.prompting.parts import Image, Part
from mmlm.prompting.sources import Offered, Source, SourceModality, quotable, source_parts
from mmlm.retrieval.index import Index
from mmlm.retrieval.searching import Way
from mmlm.retrieval.searching import check_least as check_cosines

if TYPE_CHECKING:
    from mmlm.model.network import MultimodalNetwork

LEAST = 12  # tokens of a source that is cut to fit; with fewer it says nothing


class Finder(Protocol):
    """Finds sources for a question. `Lookup` finds them in an index, `Recitation` in the model itself."""

    @property
    def tokens(self) -> int:
        """How many tokens of a prompt the sources take at most."""
        ...

    def find(self, model: MultimodalNetwork, question: str, picture: Any) -> list[Source]:
        """The sources, the best first. picture: what the question is about; None for nothing."""
        ...

    def picture(self, source: Source) -> bytes:
        """The file of a picture that was found; OSError or ValueError where it cannot be had."""
        ...


@dataclass(frozen=True)
class Lookup:
    """How an index is asked for a question; by itself an index is asked with these defaults.

    k: how many sources are offered at most. tokens: how many of the prompt they take at most.
    around: how many pieces of the same text are given before and behind each one that was found.
    by, modalities, where, least: as of `Index.search`.
    """

    index: Index
    k: int = 4
    tokens: int = 1024
    around: int = 0
    by: Sequence[Way] = ("words", "vectors")
    modalities: Sequence[SourceModality] | None = None
    where: Mapping[str, Any] | None = None
    least: Mapping[str, float] | float | None = None

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.least is not None:
            check_cosines(self.least)
        check_least(self, k=1, tokens=LEAST, around=0)

    def find(self, model: MultimodalNetwork, question: str, picture: Any) -> list[Source]:
        """As `Finder` has it; of a video, and of features, the question alone is looked up."""
        known: list[SourceModality] | None = None if self.modalities is None else list(self.modalities)
        if "image" not in model.encoders and (known is None or "image" in known):  # it could not look at them
            known = ["text", "audio"] if known is None else [one for one in known if one != "image"]
            if not known:
                raise ValueError("modalities: this model sees no pictures, and nothing else is looked for")
        still = not isinstance(picture, Features) and not is_video(picture)
        picture = picture if still and self.index.clip is not None and (known is None or "image" in known) else None
        found = self.index.search(
            question, picture=picture, k=self.k, by=self.by, modalities=known, where=self.where, least=self.least
        )
        return found if not self.around else self._widened(found)

    def picture(self, source: Source) -> bytes:
        """As `Finder` has it."""
        return self.index.picture(source)

    def _widened(self, found: Sequence[Source]) -> list[Source]:
        """Each source with what stands around it; one that is within another is left out."""
        wider: list[Source] = []
        for source in found:
            quote, span = (source.quote, source.span)
            if source.modality != "image":
                quote, span = self.index.text(source, self.around)
            if not any(one.path == source.path and quote in one.quote for one in wider if quote):
                wider.append(replace(source, quote=quote, span=span))
        return wider


def as_finder(index: Any) -> Finder:
    """TypeError for what is no index and no finder."""
    if isinstance(index, Index):
        return Lookup(index)
    if not all(hasattr(index, name) for name in ("find", "picture", "tokens")):
        raise TypeError(f"index is an mmlm.Index, a Lookup or a Recitation, not {index!r:.60}")
    return index


def offered(model: MultimodalNetwork, finder: Finder, question: str, picture: Any, room: int | None) -> Offered:
    """The sources for a question that fit into its prompt, the best first.

    The first text that does not fit is cut, and nothing comes behind it. A picture that is gone is left out, with a
    warning.
    room: how many tokens there are for them; None for the finder's own number.
    """
    left = finder.tokens if room is None else min(finder.tokens, room)
    sources: list[Source] = []
    parts: list[Part] = []
    for source in finder.find(model, question, picture):
        number = len(sources) + 1
        if source.modality == "image":
            try:
                shown = source_parts(number, source, _seen(model, finder.picture(source)))
            except (OSError, ValueError) as error:
                warnings.warn(f"a picture that was found is left out: {error}", stacklevel=2)
                continue
        else:
            quote = _cut(model, number, source.quote, left)
            if source.span is not None and quote != source.quote:
                source = replace(source, span=(source.span[0], source.span[0] + len(quote)))
            source = replace(source, quote=quote)
            shown = source_parts(number, source)
        size = _size(model, shown)
        if not source.quote and source.modality != "image" or size > left:
            break
        left -= size
        sources.append(source)
        parts += shown
    return Offered(tuple(sources), tuple(parts))


def _seen(model: MultimodalNetwork, data: bytes) -> Any:
    """What the image encoder makes of a picture: it is looked at once, whatever the number of prompts."""
    return model.encode_media([Image(data)])[0]


def _size(model: MultimodalNetwork, parts: Sequence[Part]) -> int:
    """How many positions parts take."""
    count = 0
    for part in parts:
        if isinstance(part, Image):
            count += model.media_positions("image", part.source.tokens.shape[1])
        elif isinstance(part, str):
            count += len(model.processor.text_ids(part))
    return count


def _cut(model: MultimodalNetwork, number: int, quote: str, left: int) -> str:
    """The first words of a quote, as many as fit; "" where these would say nothing."""
    first = quote[: 32 * max(left, 0)]  # no token has more characters, but for spaces
    words = (first if len(quote) > len(first) else quote).split(" ")
    whole = len(words)
    while words:
        size = len(model.processor.text_ids(f"[{number}] {quotable(' '.join(words))}\n"))
        if size <= left:
            break
        words = words[: min(len(words) - 1, len(words) * left // size)]
    cut = len(words) < whole or len(first) < len(quote)
    return "" if cut and left < LEAST else " ".join(words)
