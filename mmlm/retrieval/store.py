"""An index on disk: one file of SQLite, with the words in its full-text search (FTS5) and the vectors beside them.

Each change is one transaction, so a process may be killed at any time: what was being written is not there, all else
is. Several processes may read at once, and one writes.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmlm.retrieval.vectors import Ids, Rows

Space = Literal["image", "text"]
"""Vectors of pictures, by the image tower of a CLIP; and of texts and of what is said, by a text embedder."""

MARK, FORM = 0x6D6D6C69, 1  # "mmli" in the file's header, and the form of its tables
WAIT = 60.0  # seconds for another process to end its writing
CACHE = 1 << 26  # bytes: new digests and words belong anywhere in their trees
PAGE = 16384  # bytes; several vectors fit into one
TABLES = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE documents (
    id INTEGER PRIMARY KEY AUTOINCREMENT, modality TEXT NOT NULL, digest TEXT NOT NULL, caption TEXT NOT NULL,
    text TEXT NOT NULL, seconds REAL, content BLOB, UNIQUE (modality, digest, caption));
CREATE INDEX documents_modality ON documents(modality);
CREATE TABLE places (path TEXT PRIMARY KEY, document INTEGER NOT NULL REFERENCES documents(id), metadata TEXT NOT NULL);
CREATE INDEX places_document ON places(document);
CREATE TABLE pieces (
    id INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL REFERENCES documents(id), number INTEGER NOT NULL,
    first INTEGER, last INTEGER, start REAL, end REAL, text TEXT NOT NULL);
CREATE INDEX pieces_document ON pieces(document, number);
CREATE TABLE vectors (piece INTEGER PRIMARY KEY REFERENCES pieces(id), space TEXT NOT NULL, vector BLOB NOT NULL);
CREATE VIRTUAL TABLE words USING fts5(text, content='pieces', content_rowid='id', tokenize='porter unicode61');
"""
_QUERY = re.compile(r"\w+")


