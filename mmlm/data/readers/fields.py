"""A record from the fields of a JSON object, checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from mmlm.data.records import FileSlice, Record

Find: TypeAlias = Callable[[str, str], FileSlice | bytes]
"""Where a medium lies: (its name, "image" or "audio") → its place. ValueError where there is none."""

_MEDIA = {"image": "picture", "audio": "recording"}


def in_folder(folder: Path) -> Find:
    """Finds media by their paths in a folder."""
    return lambda name, modality: existing_file(folder, name, _MEDIA[modality])


def json_object(text: str | bytes) -> dict[str, Any]:
    """The object that `text` holds, without its nulls: null means absent. ValueError where it holds anything else."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:  # the second where brackets are nested too deep
        raise ValueError(f"unreadable JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError(f"the JSON is a {type(fields).__name__}, not an object")
    return {name: value for name, value in fields.items() if value is not None}


def existing_file(folder: Path, name: Any, medium: str = "picture") -> FileSlice:
    """The file `name` in `folder`. ValueError where there is none."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"the name of a {medium} is {name!r:.80}")
    if "://" in name[:32]:
        raise ValueError(f"{name[:80]} is an address: download it, and name the file")
    if name[:5].lower() == "data:":
        raise ValueError(f"the {medium} itself ({name[:30]}…) in place of its name, as conversations alone may have it")
    path = folder / name
    try:
        found = path.is_file()
        if not found and "\\" in name:  # as Windows writes paths
            path = folder / name.replace("\\", "/")
            found = path.is_file()
    except OSError as error:  # a name too long for any file: a data: URL, for one
        raise ValueError(f"no {medium} at {str(path)[:80]}… ({error.strerror})") from error
    if not found:
        raise ValueError(f"no {medium} at {path}")
    return FileSlice(path)


def record_of(
    key: str, picture: FileSlice | bytes | None, fields: dict[str, Any], sound: FileSlice | bytes | None = None
) -> Record:
    """A record from its media and the fields that `read_records` describes. ValueError where a field is no good."""
    transcript, reply = fields.get("transcript"), None
    described = ("caption", "text")
    if picture is None and transcript is None:
        transcript, described = fields.get("text"), ("caption",)
    told = [fields[name] for name in described if name in fields]
    captions = [one for value in told for one in (value if isinstance(value, list) else [value])]
    captions += _list(fields, "captions")
    pairs = [
        (item.get("question"), item.get("answer", item.get("answers"))) if isinstance(item, dict) else item
        for item in _list(fields, "qa")
    ]
    if sound is not None and "question" not in fields and "answer" in fields:
        reply = text_of(fields["answer"], "answer")
    elif "question" in fields or "answer" in fields or "answers" in fields:
        pairs.append((fields.get("question"), fields.get("answer", fields.get("answers"))))
    qa = []
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise ValueError('an entry of "qa" is neither {"question", "answer"} nor a pair')
        question, answer = pair
        # A list of answers is one answer that names all of them: "book, scissors".
        answers = answer if isinstance(answer, list) and answer else [answer]
        qa.append((text_of(question, "question"), ", ".join(text_of(one, "answer") for one in answers)))
    transcript = None if transcript is None else text_of(transcript, "transcript")
    texts = tuple(text_of(caption, "caption") for caption in captions)
    return Record(key, picture, texts, tuple(qa), sound, transcript, reply)


def _list(fields: dict[str, Any], name: str) -> list:
    value = fields.get(name, [])
    if not isinstance(value, list):
        raise ValueError(f'"{name}" is not a list')
    return value


def text_of(value: Any, what: str) -> str:
    """A text without blanks around it. ValueError for anything else, and for what is not valid Unicode."""
    if not isinstance(value, str):
        article = "an" if what[0] in "aeiou" else "a"
        raise ValueError(f"{article} {what} that is not text" if value is not None else f"no {what}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"its {what} is not valid Unicode; save the file as UTF-8") from error
    return value.strip()
