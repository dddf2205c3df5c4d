"""How items get into an index: a few at a time, each few in one transaction."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from mmlm.retrieval.items import Contents, Item, contents_of, digest_of
from mmlm.retrieval.opened import OpenIndex
from mmlm.retrieval.store import Space, metadata_text
from mmlm.retrieval.vectors import Rows, unit_rows, vector_rows

AT_ONCE = 32  # items that are embedded and written together: what a kill can lose
EMBEDDED = 256  # pieces of texts that are embedded at once
UNUSABLE = (ValueError, OSError)

Outcome = Literal["new", "changed", "unchanged", "copy"]
"""What became of an item. copy: its content is there already under another name, and is not stored twice."""


Fresh = dict[Space, tuple[list[int], list[Rows]]]
"""Ids and vectors of new pieces."""


@dataclass
class Added:
    """How many items were new, changed, unchanged or copies; and the names of those left out, each with the reason."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    copy: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def count(self, item: Item, outcome: Outcome | Exception) -> None:
        """One more."""
        if isinstance(outcome, Exception):
            self.left_out.append((item.path, str(outcome)))
        else:
            setattr(self, outcome, getattr(self, outcome) + 1)

    def __str__(self) -> str:
        parts = [f"{self.new:,} new", f"{self.changed:,} changed", f"{self.unchanged:,} unchanged"]
        parts += [f"{self.copy:,} of the content of others"] if self.copy else []
        return ", ".join([*parts, *([f"{len(self.left_out):,} left out"] if self.left_out else [])])


@dataclass(frozen=True)
class _Read:
    """An item that was read: its digest, what the index keeps of it, and, if it is to be written, what is in it.

    rows: a vector for each piece; None where there is nothing to make them.
    """

    item: Item
    digest: str
    kept: bytes | None
    contents: Contents | None
    rows: Rows | None = None


def adding(index: OpenIndex, items: Iterable[Item]) -> Iterator[tuple[Item, Outcome | Exception]]:
    """Puts items into an index, and says of each what became of it, once it is on the disk.

    A recording, which takes long, is written by itself.
    """
    few: list[Item] = []
    for item in items:
        few.append(item)
        if len(few) == AT_ONCE or item.modality == "audio":
            yield from _written(index, few)
            few = []
    if few:
        yield from _written(index, few)


def _written(index: OpenIndex, few: list[Item]) -> Iterator[tuple[Item, Outcome | Exception]]:
    found = {number: _attempt(functools.partial(_read, index, item)) for number, item in enumerate(few)}
    fresh = {number: one for number, one in found.items() if isinstance(one, _Read) and one.contents is not None}
    for number, rows in _embedded(index, fresh).items():
        one = fresh[number]
        found[number] = (
            rows if isinstance(rows, Exception) else _Read(one.item, one.digest, one.kept, one.contents, rows)
        )
    whole = {number: one for number, one in found.items() if isinstance(one, _Read)}
    outcomes = dict(zip(whole, _stored(index, list(whole.values())), strict=True))
    for number, item in enumerate(few):
        one = found[number]
        yield item, outcomes[number] if isinstance(one, _Read) else one


def _attempt(action: functools.partial[_Read]) -> _Read | Exception:
    try:
        return action()
    except UNUSABLE as error:
        return error


def _read(index: OpenIndex, item: Item) -> _Read:
    """Reads an item, its contents only if they are not in the index."""
    metadata_text(item.metadata)
    item = _settled(index, item)
    if item.modality == "image" and index.clip is None:
        raise ValueError("pictures are embedded by a CLIP, and none is there: open the index with a model that sees")
    digest, kept = digest_of(item)
    if index.document_with(item.modality, digest, item.caption or "") is not None:
        return _Read(item, digest, kept, None)
    listener = index.listener() if item.modality == "audio" else None
    return _Read(item, digest, kept, contents_of(item, kept, index.chunking, listener))