class Store:
    """The tables of one index. OSError where SQLite fails; ValueError for a file that is no index."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.RLock()
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path.parent}: no such folder for an index")
        if path.is_dir():
            raise ValueError(f"{path} is a folder, and an index is a file: give {path / 'NAME.index'}")
        with self.told():
            self.database = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
        try:
            self._open()
        except BaseException:
            self.database.close()
            raise

    def _open(self) -> None:
        with self.told():
            _check_words(self.database)
            self.database.execute("PRAGMA foreign_keys = ON")
            self.database.execute(f"PRAGMA cache_size = -{CACHE // 1024}")
            self.database.execute("PRAGMA trusted_schema = OFF")  # a file of someone else's runs no functions
            if not self.value("SELECT count(*) FROM sqlite_master"):
                self.database.execute(f"PRAGMA page_size = {PAGE}")
                with self.writing():
                    if not self.value("SELECT count(*) FROM sqlite_master"):  # nobody else made it meanwhile
                        for statement in TABLES.split(";\n"):
                            self.database.execute(statement)
                        self.database.execute(f"PRAGMA application_id = {MARK}")
                        self.database.execute(f"PRAGMA user_version = {FORM}")
            if self.value("PRAGMA application_id") != MARK:
                raise ValueError(f"{self.path} is a database, but no index of mmlm: give another name")
            if (form := self.value("PRAGMA user_version")) != FORM:
                raise ValueError(f"{self.path} is an index of form {form}, and this version reads form {FORM}")

    @contextmanager
    def told(self) -> Iterator[None]:
        """Errors of SQLite in the words of the library."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if "not a database" in str(error):
                raise ValueError(f"{self.path} is no index: give the name of one, or a new name") from error
            raise OSError(f"{self.path}: {error}") from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A change that happens whole, or not at all."""
        with self.lock, self.told():
            self.database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.database.execute("COMMIT")
            except BaseException:
                if self.database.in_transaction:
                    self.database.execute("ROLLBACK")
                raise

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self.lock, self.told():
            return self.database.execute(query, values).fetchall()

    def value(self, query: str, values: Sequence[Any] = ()) -> Any:
        """The first column of the first row; None without one."""
        with self.lock, self.told():
            found = self.database.execute(query, values).fetchone()
        return None if found is None else found[0]

    def run(self, query: str, values: Sequence[Any]) -> int:
        """Changes rows, within `writing`; the id of the row that was inserted last."""
        with self.told():
            return self.database.execute(query, values).lastrowid or 0

    def changes_elsewhere(self) -> int:
        """A number that is another one after another process, or another connection, has written."""
        return self.value("PRAGMA data_version")

    def vectors(self, space: Space) -> tuple[Ids, Rows]:
        """Ids of pieces, ascending, and their vectors `[N, D]`."""
        with self.lock, self.told():
            found = self.database.execute("SELECT piece, vector FROM vectors WHERE space = ? ORDER BY piece", (space,))
            ids, blobs = [], []
            for piece, vector in found:
                ids.append(piece)
                blobs.append(vector)
        if len({len(blob) for blob in blobs}) > 1:
            raise OSError(f"{self.path} is damaged: its vectors have several lengths; make the index anew")
        rows = np.frombuffer(b"".join(blobs), np.float32).reshape(len(ids), -1) if ids else np.empty((0, 0), np.float32)
        return np.asarray(ids, np.int64), rows

    def add_piece(self, document: int, number: int, piece: Sequence[Any], space: Space, row: Rows | None) -> int:
        """A piece (first, last, start, end, text) with its words and its vector; its id."""
        where = "INSERT INTO pieces (document, number, first, last, start, end, text) VALUES (?, ?, ?, ?, ?, ?, ?)"
        id = self.run(where, (document, number, *piece))
        self.database.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (id, piece[-1]))
        if row is not None:
            self.database.execute("INSERT INTO vectors VALUES (?, ?, ?)", (id, space, row.tobytes()))
        return id

    def drop_unplaced(self, document: int) -> list[int]:
        """Takes a document away that no place has any more, within `writing`; the ids of its pieces."""
        if self.value("SELECT count(*) FROM places WHERE document = ?", (document,)):
            return []
        pieces = self.rows("SELECT id, text FROM pieces WHERE document = ?", (document,))
        self.database.executemany("INSERT INTO words (words, rowid, text) VALUES ('delete', ?, ?)", pieces)
        self.database.executemany("DELETE FROM vectors WHERE piece = ?", [(id,) for id, _ in pieces])
        self.database.execute("DELETE FROM pieces WHERE document = ?", (document,))
        self.database.execute("DELETE FROM documents WHERE id = ?", (document,))
        return [id for id, _ in pieces]

    def having_words(self, query: str, most: int, condition: str, values: Sequence[Any]) -> list[int]:
        """Ids of the pieces with words of a query, the best by bm25 first; equal ones in the order of their ids.

        condition, values: of `condition_of`, what the pieces have to be.
        """
        words = " OR ".join(f'"{word}"' for word in dict.fromkeys(_QUERY.findall(query)))
        if not words:
            return []
        joined = "words" if not condition else "pieces JOIN words ON words.rowid = pieces.id"
        where = f"words MATCH ?{condition and f' AND {condition}'} ORDER BY words.rank, words.rowid LIMIT ?"
        return [id for (id,) in self.rows(f"SELECT words.rowid FROM {joined} WHERE {where}", (words, *values, most))]

    def allowed(self, condition: str, values: Sequence[Any]) -> Ids | None:
        """The ids of pieces that a condition allows, ascending; None without one."""
        if not condition:
            return None
        query = f"SELECT id FROM pieces WHERE {condition} ORDER BY id"
        return np.asarray([id for (id,) in self.rows(query, values)], np.int64)


def condition_of(modalities: Sequence[str] | None, where: Mapping[str, Any] | None) -> tuple[str, list[Any]]:
    """A filter of `pieces` as a condition of SQL, with its values; "" for none.

    where: key → the value that the metadata have under it, or a list of values of which they have one.
    """
    parts, values = [], []
    if modalities is not None:
        among = ", ".join("?" * len(modalities))
        parts.append(f"pieces.document IN (SELECT id FROM documents WHERE modality IN ({among}))")
        values += modalities
    if where:
        placed, given = place_condition(where)
        parts.append(f"pieces.document IN (SELECT document FROM places WHERE {placed})")
        values += given
    return " AND ".join(parts), values


def place_condition(where: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """The same of places: each has metadata of its own, and has to have all that is asked for."""
    parts, values = [], []
    for key, wanted in where.items():
        several = wanted if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
        for one in several:
            if not isinstance(one, str | int | float | None):
                raise TypeError(f"where[{key!r}] is a text, a number, True, False, None or a list of them, not {one!r}")
            values += [_json_path(key), one]
        either = " OR ".join(["json_extract(places.metadata, ?) IS ?"] * len(several))
        parts.append(f"({either or 'FALSE'})")
    return " AND ".join(parts), values


def metadata_text(metadata: Mapping[str, Any] | None) -> str:
    """Metadata as they are kept; TypeError for what JSON cannot hold, ValueError for a key that cannot be looked up."""
    if not isinstance(metadata, Mapping | None):
        raise TypeError(f"metadata are a dictionary, not {metadata!r:.60}")
    for key in metadata or {}:
        _json_path(key)
    try:
        return json.dumps(dict(metadata or {}), ensure_ascii=False, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise TypeError(f"metadata hold what JSON can hold: {error}") from error


def name_of(path: str | os.PathLike[str]) -> str:
    """A file's place from the root, so that it means the same in any folder."""
    return str(Path(path).expanduser().resolve())


def _json_path(key: Any) -> str:
    if not isinstance(key, str) or not key or set(key) & set('"\\\0'):
        raise ValueError(f"a key of metadata is a text without quotes and backslashes, not {key!r}")
    return f'$."{key}"'


def _check_words(database: sqlite3.Connection) -> None:
    """OSError for an SQLite without what an index needs, which is compiled in or not."""
    for what, query in {
        "FTS5": "CREATE VIRTUAL TABLE temp.tried USING fts5(text)",
        "JSON": "SELECT json('{}')",
    }.items():
        try:
            database.execute(query)
        except sqlite3.OperationalError as error:
            if "no such" not in str(error):
                raise
            raise OSError(
                f"the SQLite {sqlite3.sqlite_version} of this Python is compiled without {what}, which an index needs: "
                "use a Python of python.org, conda or a distribution"
            ) from error
    database.execute("DROP TABLE temp.tried")
