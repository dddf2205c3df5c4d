"""Reading images: an image from any source → a checked, upright RGB image."""

import hashlib
import io
from typing import Any

import numpy as np
from PIL import Image

from encoders.media.arrays import is_tensor, plain_array
from encoders.media.source import MAX_BYTES, MediaError, check_limits, label_of, read_bytes

MAX_PIXELS = 64_000_000
# A strip of 1 x 64M pixels passes the pixel limit, but resizing its short side to 224 would give 3e12 pixels.
MAX_ASPECT_RATIO = 200
# The common formats. Left out are those that run a program (EPS), that cannot be recognised by their first bytes (TGA),
# or that contain images of another size than their header says (ICO, ICNS).
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # brands of files of the HEIF family

_ROUNDING = 1e-3  # how far the values of a float image may be outside 0..1
_FROM_16_BITS = ((np.arange(65536) * 255 + 32767) // 65535).astype(np.uint8)
_TILE_WIDTH, _TILE_LENGTH, _ORIENTATION = 322, 323, 274  # tags of TIFF and EXIF
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(
    source: Any,
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: float = MAX_BYTES,
    allow_url: bool = False,
    keep_alpha: bool = False,
) -> Image.Image:
    """Any image source → a decoded PIL image of mode RGB, which shares no memory with the source.

    source: a path, bytes, a binary file object, a PIL image, a `data:` URL, or a NumPy array or torch tensor: [H, W],
        [H, W, C] or [C, H, W] with C of 1, 3 or 4; uint8, uint16 or float in 0..1. If a shape fits both layouts, an
        array is taken as [H, W, C] and a tensor as [C, H, W].
    max_pixels, max_bytes: limits on the image and on the encoded file, checked before anything is decoded.
    allow_url: fetch http(s) addresses, from public machines alone, within 20 s.
    keep_alpha: a picture with transparent pixels becomes RGBA, as a mask needs it.
    Transparent pixels are blended with white, 16 bits are scaled to 8, EXIF rotation is applied, and of an animation
    the first frame is used.
    Raises MediaError (a ValueError); for a path that does not exist, MissingMediaError (also a FileNotFoundError); for
    a limit that is no number above 0, ValueError.
    """
    check_limits(max_pixels=max_pixels, max_bytes=max_bytes)
    label = label_of(source)
    if isinstance(source, Image.Image):
        return _decode(source, label, max_pixels, keep_alpha)
    if _is_array(source):
        return _from_array(source, label, max_pixels, keep_alpha)
    with _opened(read_bytes(source, label, max_bytes, allow_url), label) as image:
        return _decode(image, label, max_pixels, keep_alpha)


def pixels_of(data: bytes, label: str) -> int:
    """How many pixels an encoded image has by its header; MediaError for what is no image."""
    with _opened(data, label) as image:
        return image.width * image.height


def content_key(source: Any, *, max_bytes: float = MAX_BYTES) -> str:
    """SHA-256 in hex of a source's content, as a cache key: equal content has equal keys, wherever it is stored.

    Of encoded sources (paths, bytes, file objects, `data:` URLs) the bytes are hashed; of PIL images, arrays and
    tensors, the size and pixels of the RGB image that `load_image` makes of them.
    """
    if isinstance(source, Image.Image) or _is_array(source):
        image = load_image(source)
        return hashlib.sha256(f"RGB {image.width}x{image.height} ".encode() + image.tobytes()).hexdigest()
    return hashlib.sha256(read_bytes(source, label_of(source), max_bytes, allow_url=False)).hexdigest()


# ---- from bytes or values to RGB


def _opened(data: bytes, label: str) -> Image.Image:
    """An encoded image of which the header has been read; MediaError for what is none."""
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError(f"{label}: too many pixels, or a decompression bomb ({error}); scale it down") from error
    except Exception as error:  # PIL's plugins raise many types on broken headers
        if data[4:8] == b"ftyp" and data[8:12] in HEIF:
            raise MediaError(f"{label}: a HEIC photograph, as iPhones take; save it as JPEG and give that") from error
        what = "the source is empty" if not data else "not an image, or damaged"
        raise MediaError(f"{label}: {what}; give one of {', '.join(FORMATS)}") from error


def _decode(image: Image.Image, label: str, max_pixels: int, keep_alpha: bool) -> Image.Image:
    """A PIL image, perhaps not loaded yet → RGB or RGBA without metadata, which could rotate it a second time."""
    _check_size(image.width, image.height, label, max_pixels)
    try:
        if tags := getattr(image, "tag_v2", None):  # tiles of a TIFF are decoded whole, even if the image is smaller
            check_pixels(tags.get(_TILE_WIDTH, 1), tags.get(_TILE_LENGTH, 1), label, max_pixels)
        image.load()
        rgb = _to_rgb(image, label, keep_alpha)
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
    except Exception:  # broken metadata of a good image: use it as it is stored, as browsers do
        return 1


def _to_rgb(image: Image.Image, label: str, keep_alpha: bool) -> Image.Image:
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
        if keep_alpha:
            return rgba
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(rgba, mask=rgba)
        return canvas
    return image.convert("RGB")


def _is_array(source: Any) -> bool:
    return isinstance(source, np.ndarray) or is_tensor(source)


def _from_array(source: Any, label: str, max_pixels: int, keep_alpha: bool) -> Image.Image:
    shape, channels = list(source.shape), (1, 3, 4)
    last, first = len(shape) == 3 and shape[2] in channels, len(shape) == 3 and shape[0] in channels
    if len(shape) != 2 and not last and not first:
        raise MediaError(f"{label}: give [H, W], [H, W, C] or [C, H, W] with C of 1, 3 or 4")
    channels_first = first and (is_tensor(source) or not last)
    height, width = shape[1:] if channels_first else shape[:2]
    _check_size(width, height, label, max_pixels)
    values = _to_bytes(plain_array(source, label), label)
    if channels_first:
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    return _to_rgb(Image.fromarray(np.ascontiguousarray(values)), label, keep_alpha)


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
        raise MediaError(f"{label}: float values must lie in 0..1, these range from {low} to {high}; scale them first")
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


# ---- limits


def check_pixels(width: int, height: int, label: str, max_pixels: int) -> None:
    """MediaError for an image of more than `max_pixels` pixels."""
    if not width * height <= max_pixels:  # written so that NaN fails
        raise MediaError(
            f"{label}: {width} x {height} pixels, more than {max_pixels:,}; scale it down or raise max_pixels"
        )


def _check_size(width: int, height: int, label: str, max_pixels: int) -> None:
    check_pixels(width, height, label, max_pixels)
    if min(width, height) < 1:
        raise MediaError(f"{label}: {width} x {height} pixels: the image is empty")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise MediaError(f"{label}: {width} x {height} pixels, an aspect ratio above {MAX_ASPECT_RATIO} to 1; crop it")
