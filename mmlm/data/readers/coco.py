"""COCO caption files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmlm.data.readers.fields import existing_file, record_of
from mmlm.data.records import BadRecord, Record


def read_coco(path: Path, images: Path | None) -> Iterator[Record | BadRecord]:
    """The images of the file with their captions. Names start from the folder `images`, or from the file's own."""
    folder = path.parent if images is None else images
    try:
        content: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a COCO captions file ({error})") from error
    try:
        names = {image["id"]: image["file_name"] for image in content["images"]}
        annotations = [(annotation["image_id"], annotation.get("caption")) for annotation in content["annotations"]]
    except (KeyError, TypeError, AttributeError) as error:
        if isinstance(content, list) and content:
            raise ValueError(
                f"{path} is a list of records: a manifest is a .jsonl, one object a line (jq -c '.[]' FILE)"
            ) from error
        raise ValueError(f"{path} is not a COCO captions file ({type(error).__name__}: {error})") from error
    if len(names) != len(content["images"]):
        raise ValueError(f"{path}: {len(content['images']) - len(names)} images share the id of another")
    captions: dict[Any, list] = {image_id: [] for image_id in names}
    for image_id, caption in annotations:
        if image_id in captions:
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