def _settled(index: OpenIndex, item: Item) -> Item:
    """The item with the caption and the metadata that its path has, where it gives none."""
    query = "SELECT caption, metadata FROM places JOIN documents ON documents.id = document WHERE path = ?"
    before = index.store.rows(query, (item.path,))
    caption, metadata = before[0] if before else ("", "{}")
    return replace(
        item,
        caption=caption if item.caption is None else item.caption,
        metadata=json.loads(metadata) if item.metadata is None else item.metadata,
    )


def _embedded(index: OpenIndex, fresh: dict[int, _Read]) -> dict[int, Rows | None | Exception]:
    """The vectors of what is new, pictures and texts each in one batch."""
    found: dict[int, Rows | None | Exception] = {}
    seen = [number for number, one in fresh.items() if one.item.modality == "image"]
    tensors = {}
    for number in seen:
        contents, clip = fresh[number].contents, index.clip
        assert contents is not None and clip is not None, "pictures are read where there is a CLIP"
        tensors[number] = clip.preprocess(contents.picture)
    if tensors and index.clip is not None:
        rows = index.clip.embed_images(torch.stack(list(tensors.values())))
        found |= {number: _unit(row[None], 1, "the CLIP") for number, row in zip(tensors, rows, strict=True)}
    words = [number for number in fresh if number not in tensors]
    pieces = {number: _pieces(fresh[number]) for number in words}
    texts = [text for number in words for text in pieces[number]]
    if index.texts is None or not texts:
        return found | dict.fromkeys(words)
    vectors: list[Any] = []
    for start in range(0, len(texts), EMBEDDED):
        batch = texts[start : start + EMBEDDED]
        vectors.extend(vector_rows(index.texts(batch), len(batch), "the text embedder"))
    for number in words:
        own, vectors = vectors[: len(pieces[number])], vectors[len(pieces[number]) :]
        found[number] = _unit(np.stack(own), len(own), "the text embedder")
    return found


def _pieces(one: _Read) -> list[str]:
    assert one.contents is not None, "what is new has contents"
    return [piece.text for piece in one.contents.pieces]


def _space(item: Item) -> Space:
    return "image" if item.modality == "image" else "text"


def _unit(rows: Any, count: int, what: str) -> Rows | Exception:
    try:
        return unit_rows(rows, count, what)
    except ValueError as error:
        return error


def _stored(index: OpenIndex, items: list[_Read]) -> list[Outcome]:
    """Writes items in one transaction, and brings the vectors in memory up to date."""
    added: Fresh = {}
    removed: list[int] = []
    outcomes: list[Outcome] = []
    if not items:
        return outcomes
    with index.store.lock:  # until the vectors in memory are those of the file
        with index.store.writing():
            for one in items:
                if one.contents is not None:
                    index.claim(_space(one.item))
                outcomes.append(_store(index, one, added, removed))
        index.took({space: (ids, np.stack(rows)) for space, (ids, rows) in added.items()}, removed)
    return outcomes


def _store(index: OpenIndex, one: _Read, added: Fresh, removed: list[int]) -> Outcome:
    item, store = one.item, index.store
    metadata, caption = metadata_text(item.metadata), item.caption or ""
    document, outcome = index.document_with(item.modality, one.digest, caption), "copy"
    if document is None:
        outcome = "new"
        if one.contents is None:
            raise OSError(f"{item.path}: its content was taken out of the index meanwhile; add it again")
        document = store.run(
            "INSERT INTO documents (modality, digest, caption, text, seconds, content) VALUES (?, ?, ?, ?, ?, ?)",
            (item.modality, one.digest, caption, one.contents.text, one.contents.seconds, one.kept),
        )
        space = _space(item)
        for number, piece in enumerate(one.contents.pieces):
            row = None if one.rows is None else one.rows[number]
            id = store.add_piece(document, number, (*piece.span, *piece.seconds, piece.text), space, row)
            if row is not None:
                ids, rows = added.setdefault(space, ([], []))
                ids.append(id)
                rows.append(row)
    before = store.rows("SELECT document, metadata FROM places WHERE path = ?", (item.path,))
    if before == [(document, metadata)]:
        return "unchanged"
    store.run("INSERT OR REPLACE INTO places VALUES (?, ?, ?)", (item.path, document, metadata))
    if before:
        removed += store.drop_unplaced(before[0][0])
        return "changed"
    return outcome
