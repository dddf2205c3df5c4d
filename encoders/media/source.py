"""Sources of media: the bytes of a path, file object, `data:` URL or address, with a limit on their number."""

import base64
import http.client
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from encoders.files import at_home
from encoders.media.fetch import fetch

MAX_BYTES = 100_000_000

_FETCH_SECONDS = 20.0
_PIECE = 1 << 20  # characters of a data: URL that are decoded at a time, and bytes of a file that are read
_DIGITS = np.full(256, -1, np.int16)
for _digit in b"0123456789abcdefABCDEF":
    _DIGITS[_digit] = int(chr(_digit), 16)
_SPACES = b" \t\n\r\v\f"


class MediaError(ValueError):
    """Media that cannot be used. The message names the source, the reason and the remedy."""


class MissingMediaError(MediaError, FileNotFoundError):
    """The path of a source does not exist."""


def read_bytes(source: Any, label: str, max_bytes: float, allow_url: bool) -> bytes:
    """The encoded bytes of a source, at most `max_bytes` of them."""
    if isinstance(source, bytes | bytearray | memoryview):
        check_bytes(memoryview(source).nbytes, label, max_bytes)
        return bytes(source)
    if is_path(source):
        with open_path(source, label, max_bytes) as file:
            return _read_file(file, label, max_bytes)
    if isinstance(source, str):
        start = source[:8].lower()
        if start.startswith("data:"):
            return _read_data_url(source, label, max_bytes)
        if start.startswith(("http://", "https://")):
            if not allow_url:
                raise MediaError(f"{label}: addresses are not fetched; download it, or pass allow_url=True")
            return _fetch(source, label, max_bytes)
        raise MediaError(f"{label}: only http, https and data URLs are known; give a file as its plain path")
    if hasattr(source, "read"):
        return _read_file(source, label, max_bytes)
    raise MediaError(f"{label}: not a media source; give a path, bytes, a file object, a data: URL or an array")


def rereadable(source: Any, max_bytes: float, allow_url: bool) -> Any:
    """The source, or its bytes where it could be read only once: an address, or a stream without positions.

    Errors are those of `read_bytes`.
    """
    once = hasattr(source, "read") and not (hasattr(source, "seekable") and source.seekable())
    if once or (isinstance(source, str) and not is_path(source)):
        return read_bytes(source, label_of(source), max_bytes, allow_url)
    return source


def is_path(source: Any) -> bool:
    """Whether a source is the path of a file, rather than a `data:` URL or an address."""
    if not isinstance(source, str):
        return isinstance(source, os.PathLike)
    return source[:5].lower() != "data:" and "://" not in source[:32]


def open_path(source: str | os.PathLike, label: str, max_bytes: float) -> BinaryIO:
    """Open a file on disk of at most `max_bytes` for reading."""
    try:
        path = Path(at_home(source))
        if not path.exists():
            raise MissingMediaError(f"{label}: no such file; check the path")
        if not path.is_file():  # a folder, or a pipe or device, which may never end
            raise MediaError(f"{label}: not a regular file; give the path of one file")
        check_bytes(path.stat().st_size, label, max_bytes)
        return path.open("rb")
    except MediaError:
        raise
    except (OSError, ValueError, TypeError) as error:  # no permission, name too long, zero byte, path of bytes
        raise MediaError(f"{label}: cannot be read ({reason_of(error)})") from error


@contextmanager
def opened(source: Any, label: str, max_bytes: float, allow_url: bool) -> Iterator[BinaryIO]:
    """The source as a seekable binary file. Files on disk are not read into memory."""
    if is_path(source):
        with open_path(source, label, max_bytes) as file:
            yield file
    else:
        yield io.BytesIO(read_bytes(source, label, max_bytes, allow_url))


def _read_file(file: Any, label: str, max_bytes: float) -> bytes:
    """Read from the current position, and return a seekable file to it."""
    try:
        start = file.tell() if hasattr(file, "seekable") and file.seekable() else None
        data = io.BytesIO()
        while data.tell() <= max_bytes:  # in pieces: memory for what is there, not for the limit
            piece = file.read(int(min(_PIECE, max_bytes + 1 - data.tell())))
            if not isinstance(piece, bytes):
                kind = type(piece).__name__
                raise MediaError(f"{label}: reading gives {kind}, not bytes; open the file with mode 'rb'")
            if not piece:
                break
            data.write(piece)
        if start is not None:
            file.seek(start)
    except MediaError:
        raise
    except (OSError, ValueError) as error:
        raise MediaError(f"{label}: cannot be read ({reason_of(error)})") from error
    check_bytes(data.tell(), label, max_bytes)
    return data.getvalue()


