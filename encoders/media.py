"""The one guarded door for media: whatever an image comes as, a checked, upright RGB picture comes out."""

import base64
import hashlib
import http.client
import io
import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np
from PIL import Image

MAX_PIXELS = 64_000_000
MAX_BYTES = 100_000_000
# A strip of 1 x 64M pixels passes the pixel limit, but resizing its short side to 224 would make 3e12 of them.
MAX_ASPECT_RATIO = 200
# Formats that people keep pictures in. Left out: those that run a program (EPS), that are recognised by guess (TGA), or
# that hide a picture of another size inside (ICO, ICNS).
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

_FETCH_SECONDS = 20.0
_ROUNDING = 1e-3  # how far a float picture may leave 0..1
_FROM_16_BITS = ((np.arange(65536) * 255 + 32767) // 65535).astype(np.uint8)
_TILE_WIDTH, _TILE_LENGTH, _ORIENTATION = 322, 323, 274  # TIFF tags; EXIF shares them
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class MediaError(ValueError):
    """Media that cannot be used; the message names the source, the reason and what to do."""


class MissingMediaError(MediaError, FileNotFoundError):
    """A path that does not exist."""


def load_image(
    source: Any, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES, allow_url: bool = False
) -> Image.Image:
    """Any image source → a decoded PIL image, mode RGB, that shares nothing with the source.

    source: a path, bytes, a binary file object, a PIL image, a `data:` URL, or a NumPy array or torch tensor: [H, W],
        [H, W, C] or [C, H, W] with C of 1, 3 or 4; uint8, uint16 or float in 0..1. Where a shape can be read both ways,
        an array is [H, W, C] and a tensor [C, H, W].
    max_pixels, max_bytes: limits on the picture and on the encoded file, checked before anything is decoded.
    allow_url: fetch http(s) addresses. Addresses inside your network are not told apart: keep it off for strangers.
    Transparency is laid on white, 16 bits are scaled to 8, EXIF rotation is applied, of an animation the first frame
    is taken.
    Raises MediaError (a ValueError); for a path that does not exist, MissingMediaError (also a FileNotFoundError).
    """
    label = _label(source)
    if isinstance(source, Image.Image):
        return _decode(source, label, max_pixels)
    if _is_array(source):
        return _from_array(source, label, max_pixels)
    data = _read(source, label, max_bytes, allow_url)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)  # reads the header only
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(f"{label}: too many pixels, or a decompression bomb ({error}); scale it down") from error
    except Exception as error:  # PIL's plugins raise many types on broken headers
        what = "the source is empty" if not data else "not an image, or damaged"
        raise MediaError(f"{label}: {what}; give one of {', '.join(FORMATS)}") from error
    with image:
        return _decode(image, label, max_pixels)


def content_key(source: Any, *, max_bytes: int = MAX_BYTES) -> str:
    """SHA-256 in hex of what a source holds, to key caches by: equal content gives equal keys wherever it lies.

    Encoded sources (paths, bytes, file objects, `data:` URLs) are hashed as their bytes; PIL images, arrays and tensors
    as the size and pixels of the RGB picture that `load_image` makes of them.
    """
    if isinstance(source, Image.Image) or _is_array(source):
        image = load_image(source)
        return hashlib.sha256(f"RGB {image.width}x{image.height} ".encode() + image.tobytes()).hexdigest()
    return hashlib.sha256(_read(source, _label(source), max_bytes, allow_url=False)).hexdigest()


# ---- getting the bytes


def _read(source: Any, label: str, max_bytes: int, allow_url: bool) -> bytes:
    """The encoded bytes of a source, at most `max_bytes` of them."""
    if isinstance(source, bytes | bytearray | memoryview):
        _check_bytes(memoryview(source).nbytes, label, max_bytes)
        return bytes(source)
    if isinstance(source, str):
        start = source[:8].lower()
        if start.startswith("data:"):
            return _read_data_url(source, label, max_bytes)
        if start.startswith(("http://", "https://")):
            if not allow_url:
                raise MediaError(f"{label}: addresses are not fetched; download it, or pass allow_url=True")
            return _fetch(source, label, max_bytes)
        if "://" in source[:32]:
            raise MediaError(f"{label}: only http, https and data URLs are known; give a file as its plain path")
    if isinstance(source, str | os.PathLike):
        return _read_path(source, label, max_bytes)
    if hasattr(source, "read"):
        return _read_file(source, label, max_bytes)
    raise MediaError(
        f"{label}: not an image source; give a path, bytes, a file object, a PIL image, an array or a data: URL"
    )


