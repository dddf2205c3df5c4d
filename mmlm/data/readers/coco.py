"""COCO caption files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmlm.data.readers.fields import existing_file, record_of
from mmlm.data.records import BadRecord, Record


def read_coco(path: Path, content: Any, folder: Path) -> Iterator[Record | BadRecord]:
    """The images of a file, whose JSON is `content`, with their captions. Names start from the folder."""
    pictures, annotations = _lists(path, content)
    names: dict[Any, Any] = {}
    shared = 0
    for number, picture in enumerate(pictures, 1):
        try:
            image_id, name = picture["id"], picture["file_name"]
            shared += image_id in names
            names[image_id] = name
        except (KeyError, TypeError) as error:
            yield BadRecord(f"{path.name} images[{number}]", f"no entry with an id and a file_name ({error!r})")
    if shared:
        raise ValueError(f"{path}: {shared} images share the id of another")
    captions: dict[Any, list] = {image_id: [] for image_id in names}
    for number, annotation in enumerate(annotations, 1):
        try:
            image_id, caption = annotation["image_id"], annotation.get("caption")
            known = image_id in captions
        except (KeyError, TypeError, AttributeError) as error:
            yield BadRecord(f"{path.name} annotations[{number}]", f"no entry with an image_id ({error!r})")
            continue
        if known:
            captions[image_id].append(caption)
        else:
            yield BadRecord(f"{path.name} image {image_id}", "a caption for an image that the file does not list")
    for image_id, name in names.items():
        try:
            if not isinstance(name, str) or not name:
                raise ValueError(f"its file_name is {name!r}")
            yield record_of(name, existing_file(folder, name), {"captions": captions[image_id]})
        except ValueError as error:
            yield BadRecord(f"{path.name} image {image_id}", str(error))


def _lists(path: Path, content: Any) -> tuple[list, list]:
    """The entries of "images" and of "annotations". ValueError where the file has no such lists."""
    lists = []
    for name in ("images", "annotations"):
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ValueError(f'{path} is not a COCO captions file: its "{name}" is no list')
        lists.append(entries)
    return lists[0], lists[1]
