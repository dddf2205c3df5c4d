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
BY_VECTORS = ("texts", "pictures", "picture")  # by words among texts and pictures; by a picture among pictures
FLAT = 60  # of reciprocal rank fusion: how little the first ranks differ


def found_by(
    index: OpenIndex,
    words: str | None,
    picture: Any,
    k: int,
    by: Sequence[Way],
    modalities: Sequence[SourceModality] | None,
    where: Mapping[str, Any] | None,
    least: Mapping[str, float] | float | None,
) -> tuple[dict[str, list[int]], dict[str, dict[int, float]]]:
    """The ids that each way finds, the best first, by the name of the way; and the cosines of those by vectors."""
    _check("by", by, get_args(Way))
    if modalities is not None:
        _check("modalities", modalities, get_args(SourceModality))
    most = max(RANKED, k)
    condition, values = condition_of(modalities, where)
    rankings: dict[str, list[int]] = {}
    cosines: dict[str, dict[int, float]] = {}
    if words is not None and words.strip() and "words" in by:
        rankings["words"] = index.store.having_words(words, most, condition, values)
    if "vectors" not in by:
        if least is not None:
            raise ValueError("least is a cosine, and words have none: search by vectors too, or leave it out")
        return rankings, {}
    allowed = index.store.allowed(condition, values)

    def rank(name: str, space: Space, made: Any, what: str) -> None:
        (query,) = unit_rows(made, 1, what)
        with index.store.lock:
            rankings[name], found = index.vectors(space).nearest(query, most, allowed)
        cosines[name] = dict(zip(rankings[name], found, strict=True))

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
            rank(name, space, made, "the text embedder")
        if picture is not None and space == "image" and index.clip is not None:
            made = index.clip.embed_images(index.clip.preprocess(picture)[None])
            rank("picture", space, made, "the CLIP")
    return (rankings if least is None else _near(rankings, cosines, least)), cosines


def _near(
    rankings: Mapping[str, Sequence[int]],
    cosines: Mapping[str, Mapping[int, float]],
    least: Mapping[str, float] | float,
) -> dict[str, list[int]]:
    """The rankings without what is farther from what was looked for than `least` in each ranking by vectors."""
    bounds = least if isinstance(least, Mapping) else dict.fromkeys(cosines, least)
    kept = {id for name, own in cosines.items() for id, cosine in own.items() if cosine >= bounds.get(name, -1.0)}
    return {name: [id for id in ids if id in kept] for name, ids in rankings.items()}


def check_least(least: Any) -> None:
    """TypeError and ValueError for what is neither a cosine nor cosines by the names of rankings."""
    for name, value in least.items() if isinstance(least, Mapping) else [("texts", least)]:
        if name not in BY_VECTORS:
            raise ValueError(f"least: there is no ranking {name!r:.40}; there are {', '.join(BY_VECTORS)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"least is a cosine, or one for each ranking by its name, not {value!r:.60}")
        if not -1 <= value <= 1:
            raise ValueError(f"least is a cosine in -1..1, not {value}")


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
