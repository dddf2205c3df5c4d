"""The parts of a prompt: text, images, sounds, codes, and the end of a chunk."""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

from torch import Tensor

from encoders.media.sound import SUFFIXES, Audio


@dataclass(frozen=True)
class Image:
    """An image part. `source`: anything `encoders.media.load_image` reads, or computed `encoders.base.Features`."""

    source: Any


@dataclass(frozen=True)
class Sound:
    """A sound part. `source`: anything `encoders.media.open_audio` reads, or computed `encoders.base.Features`."""

    source: Any


@dataclass(frozen=True)
class Markup:
    """Text in which control tokens take effect, such as what a chat template writes around a message.

    It must come from a program, never from a user. A prompt that begins with Markup gets no beginning-of-text token
    besides what the Markup contains.
    """

    text: str


@dataclass(frozen=True, eq=False)
class Codes:
    """An image or a sound as codes between the words of a prompt, to learn from or to continue.

    modality: "image" or "audio". codes: integers, `[K, h, w]` for an image, `[K, T]` for audio.
    """

    modality: str
    codes: Tensor


class _EndOfChunk:
    def __repr__(self) -> str:
        return "END_OF_CHUNK"


END_OF_CHUNK: Final = _EndOfChunk()
"""The part that closes one demonstration or document: the `<|endofchunk|>` token."""


Media = Image | Sound
"""A part that goes through an encoder."""


@dataclass(frozen=True)
class Learned:
    """Text to learn, within a prompt: what an assistant says, or the text of a document. Its tokens carry labels.

    parts: text, and the Markup or END_OF_CHUNK that closes it.
    """

    parts: tuple[str | Markup | _EndOfChunk, ...]


Part = str | Image | Sound | Codes | Markup | Learned | _EndOfChunk
"""Anything that a prompt can hold."""


def as_part(value: Any) -> Part:
    """Makes a prompt part of a value.

    A `str` is always text. An `Audio`, or a path with an audio suffix, becomes a Sound. Any other path, a PIL image,
    an array, bytes or Features becomes an Image. Parts are returned unchanged.
    TypeError for None, numbers, dicts, lists and tuples.
    """
    if isinstance(value, (str, Image, Sound, Codes, Markup, Learned, _EndOfChunk)):
        return value
    if value is None or isinstance(value, (bool, int, float, dict, list, tuple)):
        raise TypeError(
            "a prompt part is text, an mmlm.Image(...), an mmlm.Sound(...), a pathlib.Path, a PIL image or an array, "
            f"not {type(value).__name__}" + ("; messages are for model.chat(...)" if isinstance(value, dict) else "")
        )
    if isinstance(value, Audio) or (isinstance(value, PurePath) and value.suffix.lower().lstrip(".") in SUFFIXES):
        return Sound(value)
    return Image(value)


def as_media(value: Any) -> Media:
    """As `as_part`, where only an Image or a Sound will do; TypeError for any other part."""
    part = as_part(value)
    if isinstance(part, (Image, Sound)):
        return part
    raise TypeError(f"media are images and sounds, not {type(part).__name__}: use mmlm.Image(...) or mmlm.Sound(...)")


def modality_of(part: Media) -> str:
    """ "image" or "audio"."""
    return "image" if isinstance(part, Image) else "audio"