def _read_path(source: str | os.PathLike, label: str, max_bytes: int) -> bytes:
    try:
        path = Path(source)
        if not path.exists():
            raise MissingMediaError(f"{label}: no such file; check the path")
        if not path.is_file():  # a folder, or a pipe or device that might never end
            raise MediaError(f"{label}: not a regular file; give the path of one picture")
        with path.open("rb") as file:
            return _read_file(file, label, max_bytes)
    except MediaError:
        raise
    except (OSError, ValueError, TypeError) as error:  # no permission, a name too long, a zero byte, a path of bytes
        raise MediaError(f"{label}: cannot be read ({_reason(error)})") from error


def _read_file(file: Any, label: str, max_bytes: int) -> bytes:
    """Read from the current position; a seekable file is put back there."""
    try:
        start = file.tell() if hasattr(file, "seekable") and file.seekable() else None
        data = file.read(max_bytes + 1)
        if start is not None:
            file.seek(start)
    except (OSError, ValueError) as error:
        raise MediaError(f"{label}: cannot be read ({_reason(error)})") from error
    if not isinstance(data, bytes):
        raise MediaError(f"{label}: reading gives {type(data).__name__}, not bytes; open the file with mode 'rb'")
    _check_bytes(len(data), label, max_bytes)
    return data


def _read_data_url(source: str, label: str, max_bytes: int) -> bytes:
    header, comma, payload = source.partition(",")
    if not comma:
        raise MediaError(f"{label}: a data: URL needs a comma before its data")
    encoded = header.lower().endswith(";base64")
    _check_bytes(len(payload) * 3 // 4 - 2 if encoded else len(payload) // 3, label, max_bytes)  # at least so many
    data = unquote_to_bytes(payload)
    if encoded:
        try:
            data = base64.b64decode(b"".join(data.split()), validate=True)
        except ValueError as error:
            raise MediaError(f"{label}: its base64 is broken ({error}); encode the file again") from error
    _check_bytes(len(data), label, max_bytes)
    return data


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):  # noqa: PLR0913 - urllib's signature
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise urllib.error.URLError(f"redirected to {newurl[:80]!r}, which is not http(s)")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch(url: str, label: str, max_bytes: int) -> bytes:
    deadline = time.monotonic() + _FETCH_SECONDS
    data = bytearray()
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "mmlm"})
        with urllib.request.build_opener(_HttpOnly).open(request, timeout=_FETCH_SECONDS) as response:
            _check_bytes(int(response.headers.get("Content-Length") or 0), label, max_bytes)
            while chunk := response.read1(65536):  # read1: what has come, so that a slow drip meets the deadline
                data += chunk
                _check_bytes(len(data), label, max_bytes)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"longer than {_FETCH_SECONDS:.0f} s")
    except MediaError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise MediaError(f"{label}: cannot be fetched ({error}); check the address, or download it yourself") from error
    return bytes(data)


# ---- from bytes or values to RGB


def _decode(image: Image.Image, label: str, max_pixels: int) -> Image.Image:
    """A PIL image, perhaps not loaded yet → plain RGB, without metadata that could rotate it a second time."""
    _check_size(image.width, image.height, label, max_pixels)
    try:
        if tags := getattr(image, "tag_v2", None):  # a TIFF's tiles are decoded whole, however small its picture
            _check_pixels(tags.get(_TILE_WIDTH, 1), tags.get(_TILE_LENGTH, 1), label, max_pixels)
        image.load()
        rgb = _to_rgb(image, label)
        rgb = rgb.transpose(_UPRIGHT[turn]) if (turn := _orientation(image)) in _UPRIGHT else rgb
    except MediaError:
        raise
    except Exception as error:  # PIL's decoders raise many types on damaged data
        raise MediaError(f"{label}: truncated or damaged ({error}); get a whole copy of the file") from error
    rgb.info = {}
    return rgb


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken metadata around a good picture: show it as it is stored, as browsers do
        return 1


