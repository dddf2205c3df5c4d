"""COCO caption files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmlm.data.readers.fields import existing_file, record_of, text_of
from mmlm.data.records import BadRecord, FileSlice, Record


def read_coco(path: Path, content: Any, folder: Path) -> Iterator[Record | BadRecord]:
    """The images of a file, whose JSON is `content`, with their captions. Names start from the folder."""
    annotations = _entries(path, content, "annotations")
    names, bad = _names(path, content)
    yield from bad
    captions: dict[Any, list] = {image_id: [] for image_id in names}
    for number, annotation in enumerate(annotations, 1):
        try:
            image_id, caption = annotation["image_id"], annotation.get("caption")
            known = image_id in captions
        except (KeyError, TypeError, AttributeError) as error:
            yield BadRecord(f"{path.name} annotations[{number}]", f"no entry with an image_id ({error!r})")
            continue
        if not known:
            yield BadRecord(f"{path.name} image {image_id}", "a caption for an image that the file does not list")
            continue
        try:
            if not (text := text_of(caption, "caption")):
                raise ValueError("an empty caption")
            captions[image_id].append(text)
        except ValueError as error:
            yield BadRecord(f"{path.name} annotations[{number}]", str(error))
    for image_id, name in names.items():
        try:
            yield record_of(name, _place(folder, name), {"captions": captions[image_id]})
        except ValueError as error:
            yield BadRecord(f"{path.name} image {image_id}", str(error))


def pictures_of_coco(path: Path, content: Any, folder: Path) -> Iterator[tuple[str, FileSlice] | BadRecord]:
    """(name, place) of each image of a file, whether it has captions or not: `image_info_test2014.json` has none."""
    names, bad = _names(path, content)
    yield from bad
    for image_id, name in names.items():
        try:
            yield name, _place(folder, name)
        except ValueError as error:
            yield BadRecord(f"{path.name} image {image_id}", str(error))


def _names(path: Path, content: Any) -> tuple[dict[Any, Any], list[BadRecord]]:
    """The name of each image by its id, and the entries that are none. ValueError where two have one id."""
    names: dict[Any, Any] = {}
    bad, shared = [], 0
    for number, picture in enumerate(_entries(path, content, "images"), 1):
        try:
            image_id, name = picture["id"], picture["file_name"]
            shared += image_id in names
            names[image_id] = name
        except (KeyError, TypeError) as error:
            bad.append(BadRecord(f"{path.name} images[{number}]", f"no entry with an id and a file_name ({error!r})"))
    if shared:
        raise ValueError(f"{path}: {shared} images share the id of another")
    return names, bad


def _place(folder: Path, name: Any) -> FileSlice:
    if not isinstance(name, str) or not name:
        raise ValueError(f"its file_name is {name!r}")
    return existing_file(folder, name)


def _entries(path: Path, content: Any, name: str) -> list[Any]:
    """The list of this name. ValueError where the file has no such list."""
    entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f'{path} is not a COCO captions file: its "{name}" is no list')
    return entries
