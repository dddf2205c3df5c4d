"""Documents of texts and pictures in turn: the layouts of MMC4 and of OBELICS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmlm.data.readers.fields import Find
from mmlm.data.records import FileSlice
from mmlm.prompting.parts import Image


def is_document(fields: Mapping[str, Any]) -> bool:
    """Whether the fields are those of a document. MMC4's may have no list of pictures, or `null` in its place."""
    return "text_list" in fields or {"texts", "images"} <= fields.keys()


def document_of(fields: Mapping[str, Any], find: Find) -> tuple[str | Image, ...]:
    """The parts of a document. Texts that follow each other are joined.

    MMC4: "text_list" has the sentences, and each entry of "image_info" stands before the sentence of its
    "matched_text_index". Entries without an "image_name" were not downloaded, and are left out.
    OBELICS: "texts" and "images" are equally long; in each place one of them has a value, the other null.
    ValueError where a picture is missing or lies at an address, or a field is of another form.
    """
    if "text_list" in fields:
        return _joined(_mmc4(fields), find, " ")
    texts, pictures = _list(fields, "texts"), _list(fields, "images")
    if len(texts) != len(pictures):
        raise ValueError(f'{len(texts)} "texts" and {len(pictures)} "images": they stand for the same places')
    both = [(_picture(picture), text) for picture, text in zip(pictures, texts, strict=True)]
    return _joined((part for pair in both for part in pair), find, "\n\n")


def _mmc4(fields: Mapping[str, Any]) -> Iterable[Any]:
    sentences = _list(fields, "text_list")
    before: dict[int, list[Any]] = {}
    for entry in _list(fields, "image_info"):
        if not isinstance(entry, dict):
            raise ValueError('an entry of "image_info" that is no object')
        name, index = entry.get("image_name"), entry.get("matched_text_index")
        if name is None:
            continue
        if type(index) is not int or not 0 <= index < len(sentences):
            raise ValueError(f'"matched_text_index" is {index!r:.40}, not the number of a text')
        before.setdefault(index, []).append(_picture(name))
    return (part for index, text in enumerate(sentences) for part in (*before.get(index, ()), text))


def _joined(parts: Iterable[Any], find: Find, between: str) -> tuple[str | Image, ...]:
    found: list[str | Image] = []
    for part in parts:
        if part is None:
            continue
        if isinstance(part, Image):
            found.append(Image(find(part.source, "image")) if isinstance(part.source, str) else part)
        elif not isinstance(part, str):
            raise ValueError("a text of a document that is not text")
        elif not (text := part.strip()):
            continue
        elif found and isinstance(found[-1], str):
            found[-1] += between + text
        else:
            found.append(text)
    if not found:
        raise ValueError("a document without text")
    return tuple(found)


def _picture(name: Any) -> Image | None:
    """A picture that is still a name; None where there is none."""
    if isinstance(name, str) and "://" in name[:32]:
        raise ValueError(f"{name[:80]} is an address: download it, training reads files")
    if not isinstance(name, str | FileSlice | bytes | None):
        raise ValueError(f"the name of a picture is {name!r:.80}")
    return None if name is None else Image(name)


def _list(fields: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = fields.get(name, [])
    if not isinstance(value, list):
        raise ValueError(f'"{name}" is not a list')
    return value
