"""The rankings of a search, and how they are joined: by the ranks alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from mmlm.prompting.sources import SourceModality
from mmlm.retrieval.opened import OpenIndex
from mmlm.retrieval.store import Space, condition_of
from mmlm.retrieval.vectors import unit_rows

Way = Literal["words", "vectors"]
RANKED = 100  # of each ranking at least so many are joined
FLAT = 60  # of reciprocal rank fusion: how little the first ranks differ


def found_by(
    index: OpenIndex,
    words: str | None,
    picture: Any,
    k: int,
    by: Sequence[Way],
    modalities: Sequence[SourceModality] | None,
    where: Mapping[str, Any] | None,
) -> dict[str, list[int]]:
    """The ids that each way finds, the best first, by the name of the way."""
    _check("by", by, get_args(Way))
    if modalities is not None:
        _check("modalities", modalities, get_args(SourceModality))
    most = max(RANKED, k)
    condition, values = condition_of(modalities, where)
    rankings: dict[str, list[int]] = {}
    if words is not None and words.strip() and "words" in by:
        rankings["words"] = index.store.having_words(words, most, condition, values)
    if "vectors" not in by:
        return rankings
    allowed = index.store.allowed(condition, values)

    def nearest(space: Space, made: Any, what: str) -> list[int]:
        (query,) = unit_rows(made, 1, what)
        with index.store.lock:
            return index.vectors(space).nearest(query, most, allowed)[0]

    for space in ("image", "text"):
        if not len(index.vectors(space)) or (modalities is not None and not _space_has(space, modalities)):
            continue
        encoder = index.clip if space == "image" else index.texts
        if encoder is None:
            raise ValueError(
                f"this index has vectors of {'pictures' if space == 'image' else 'texts'}: open it with the model that "
                'made them, or search by=("words",)'
            )
        if words is not None and words.strip():
            name = "texts" if space == "text" else "pictures"
            made = index.texts([words]) if space == "text" and index.texts else None
            if space == "image" and index.clip is not None:
                made = index.clip.embed_texts([words], cut=True)
            rankings[name] = nearest(space, made, "the text embedder")
        if picture is not None and space == "image" and index.clip is not None:
            made = index.clip.embed_images(index.clip.preprocess(picture)[None])
            rankings["picture"] = nearest(space, made, "the CLIP")
    return rankings


def _check(name: str, given: Any, known: Sequence[str]) -> None:
    """ValueError for what is no list of known names."""
    if isinstance(given, str) or not given or any(one not in known for one in given):
        raise ValueError(f"{name} is a list of {', '.join(map(repr, known))}, not {given!r}")


def _space_has(space: Space, modalities: Sequence[SourceModality]) -> bool:
    return ("image" in modalities) if space == "image" else bool({"text", "audio"} & set(modalities))


def fused(rankings: Mapping[str, Sequence[int]]) -> list[tuple[int, float, dict[str, int]]]:
    """(id, score, its ranks) of all that was ranked, the highest score first; equal ones in the order of their ids."""
    ranks: dict[int, dict[str, int]] = {}
    for name, ids in rankings.items():
        for rank, id in enumerate(ids, start=1):
            ranks.setdefault(id, {})[name] = rank
    scored = [(id, sum(1 / (FLAT + rank) for rank in own.values()), own) for id, own in ranks.items()]
    return sorted(scored, key=lambda one: (-one[1], one[0]))