def _read_data_url(source: str, label: str, max_bytes: float) -> bytes:
    comma = source.find(",")
    header = source[:comma]
    if comma < 0:
        raise MediaError(f"{label}: a data: URL needs a comma before its data")
    encoded = header.lower().endswith(";base64")
    start, data = len(header) + 1, bytearray()
    while start < len(source):  # in pieces, which bounds the memory that each step takes
        end = min(start + _PIECE, len(source))
        if end < len(source) and (cut := source.rfind("%", end - 2, end)) > 0:  # whose digits may follow
            end = cut
        try:
            piece = _unquoted(source[start:end].encode())
        except ValueError as error:
            raise MediaError(f"{label}: a data: URL holds no such characters; encode the file again") from error
        data += piece.translate(None, _SPACES) if encoded else piece
        check_bytes(len(data) * 3 // 4 - 2 if encoded else len(data), label, max_bytes)
        start = end
    if encoded:
        try:
            data = base64.b64decode(data, validate=True)
        except ValueError as error:
            raise MediaError(f"{label}: its base64 is broken ({error}); encode the file again") from error
    check_bytes(len(data), label, max_bytes)
    return bytes(data)


def _unquoted(text: bytes) -> bytes:
    """Bytes with `%41` for A, as `urllib.parse.unquote_to_bytes` has it, which makes an object of each."""
    values = np.frombuffer(text, np.uint8)
    digits = _DIGITS[values]
    escapes = np.flatnonzero((values[:-2] == ord("%")) & (digits[1:-1] >= 0) & (digits[2:] >= 0))
    found, kept = values.copy(), np.ones(len(values), bool)
    found[escapes] = 16 * digits[escapes + 1] + digits[escapes + 2]
    kept[escapes + 1] = kept[escapes + 2] = False
    return found[kept].tobytes()


def _fetch(url: str, label: str, max_bytes: float) -> bytes:
    try:
        return fetch(url, lambda count: check_bytes(count, label, max_bytes), _FETCH_SECONDS)
    except MediaError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise MediaError(f"{label}: cannot be fetched ({error}); check the address, or download it yourself") from error


def check_limits(**limits: float) -> None:
    """ValueError for a limit that is no number above 0; NaN would be passed by anything."""
    for name, limit in limits.items():
        if not isinstance(limit, Real) or isinstance(limit, bool) or not limit > 0:
            raise ValueError(f"{name} must be a number above 0, not {limit!r}")


def check_bytes(count: int, label: str, max_bytes: float) -> None:
    """MediaError for a source of more than `max_bytes` bytes."""
    if not count <= max_bytes:  # written so that NaN fails
        raise MediaError(f"{label}: more than {max_bytes:,} bytes; give a smaller file or raise max_bytes")


def reason_of(error: Exception) -> str:
    """The text of an error without the path, which the message names already."""
    return str(getattr(error, "strerror", None) or error)  # the text of an OSError repeats the whole path


def label_of(source: Any) -> str:
    """The name of a source in messages: short, and without the data of a `data:` URL.

    MediaError for a nested tensor, which is several things of different sizes, and may not even tell its shape.
    """
    if getattr(source, "is_nested", False) is True:
        raise MediaError(f"{type(source).__name__}: a nested tensor holds several; give each by itself, of unbind()")
    if isinstance(source, str | os.PathLike):
        text = os.fsdecode(source)
        return repr(text if len(text) <= 100 else text[:60] + "…" + (text[-30:] if text[:5] != "data:" else ""))
    if isinstance(source, bytes | bytearray | memoryview):
        return f"{type(source).__name__} of length {len(source)}"
    if hasattr(source, "shape") and hasattr(source, "dtype"):
        return f"{type(source).__name__} {list(source.shape)} {source.dtype}"
    name = getattr(source, "name", None)  # of a file
    return type(source).__name__ + (f" {str(name)[:100]!r}" if name else "")
