"""Records written down: the fields of a line or a member that is read back as the same record, and its media."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from encoders.media.video import SUFFIXES as FILM_SUFFIXES
from mmlm.data.readers.paths import IMAGE_SUFFIXES, SOUND_SUFFIXES
from mmlm.data.records import FileSlice, Record
from mmlm.prompting.messages import Message

_MARKS = (
    ("jpg", b"\xff\xd8\xff"), ("png", b"\x89PNG"), ("gif", b"GIF8"), ("bmp", b"BM"), ("tif", b"II*\0"),
    ("tif", b"MM\0*"), ("flac", b"fLaC"), ("ogg", b"OggS"), ("mp3", b"ID3"),
    *(("mp3", bytes([0xFF, second])) for second in (0xF2, 0xF3, 0xFA, 0xFB)),  # MPEG-2 and MPEG-1, layer III
    ("webm", b"\x1a\x45\xdf\xa3"), ("caf", b"caff"), ("aif", b"FORM"),
)  # fmt: skip
KNOWN = {*IMAGE_SUFFIXES, *SOUND_SUFFIXES, *FILM_SUFFIXES}
_WITHIN = {b"WEBP": "webp", b"WAVE": "wav", b"ftypavif": "avif", b"ftyp": "m4a"}  # some bytes behind the start


def suffix_of(place: FileSlice | bytes, data: bytes) -> str:
    """The suffix of a medium: that of its file, where readers know it, or by how its bytes begin. ValueError for an
    unknown beginning.
    """
    if isinstance(place, FileSlice) and place.whole and (own := place.path.suffix[1:].lower()) in KNOWN:
        return own
    for suffix, mark in _MARKS:
        if data.startswith(mark):
            return suffix
    for mark, suffix in _WITHIN.items():
        if mark in data[4:16]:
            return suffix
    raise ValueError(f"its medium is of no known kind (it begins with {data[:8]!r})")


def fields_of(record: Record, names: Sequence[str], members: bool) -> dict[str, Any]:
    """The fields of a record whose media have these names, in the order of `places`.

    members: whether they are members of a tar, which a pair need not name. ValueError for a document with recordings,
    for an answer that is judged good or bad, and for a medium that is rejected.
    """
    if record.good is not None or not isinstance(record.rejected, str | None):
        raise ValueError("answers that are judged good or bad, and media that are rejected, are not converted")
    waiting = iter(names)
    found: dict[str, Any] = {"id": record.key} | ({} if record.rejected is None else {"rejected": record.rejected})
    if record.messages:
        return found | {"messages": [_message(turn, waiting) for turn in record.messages]}
    if record.document:
        if any(modality != "image" for modality, _ in record.places):
            raise ValueError("no format has documents with recordings")
        texts = [part if isinstance(part, str) else None for part in record.document]
        return found | {"texts": texts, "images": [None if text is not None else next(waiting) for text in texts]}
    if not members:
        found |= dict(zip(record.media, names, strict=True))
    found |= {"captions": list(record.captions)} if record.captions else {}
    found |= {"qa": [{"question": asked, "answer": own} for asked, own in record.qa]} if record.qa else {}
    found |= {} if record.transcript is None else {"transcript": record.transcript}
    return found | ({} if record.reply is None else {"answer": record.reply})


def _message(turn: Message, names: Any) -> dict[str, Any]:
    content = []
    for part in turn.content:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
        else:
            kind = type(part).__name__.replace("Sound", "Audio").lower()
            content.append({"type": kind, "path": next(names)})
    own = {"name": turn.name, "tool_call_id": turn.tool_call_id}
    return {"role": turn.role, "content": content} | {key: value for key, value in own.items() if value is not None}
