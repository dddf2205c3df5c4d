"""The parts of a prompt: text, pictures, sounds, codes, and the end of a chunk."""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

from torch import Tensor

from encoders.media.sound import SUFFIXES, Audio


@dataclass(frozen=True)
class Image:
    """An image part: anything `encoders.media.load_image` reads, or ready-made `encoders.base.Features`."""

    source: Any


@dataclass(frozen=True)
class Sound:
    """A sound part: anything `encoders.media.open_audio` reads, or ready-made `encoders.base.Features`."""

    source: Any


@dataclass(frozen=True)
class Markup:
    """Text of a program, never of a user, in which control tokens count: what a chat template puts around a message.

    A prompt that begins with it gets no token of beginning besides what it holds.
    """

    text: str


@dataclass(frozen=True, eq=False)
class Codes:
    """A picture or sound as its codes, [K, h, w] or [K, T], between the words: to be learned, or gone on from."""

    modality: str
    codes: Tensor


class _EndOfChunk:
    def __repr__(self) -> str:
        return "END_OF_CHUNK"


END_OF_CHUNK: Final = _EndOfChunk()
"""The part that closes one demonstration or document: the `<|endofchunk|>` token."""


Media = Image | Sound


Part = str | Image | Sound | Codes | Markup | _EndOfChunk


def as_part(value: Any) -> Part:
    """A prompt part from what users pass: text stays text; a path, PIL image, array or Features becomes an Image.

    A path with a suffix of sound, and `Audio`, become a Sound.
    """
    if isinstance(value, (str, Image, Sound, Codes, Markup, _EndOfChunk)):
        return value
    if value is None or isinstance(value, (bool, int, float, dict, list, tuple)):
        raise TypeError(
            "a prompt part is text, an mmlm.Image(...), an mmlm.Sound(...), a pathlib.Path, a PIL image or an array, "
            f"not {type(value).__name__}"
        )
    if isinstance(value, Audio) or (isinstance(value, PurePath) and value.suffix.lower().lstrip(".") in SUFFIXES):
        return Sound(value)
    return Image(value)


def modality_of(part: Part) -> str:
    """"image" or "audio"; TypeError for a part that is neither."""
    if isinstance(part, Image):
        return "image"
    if isinstance(part, Sound):
        return "audio"
    raise TypeError(f"media are pictures and sounds, not {type(part).__name__}")
