"""Parquet with columns of media, as the `datasets` library writes them. Media are read when they are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmlm.data.readers.fields import Find, in_folder, record_of
from mmlm.data.readers.forms import apart_of, is_apart
from mmlm.data.readers.paths import IMAGE_SUFFIXES, SOUND_SUFFIXES
from mmlm.data.records import BadRecord, FileSlice, Record

MAX_GROUP_BYTES = 4 << 30  # of what is read of a row group at once
NAMES = {"image": ("image", "file_name"), "audio": ("audio",)}  # fields of texts that name a file, as in JSONL
BYTES = {
    "image": {"image", "images", "image_bytes", *IMAGE_SUFFIXES},
    "audio": {"audio", "audios", "audio_bytes", *SOUND_SUFFIXES},
}
"""Names of columns of plain bytes that are media."""

_KEPT = 4  # row groups in memory, of one column each


@dataclass(frozen=True)
class Cell(FileSlice):
    """A medium in a column: of structs {bytes, path}, of bytes, or of lists of either.

    offset, size: mean nothing here. group: number of the row group; row: in it; index: in the list of the cell, None
    where there is no list.
    """

    group: int = 0
    row: int = 0
    column: str = ""
    index: int | None = None

    @property
    def whole(self) -> bool:
        """Never: it is a part of a file."""
        return False

    def read(self) -> bytes:
        """The bytes, or those of the file that the cell names. OSError or ValueError where there are none."""
        state = self.path.stat()
        self.check(state)
        cell = _column(self.path, state.st_mtime_ns, self.group, self.column)[self.row].as_py()
        medium = cell if self.index is None else cell[self.index]
        if isinstance(medium, bytes):
            return medium
        if medium["bytes"] is not None:
            return medium["bytes"]
        if medium.get("path") is None:
            raise ValueError("neither bytes nor the path of a file in its cell")
        return FileSlice(self.path.parent / medium["path"]).read()


def read_parquet(path: Path, images: Path | None) -> Iterator[Record | BadRecord]:
    """The records of a table, a row each. Columns are fields, as in JSONL; media are columns of {bytes, path}, and of
    bytes where their name is that of a picture or a recording (`BYTES`).

    images: the folder in which files lie that texts name. ImportError without pyarrow; ValueError where the file is
    damaged, or a row group is too large to be read.
    """
    changed = path.stat().st_mtime_ns
    table = _opened(path)
    media = _media(table)
    leaves = _leaves(table)
    plain = media.keys() - {column for leaf, column in leaves.items() if leaf.endswith(".path")}
    texts = [leaf for leaf, column in leaves.items() if column not in media or leaf.endswith(".path")]
    find = in_folder(path.parent if images is None else images)
    for group in range(table.num_row_groups):
        rows = _read(table, path, group, texts).to_pylist()
        there = {column: _there(_column(path, changed, group, column)) for column in plain}
        for number in range(table.metadata.row_group(group).num_rows):
            row = (rows[number] if texts else {}) | {column: own[number] for column, own in there.items()}
            where = f"{path.name}:{group}:{number}"
            places = {
                column: _places(value, Cell(path, 0, None, changed, group, number, column))
                for column in media
                if (value := row.pop(column)) is not None
            }
            fields = {name: value for name, value in row.items() if value is not None}
            try:
                yield _record(str(fields.get("id", where)), fields, media, places, find)
            except ValueError as error:
                yield BadRecord(where, str(error))


def _places(value: Any, cell: Cell) -> list[Cell | None]:
    """The media of a cell; None for a null in a list."""
    if not isinstance(value, list):
        return [cell]
    return [None if one is None else replace(cell, index=index) for index, one in enumerate(value)]


def _record(
    key: str, fields: dict[str, Any], media: Mapping[str, str], places: Mapping[str, list[Cell | None]], find: Find
) -> Record:
    own = {"image": [], "audio": []}
    for column, cells in places.items():
        own[media[column]] += cells
    if is_apart({**fields, **places}):
        beside = {f"{modality}s": own[modality] for modality in own if modality in media.values()}
        found = apart_of(key, fields | beside, find)
        assert found is not None, "is_apart says so"
        return found
    for cells, name in ((own["image"], "pictures"), (own["audio"], "recordings")):
        if len(cells) > 1:
            raise ValueError(f"{len(cells)} {name}, which a conversation may have, but no caption or question")
    for modality, names in NAMES.items():
        named = next((fields[name] for name in names if isinstance(fields.get(name), str)), None)
        if not own[modality] and named is not None:
            own[modality] = [find(named, modality)]
    picture, sound = (cells[0] if cells else None for cells in own.values())
    packed = next((name for name, value in fields.items() if isinstance(value, bytes)), None)
    if picture is None and sound is None and packed is not None:
        raise ValueError(
            f'no picture or recording; the column "{packed}" holds bytes: named "image" or "audio" it is one'
        )
    return record_of(key, picture, fields, sound)


def _media(table: Any) -> dict[str, str]:
    """The columns of media and their modality.

    They are structs with "bytes", of the modality that `datasets` noted. Where none is of a modality, they are bytes
    that are named as its media are: beside a picture, a column `jpg` may hold what it was made from.
    """
    import pyarrow.types as types

    schema = table.schema_arrow
    try:
        noted = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        noted = {}
    structs, plain = {}, {}
    for column in schema:
        kind = _inner(column.type)
        if types.is_struct(kind) and _has_bytes(kind):
            sound = '"Audio"' in json.dumps(noted.get(column.name) if isinstance(noted, dict) else None)
            structs[column.name] = "audio" if sound or column.name.startswith("audio") else "image"
        elif _is_bytes(kind) and (own := next((its for its, names in BYTES.items() if column.name in names), None)):
            plain[column.name] = own
    return structs | {name: own for name, own in plain.items() if own not in structs.values()}


def _leaves(table: Any) -> dict[str, str]:
    """The column of each leaf ("image.bytes"). Names of columns may have dots too."""
    names, paths = table.schema_arrow.names, [table.schema.column(number).path for number in range(len(table.schema))]
    return {path: max((name for name in names if f"{path}.".startswith(f"{name}.")), key=len) for path in paths}


def _inner(kind: Any) -> Any:
    """The type of a column, or that of what its lists or its dictionary hold."""
    import pyarrow.types as types

    holds = types.is_list(kind) or types.is_large_list(kind) or types.is_dictionary(kind)
    return kind.value_type if holds else kind


def _has_bytes(struct: Any) -> bool:
    """Whether a struct has "bytes", which are no number of bytes; they are null where all media are files."""
    fields = [struct.field(place) for place in range(struct.num_fields)]
    return any(field.name == "bytes" and (_is_bytes(field.type) or str(field.type) == "null") for field in fields)


def _is_bytes(kind: Any) -> bool:
    return str(kind) in ("binary", "large_binary", "binary_view")


def _there(column: Any) -> list[Any]:
    """Of each cell True, or a list of these, or None: what other columns tell by the paths in their structs."""
    return [
        [True if one is not None else None for one in value] if isinstance(value, list) else value is not None or None
        for value in column.to_pylist()
    ]


def _opened(path: Path) -> Any:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError(f"{path}: pyarrow reads such files: pip install 'mmlm[parquet]'") from error
    try:
        return ParquetFile(path, memory_map=False)
    except ArrowException as error:
        raise ValueError(f"{path} is damaged or no table of Parquet ({error}); fetch or write it again") from error


def _read(table: Any, path: Path, group: int, leaves: Sequence[str]) -> Any:
    """The columns of these leaves in a row group. ValueError where they are damaged or too large."""
    from pyarrow import ArrowException

    about = table.metadata.row_group(group)
    columns = (about.column(number) for number in range(about.num_columns))
    size = sum(column.total_uncompressed_size for column in columns if column.path_in_schema in leaves)
    if size > MAX_GROUP_BYTES:
        raise ValueError(
            f"{path}: row group {group} has {size / 1e9:.1f} GB, more than {MAX_GROUP_BYTES / 1e9:.1f}: write it with "
            "smaller row groups"
        )
    try:
        return table.read_row_group(group, columns=list(leaves), use_threads=False)
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path}: row group {group} is damaged ({error}); fetch or write it again") from error


@lru_cache(maxsize=_KEPT)
def _column(path: Path, changed: int, group: int, column: str) -> Any:
    """One column of a row group. changed: when the file was, so that one that is written again is read again."""
    with _opened(path) as table:
        own = [leaf for leaf, its in _leaves(table).items() if its == column]
        return _read(table, path, group, own).column(column).combine_chunks()
