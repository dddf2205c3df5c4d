"""What is put into an index: files, folders and what is in memory, as items; each is read here, and nowhere else."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from encoders.files import check_regular
from encoders.media.image import load_image
from encoders.media.sound import load_audio
from encoders.media.video import SUFFIXES as FILMS
from encoders.texts import check_text
from mmlm.data.find import files_in
from mmlm.data.readers.paths import IMAGE_SUFFIXES, SOUND_SUFFIXES
from mmlm.prompting.sources import SourceModality
from mmlm.retrieval.chunks import Chunking, spans
from mmlm.retrieval.store import name_of

if TYPE_CHECKING:
    from encoders.transcription.transcriber import Transcriber

TEXT_SUFFIXES = ("txt", "text", "md", "rst")
SUFFIXES: dict[str, SourceModality] = {
    **dict.fromkeys(FILMS, "audio"),  # films by what is said in them
    **dict.fromkeys(SOUND_SUFFIXES, "audio"), **dict.fromkeys(IMAGE_SUFFIXES, "image"),
    **dict.fromkeys(TEXT_SUFFIXES, "text"),
}  # fmt: skip
MAX_TEXT_BYTES = 50_000_000
SILENCE = 1e-3  # the loudest sample of a recording in which nobody is looked for: -60 dB of full scale


@dataclass(frozen=True)
class Item:
    """Something to put into an index.

    path: the file; or a name, under which it is found, changed and removed. content: a text, or what `load_image` or
    `load_audio` reads; None for the file itself. caption: words about a picture, by which it is found as well.
    metadata: what searches can be limited by: values that JSON can hold. Where these two are None, the index keeps what
    it has of them under this path; "" and {} take them away.
    """

    path: str
    modality: SourceModality
    content: Any = None
    caption: str | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Piece:
    """A part of an item that is found by itself: its characters in the text, or its seconds in the recording."""

    text: str
    span: tuple[int | None, int | None] = (None, None)
    seconds: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True)
class Contents:
    """What is in an item: its pieces, all of its text, a recording's length. picture: what the image tower takes."""

    pieces: tuple[Piece, ...]
    text: str = ""
    seconds: float | None = None
    picture: Any = None


def items_of(source: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None) -> Iterator[Item]:
    """The item of a file, or those of a folder with all below it.

    FileNotFoundError where there is nothing; ValueError for a file of a kind that is not known, and for a folder with
    none that is.
    """
    path = Path(source).expanduser()
    if not path.is_dir():
        check_regular(path)
        yield Item(name_of(path), modality_of(path), metadata=metadata)
        return
    found, _ = files_in(path, tuple(SUFFIXES))
    if not found:
        raise FileNotFoundError(f"{path}: no texts, pictures or recordings in this folder ({', '.join(TEXT_SUFFIXES)})")
    yield from (Item(name_of(file), modality_of(file), metadata=metadata) for file in found)


def modality_of(path: Path) -> SourceModality:
    """By the suffix; ValueError for one that is not known."""
    modality = SUFFIXES.get(path.suffix.lower().lstrip("."))
    if modality is None:
        raise ValueError(f"{path}: neither a picture nor a recording nor a text ({', '.join(TEXT_SUFFIXES)})")
    return modality


def digest_of(item: Item) -> tuple[str, bytes | None]:
    """What identifies the content, and what of it the index keeps because no file has it: pictures as PNG."""
    if item.content is None or isinstance(item.content, os.PathLike):
        path = item.path if item.content is None else item.content
        check_regular(path)
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), None
    if item.modality == "text":
        return hashlib.sha256(item.content.encode()).hexdigest(), None
    if item.modality == "image":
        file = io.BytesIO()
        load_image(item.content).save(file, "PNG")
        return hashlib.sha256(file.getvalue()).hexdigest(), file.getvalue()
    sound = load_audio(item.content)
    head = f"{sound.sample_rate} {sound.waveform.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(sound.waveform).tobytes()).hexdigest(), None


def contents_of(item: Item, kept: bytes | None, chunking: Chunking, listener: Transcriber | None) -> Contents:
    """Reads an item. kept: of `digest_of`.

    ValueError or OSError for what cannot be used, and for what holds nothing: an empty text, a silent recording.
    """
    caption = item.caption or ""
    check_text(caption, "the caption")
    if item.modality == "text":
        return _text(item, chunking)
    if item.modality == "audio":
        return _sound(item, listener)
    picture = load_image(kept or (item.path if item.content is None else item.content))
    return Contents((Piece(caption),), caption, picture=picture)


def _text(item: Item, chunking: Chunking) -> Contents:
    text = item.content
    if text is None:
        size = os.path.getsize(item.path)
        if size > MAX_TEXT_BYTES:
            raise ValueError(f"{item.path}: {size:,} bytes, and texts have {MAX_TEXT_BYTES:,} at most; split it")
        try:
            text = Path(item.path).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{item.path} is no text in UTF-8 from byte {error.start + 1:,} on; convert it") from None
    check_text(text, "the text")
    pieces = tuple(Piece(text[first:last], (first, last)) for first, last in spans(text, chunking))
    if not pieces:
        raise ValueError("the text is empty")
    return Contents(pieces, text)


def _sound(item: Item, listener: Transcriber | None) -> Contents:
    if listener is None:
        raise ValueError("recordings are found by what is said in them, and no Whisper is there to write it down")
    sound = load_audio(item.path if item.content is None else item.content)
    if not sound.waveform.size or float(np.abs(sound.waveform).max()) < SILENCE:
        raise ValueError("the recording is silent")
    said = listener.transcribe(sound)
    spoken = [segment for segment in said.segments if segment.text.strip()]
    if not spoken:
        raise ValueError("nothing is said in the recording")
    pieces = tuple(Piece(one.text.strip(), (None, None), (one.start, one.end)) for one in spoken)
    return Contents(pieces, said.text, said.seconds)
