"""JSONL manifests: one record a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmlm.data.readers.fields import existing_file, json_object, record_of
from mmlm.data.records import BadRecord, Record


def read_jsonl(path: Path, images: Path | None) -> Iterator[Record | BadRecord]:
    """The records of a manifest. Its paths start from the folder `images`, or from its own folder."""
    folder = path.parent if images is None else images
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path.name}:{number}"
            try:
                fields = json_object(line)
                name, sound = fields.get("image", fields.get("file_name")), fields.get("audio")
                if not any(isinstance(value, str) and value for value in (name, sound)):
                    raise ValueError('no picture or recording: none of "image", "file_name" and "audio" names a file')
                picture = existing_file(folder, name) if name else None
                recording = existing_file(folder, sound, "recording") if sound else None
                yield record_of(name or str(sound), picture, fields, recording)
            except ValueError as error:
                yield BadRecord(where, str(error))
