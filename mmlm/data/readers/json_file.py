"""Files that are one JSON value: COCO captions, VQAv2's questions, LLaVA's lists of conversations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmlm.data.readers.coco import read_coco
from mmlm.data.readers.fields import in_folder
from mmlm.data.readers.forms import apart_of, is_apart
from mmlm.data.readers.paths import packed_by
from mmlm.data.readers.vqa import read_vqa
from mmlm.data.records import BadRecord, Record


def read_json(path: Path, images: Path | None) -> Iterator[Record | BadRecord]:
    """The records of a file. Its paths start from the folder `images`, or from its own.

    ValueError where it is none of these, or damaged.
    """
    folder = path.parent if images is None else images
    content = json_of(path)
    if isinstance(content, list) and any(isinstance(entry, dict) and is_apart(entry) for entry in content):
        return _read_list(path, content, folder)
    if isinstance(content, list) and content:
        raise ValueError(f"{path} is a list of records: a manifest is a .jsonl, one object a line (jq -c '.[]' FILE)")
    if isinstance(content, dict) and isinstance(content.get("questions"), list):
        return read_vqa(path, content, folder, json_of)
    return read_coco(path, content, folder)


def json_of(path: Path) -> Any:
    """What the file holds. ValueError where it is damaged."""
    content = path.read_bytes()
    if packed := packed_by(content[:6]):
        raise ValueError(f"{path} is compressed by {packed}, and has to be unpacked first")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} holds no JSON of captions, questions or conversations ({error})") from error


def _read_list(path: Path, content: list, folder: Path) -> Iterator[Record | BadRecord]:
    for number, fields in enumerate(content, 1):
        where = f"{path.name} [{number}]"
        try:
            if not isinstance(fields, dict):
                raise ValueError(f"the entry is a {type(fields).__name__}, not an object")
            found = {name: value for name, value in fields.items() if value is not None}
            record = apart_of(str(found.get("id", where)), found, in_folder(folder))
            if record is None:
                raise ValueError("neither a conversation, nor a document, nor a preference")
            yield record
        except ValueError as error:
            yield BadRecord(where, str(error))
