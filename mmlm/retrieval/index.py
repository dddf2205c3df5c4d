"""An index of texts, pictures and recordings: put in once, found by words, by meaning, and by what is seen."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from decoders.values import check_kind
from mmlm.prompting.sources import Source, SourceModality
from mmlm.retrieval.adding import Added, adding
from mmlm.retrieval.items import Item, items_of
from mmlm.retrieval.opened import OpenIndex
from mmlm.retrieval.searching import Way, check_least, found_by, fused
from mmlm.retrieval.store import name_of, place_condition


@dataclass(frozen=True)
class Place:
    """Something that is in an index. pieces: how many parts of it are found by themselves."""

    path: str
    modality: SourceModality
    pieces: int
    seconds: float | None
    metadata: Mapping[str, Any]


class Index(OpenIndex):
    """Texts, pictures and recordings in one file, which grows, and is searched exactly.

    Pictures are found by the CLIP's image tower, asked by words through its text tower or by a picture; texts by their
    words (bm25) and by a text embedder; recordings by what is said in each of their segments, as Whisper writes it
    down. It is made for up to some 100,000 pieces. A process that is killed leaves a whole index.

    path: the file; it is made if it is not there. model: whose CLIP and Whisper are used; without one the index is
    searched by words. clip, transcriber: others than the model's.
    texts: makes vectors of texts: "clip", the text tower of the CLIP; None for words alone; or a `TextEmbedder`.
    chunking: how long texts are cut; None for `Chunking()`.
    ValueError for a file that is no index, and for an index that was made with other encoders: vectors of two encoders
    cannot be compared. OSError where SQLite fails.
    """

    # Growing

    def add(
        self,
        *sources: str | os.PathLike[str],
        metadata: Mapping[str, Any] | None = None,
        progress: Callable[[Item], None] | None = None,
    ) -> Added:
        """Puts files in, and folders with all texts, pictures and recordings below them.

        A file that is there already is left as it is, or read again where its content has changed. What cannot be used
        is named in `left_out`, and the others are put in. metadata: of all of them; None keeps what each has already.
        progress: called with each item when it is done.
        FileNotFoundError and ValueError for a source that is not there, or of no known kind.
        """
        items = [item for source in sources for item in items_of(source, metadata)]
        done = Added()
        for item, outcome in adding(self, items):
            done.count(item, outcome)
            if progress is not None:
                progress(item)
        return done

    def add_items(self, items: Iterable[Item]) -> Added:
        """Puts in what lies in memory, or files with captions or metadata of their own."""
        done = Added()
        for item, outcome in adding(self, items):
            done.count(item, outcome)
        return done

    def add_text(self, text: str, name: str | None = None, metadata: Mapping[str, Any] | None = None) -> str:
        """Puts one text in, and returns its name. name: None for one made of its content.

        ValueError for a text that is empty or no valid text.
        """
        check_kind("text", text, str)
        name = name or f"text:{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:16]}"
        done = self.add_items([Item(name, "text", text, metadata=metadata)])
        if done.left_out:
            raise ValueError(done.left_out[0][1])
        return name

    def remove(self, path: str | os.PathLike[str]) -> int:
        """Takes a file, a name, or all files below a folder out, and returns how many there were.

        ValueError where none is in the index.
        """
        place = name_of(path)
        below = place.rstrip(os.sep) + os.sep
        condition = "path IN (?, ?) OR substr(path, 1, ?) = ?"
        removed: list[int] = []
        with self.store.lock:
            with self.store.writing():
                found = self.store.rows(
                    f"SELECT path, document FROM places WHERE {condition}", (str(path), place, len(below), below)
                )
                for name, document in found:
                    self.store.run("DELETE FROM places WHERE path = ?", (name,))
                    removed += self.store.drop_unplaced(document)
            self.took({}, removed)
        if not found:
            raise ValueError(f"{path} is not in the index {self.store.path}")
        return len(found)

    def remove_missing(self) -> int:
        """Takes out the files that are not there any more, and returns how many there were."""
        gone = [place.path for place in self.places() if os.path.isabs(place.path) and not os.path.exists(place.path)]
        return sum(self.remove(path) for path in gone)

    # Looking

    def search(
        self,
        words: str | None = None,
        *,
        picture: Any = None,
        k: int = 5,
        by: Sequence[Way] = ("words", "vectors"),
        modalities: Sequence[SourceModality] | None = None,
        where: Mapping[str, Any] | None = None,
        least: Mapping[str, float] | float | None = None,
    ) -> list[Source]:
        """The `k` best pieces for words, for a picture that is like theirs, or for both; the best first.

        Each way gives a ranking: by words (bm25); by vectors of texts; by vectors of pictures. They are joined by the
        ranks alone (reciprocal rank fusion, Cormack et al. 2009), for the scores of two ways cannot be compared.
        picture: what `load_image` reads. by: "words" alone needs no encoder. modalities: which to look among.
        where: key → the value, or a list of values, that the metadata have under it. Filters act before `k` is counted.
        least: leave out what is farther: the least cosine, of all rankings by vectors or of each by its name ("texts",
        "pictures", and "picture" for pictures that are like one). What words alone find is judged by its vector too.
        Which cosine is near depends on the encoder: the `cosines` of what is found tell. [] where nothing is near.
        ValueError for words and vectors that this index was not opened for.
        """
        check_kind("words", words, str | None)
        check_kind("k", k, int)
        if k < 1:
            raise ValueError(f"k is how many are wanted, at least 1, not {k}")
        if picture is None and (words is None or not words.strip()):
            raise ValueError("there is nothing to look for: give words or a picture")
        if least is not None:
            check_least(least)
        rankings, cosines = found_by(self, words, picture, k, by, modalities, where, least)
        found: list[Source] = []
        for id, score, ranks in fused(rankings)[:k]:
            source = self._source(id, score, ranks, where)
            if source is not None:
                near = {name: own[id] for name, own in cosines.items() if id in own}
                found.append(replace(source, cosines=near))
        return found

    def places(self, where: Mapping[str, Any] | None = None) -> list[Place]:
        """All that is in the index, in the order of the names."""
        condition, values = place_condition(where or {})
        found = self.store.rows(
            "SELECT path, modality, (SELECT count(*) FROM pieces WHERE document = documents.id), seconds, metadata "
            f"FROM places JOIN documents ON documents.id = document WHERE {condition or 'TRUE'} ORDER BY path",
            values,
        )
        return [
            Place(path, modality, pieces, seconds, json.loads(metadata))
            for path, modality, pieces, seconds, metadata in found
        ]

    def text(self, source: Source, around: int | None = None) -> tuple[str, tuple[int, int] | None]:
        """What stands around a source, and the characters that it takes: the pieces before and behind it.

        around: how many on each side; None for the whole text or transcript. Of a transcript there are no characters.
        """
        row = self.store.rows("SELECT document, number FROM pieces WHERE id = ?", (source.id,))
        if not row:
            raise ValueError(f"{source.path} was taken out of the index since it was found")
        ((document, number),) = row
        most = len(self) if around is None else around
        pieces = self.store.rows(
            "SELECT first, last, text FROM pieces WHERE document = ? AND number BETWEEN ? AND ? ORDER BY number",
            (document, number - most, number + most),
        )
        if pieces[0][0] is None:
            return " ".join(text for _, _, text in pieces), None
        whole = self.store.value("SELECT text FROM documents WHERE id = ?", (document,))
        first, last = (0, len(whole)) if around is None else (pieces[0][0], pieces[-1][1])
        return whole[first:last], (first, last)

    def picture(self, source: Source) -> bytes:
        """The file of a picture that was found; OSError or ValueError where it is gone, or is another one by now."""
        row = self.store.rows(
            "SELECT content, digest FROM documents JOIN pieces ON document = documents.id WHERE pieces.id = ?",
            (source.id,),
        )
        content, digest = row[0] if row else (None, None)
        data = Path(source.path).read_bytes() if content is None else content
        if hashlib.sha256(data).hexdigest() != digest:
            raise ValueError(f"{source.path} has changed since it was put into the index: add it again")
        return data

    def _source(
        self, id: int, score: float, ranks: Mapping[str, int], where: Mapping[str, Any] | None
    ) -> Source | None:
        """A piece that was found; None where another process took it out since."""
        condition, values = place_condition(where or {})
        row = self.store.rows(
            "SELECT path, modality, pieces.text, first, last, start, end, metadata FROM pieces "
            "JOIN documents ON documents.id = pieces.document JOIN places ON places.document = documents.id "
            f"WHERE pieces.id = ? AND {condition or 'TRUE'} ORDER BY places.rowid LIMIT 1",
            (id, *values),
        )
        if not row:
            return None
        path, modality, text, first, last, start, end, metadata = row[0]
        span = None if first is None else (first, last)
        return Source(id, path, modality, text, score, span, start, end, ranks, json.loads(metadata))