def _to_rgb(image: Image.Image, label: str) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        # PIL's own convert() clips these at 255.
        values = np.asarray(image)
        if image.mode == "I":  # 32-bit integers, which hold 16-bit greys
            if values.min() < 0 or values.max() > 65535:
                raise MediaError(f"{label}: 32-bit greys outside 0..65535; save it with 8 or 16 bits")
            values = values.astype(np.uint16)
        grey = _to_bytes(values, label)
        if isinstance(key := image.info.get("transparency"), int):
            grey = np.where(values == key, np.uint8(255), grey)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(rgba, mask=rgba)
        return canvas
    return image.convert("RGB")


def _is_array(source: Any) -> bool:
    return isinstance(source, np.ndarray) or _is_tensor(source)


def _is_tensor(source: Any) -> bool:
    return hasattr(source, "detach") and hasattr(source, "shape")  # torch, without importing it


def _from_array(source: Any, label: str, max_pixels: int) -> Image.Image:
    shape, channels = tuple(source.shape), (1, 3, 4)
    last, first = len(shape) == 3 and shape[2] in channels, len(shape) == 3 and shape[0] in channels
    if len(shape) != 2 and not last and not first:
        raise MediaError(f"{label}: give [H, W], [H, W, C] or [C, H, W] with C of 1, 3 or 4")
    channels_first = first and (_is_tensor(source) or not last)
    height, width = shape[1:] if channels_first else shape[:2]
    _check_size(width, height, label, max_pixels)
    if _is_tensor(source):
        source = source.detach().cpu()
        source = (source.float() if source.is_floating_point() else source).numpy()  # NumPy has no bfloat16
    values = _to_bytes(source, label)
    if channels_first:
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    return _to_rgb(Image.fromarray(np.ascontiguousarray(values)), label)


def _to_bytes(values: np.ndarray, label: str) -> np.ndarray:
    """uint8, uint16 (full range) or float (0..1) values → uint8, rounded to nearest."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return _FROM_16_BITS[values]
    if values.dtype.kind != "f":
        raise MediaError(f"{label}: values of type {values.dtype}; give uint8, uint16, or float in 0..1")
    low, high = values.min(), values.max()
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # written so that NaN fails
        raise MediaError(f"{label}: float values must lie in 0..1, these span {low}..{high}; scale them first")
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


# ---- limits and names


def _check_bytes(count: int, label: str, max_bytes: int) -> None:
    if count > max_bytes:
        raise MediaError(f"{label}: more than {max_bytes:,} bytes; give a smaller file or raise max_bytes")


def _check_pixels(width: int, height: int, label: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise MediaError(
            f"{label}: {width} x {height} pixels, more than {max_pixels:,}; scale it down or raise max_pixels"
        )


def _check_size(width: int, height: int, label: str, max_pixels: int) -> None:
    _check_pixels(width, height, label, max_pixels)
    if min(width, height) < 1:
        raise MediaError(f"{label}: {width} x {height} pixels, nothing to see")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise MediaError(f"{label}: {width} x {height} pixels, longer than {MAX_ASPECT_RATIO} to 1; crop it")


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)  # an OSError's own text repeats the whole path


def _label(source: Any) -> str:
    """How messages name a source: short, and without a data URL's data."""
    if isinstance(source, str | os.PathLike):
        text = os.fsdecode(source)
        return repr(text if len(text) <= 100 else text[:60] + "…" + (text[-30:] if text[:5] != "data:" else ""))
    if isinstance(source, Image.Image):
        return f"{source.format or 'PIL'} image"
    if isinstance(source, bytes | bytearray | memoryview):
        return f"{type(source).__name__} of length {len(source)}"
    if _is_array(source):
        return f"{type(source).__name__} {list(source.shape)} {source.dtype}"
    name = getattr(source, "name", None)  # of a file
    return type(source).__name__ + (f" {str(name)[:100]!r}" if name else "")
