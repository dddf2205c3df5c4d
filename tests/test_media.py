"""load_image against hand-written tables and laws: what comes in right comes out right, the rest is refused by name."""

import base64
import contextlib
import gzip
import hashlib
import http.server
import importlib
import io
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from urllib.parse import quote_from_bytes

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageFile

from encoders.media import MediaError, MissingMediaError, content_key, load_image
from encoders.media.fetch import is_public

quick = settings(max_examples=60, deadline=None)
pictures = hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))


def encoded(image, format="PNG", **options) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def noise(height=20, width=30, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pixels(source, **options) -> np.ndarray:
    image = load_image(source, **options)
    assert type(image) is Image.Image and image.mode == "RGB" and image.info == {}
    return np.asarray(image)


def png(width, height, depth, colour, data, *chunks) -> bytes:
    """A PNG written by hand, from its specification."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*c) for c in chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


# ---- every kind of source


@quick
@given(pictures)
def test_every_source_gives_the_same_picture(tmp_path_factory, values):
    data = encoded(values)
    path = tmp_path_factory.getbasetemp() / "picture.png"
    path.write_bytes(data)
    channels_first = np.ascontiguousarray(values.transpose(2, 0, 1))
    sources = [
        str(path),
        path,
        data,
        bytearray(data),
        memoryview(data),
        io.BytesIO(data),
        Image.fromarray(values),
        Image.open(path),  # not loaded yet
        values,
        values[::-1][::-1],  # not contiguous
        torch.from_numpy(channels_first),
        torch.from_numpy(channels_first).float() / 255,
        (torch.from_numpy(channels_first).double() / 255).requires_grad_(),
        values.astype(np.uint16) * 257,
        values / 255,
        (values / 255).astype(np.float32),
        "data:image/png;base64," + base64.b64encode(data).decode(),
        "DATA:image/png;charset=x;BASE64," + base64.b64encode(data).decode().replace("+", "%2B"),
        "data:," + quote_from_bytes(data),
    ]
    for source in sources:
        assert np.array_equal(pixels(source), values), source
    with path.open("rb") as file:
        assert np.array_equal(pixels(file), values)
        assert np.array_equal(pixels(file), values)  # put back where it was
        assert content_key(file) == content_key(path)
    assert np.array_equal(pixels(load_image(data)), values)  # the result is a source too


def test_channels_first_and_grey_shapes():
    values = noise(8, 6)
    grey = values[..., 0]
    three = np.repeat(grey[..., None], 3, 2)
    for source in (grey, grey[..., None], grey[None], torch.from_numpy(grey), torch.from_numpy(grey)[None]):
        assert np.array_equal(pixels(source), three)
    assert np.array_equal(pixels(values.transpose(2, 0, 1)), values)
    assert np.array_equal(pixels(torch.from_numpy(values)), values)
    # Shapes that read both ways: an array is HWC, a tensor CHW.
    both = noise(3, 5)
    assert np.array_equal(pixels(both), both)
    assert np.array_equal(pixels(torch.from_numpy(noise(5, 3).transpose(2, 0, 1).copy())), noise(5, 3))


def test_the_result_shares_nothing_with_its_source():
    for source in (noise(), noise()[..., 0].copy(), Image.fromarray(noise()), torch.from_numpy(noise())):
        image = load_image(source)
        before = np.array(image)
        if isinstance(source, Image.Image):
            source.paste("black", (0, 0, *source.size))
        else:
            source[:] = 0
        assert np.array_equal(np.asarray(image), before)


# ---- depths and modes


@pytest.mark.parametrize(
    ("deep", "shallow"),
    [(0, 0), (1, 0), (128, 0), (129, 1), (257, 1), (385, 1), (386, 2), (32767, 127), (32768, 128), (65406, 254)]
    + [(65407, 255), (65535, 255)],
)
def test_sixteen_bits_are_scaled_not_clipped(deep, shallow):
    values = np.full((2, 3), deep, np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    sources = [
        values,
        values.astype(">u2"),
        torch.from_numpy(values),
        png(3, 2, 16, 0, zlib.compress(rows)),
        encoded(values),
        encoded(values, "TIFF"),
        Image.fromarray(values),
        Image.fromarray(values.astype(np.int32)),
        b"P5 3 2 65535\n" + values.astype(">u2").tobytes(),
    ]
    for source in sources:
        assert np.array_equal(pixels(source), np.full((2, 3, 3), shallow)), source


def test_sixteen_bit_colour_png():
    values = np.random.default_rng(0).integers(0, 65536, (4, 5, 3))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    got = pixels(png(5, 4, 16, 2, zlib.compress(rows)))
    assert np.abs(got - values / 257).max() <= 1  # PIL keeps the high byte


def test_sixteen_bit_grey_with_a_transparent_grey():
    rows = b"".join(b"\0" + struct.pack(">HH", 1000, 40000) for _ in range(2))
    got = pixels(png(2, 2, 16, 0, zlib.compress(rows), (b"tRNS", struct.pack(">H", 1000))))
    assert np.array_equal(got[..., 0], [[255, 156], [255, 156]])


@quick
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(4))))
def test_transparency_is_laid_on_white(values):
    alpha = values[..., 3:] / 255
    expected = values[..., :3] * alpha + 255 * (1 - alpha)
    rgba = Image.fromarray(values)
    sources = [values, torch.from_numpy(values.transpose(2, 0, 1).copy()), rgba, encoded(rgba)]
    for source in [*sources, encoded(rgba, "WEBP", lossless=True, exact=True), encoded(rgba, "TIFF")]:
        assert np.abs(pixels(source) - expected).max() <= 0.51
    grey = Image.fromarray(values).convert("LA")
    level, alpha = (np.asarray(grey)[..., i].astype(float) for i in (0, 1))
    expected = level * alpha / 255 + 255 - alpha
    assert np.abs(pixels(encoded(grey)) - expected[..., None]).max() <= 0.51


def test_palettes():
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 200, 100, 50, 1, 2, 3])
    image.putdata([0, 1, 2])
    expected = [[[10, 20, 30], [200, 100, 50], [1, 2, 3]]]
    for source in (image, encoded(image), encoded(image, "GIF"), encoded(image, "TIFF")):
        assert pixels(source).tolist() == expected
    expected[0][1] = [255, 255, 255]
    for format in ("PNG", "GIF"):
        assert pixels(encoded(image, format, transparency=1)).tolist() == expected
    half = encoded(image, transparency=bytes([255, 128, 255]))  # an alpha for each entry
    assert np.abs(pixels(half)[0, 1] - (np.array([200, 100, 50]) * 128 + 255 * 127) / 255).max() <= 0.51


def test_cmyk_bilevel_and_grey_with_key():
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    for source in (ink, encoded(ink, "TIFF"), encoded(ink, "JPEG", quality=100)):
        assert np.abs(pixels(source).astype(int) - [255, 0, 0]).max() <= 3
    assert pixels(Image.new("1", (2, 2), 1)).min() == 255
    grey = Image.new("L", (1, 1), 7)
    assert pixels(encoded(grey, transparency=7)).tolist() == [[[255] * 3]]
    assert pixels(encoded(grey, transparency=8)).tolist() == [[[7] * 3]]


def test_float_tiff_is_read_as_0_to_1():
    values = np.array([[0, 0.5, 1]], np.float32)
    assert pixels(encoded(values, "TIFF"))[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(MediaError, match="0..1"):
        load_image(encoded(values * 255, "TIFF"))


# ---- rotation and frames

LETTERS = np.array([[1, 2, 3], [4, 5, 6]], np.uint8) * 40  # stored; what each orientation means, by the EXIF standard:
UPRIGHT = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_exif_orientation(orientation, format):
    exif = Image.Exif()
    exif[274] = orientation
    big = np.kron(LETTERS, np.ones((16, 16), np.uint8))  # blocks that JPEG keeps
    data = encoded(Image.fromarray(big).convert("RGB"), format, exif=exif)
    expected = np.kron(np.array(UPRIGHT[orientation]) * 40, np.ones((16, 16)))[..., None]
    for source in (data, Image.open(io.BytesIO(data)), load_image(data)):  # once, not once more for the result
        got = pixels(source)
        assert got.shape[:2] == expected.shape[:2]
        assert np.abs(got - expected).max() <= (4 if format in ("JPEG", "WEBP") else 0)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_unknown_orientations_and_broken_exif_leave_the_picture(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    assert np.array_equal(pixels(encoded(noise(), exif=exif)), noise())
    assert np.array_equal(pixels(encoded(noise(), exif=b"Exif\0\0garbage")), noise())


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_give_their_first_frame(format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert np.array_equal(pixels(data), np.full((8, 8, 3), [255, 0, 0]))


# ---- limits


@pytest.fixture
def no_decoding(monkeypatch):
    def fail(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)


@pytest.mark.parametrize("side", [8001, 9800, 13000, 100_000, 2**31 - 1])  # PIL: silent, warns, warns, refuses, refuses
@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "PPM"])
def test_bombs_are_refused_by_their_header(side, kind, no_decoding, recwarn):
    if kind == "GIF":
        side = min(side, 65535)
    data = {
        "PNG": lambda: png(side, side, 8, 2, b""),
        "GIF": lambda: b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0) + b"," + bytes(9) + b"\x02\0;",
        "BMP": lambda: b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0),
        "PPM": lambda: b"P6 %d %d 255\n" % (side, side),
    }[kind]()
    assert len(data) < 100
    with pytest.raises(MediaError, match="pixels"):
        load_image(data)
    with pytest.raises(MediaError, match="pixels|damaged"):
        load_image(Image.open(io.BytesIO(data))) if side < 13000 else load_image(data)


def test_pixel_limit_is_inclusive_and_can_be_set():
    data = encoded(noise(10, 20))
    assert load_image(data, max_pixels=200).size == (20, 10)
    for source in (data, noise(10, 20), Image.fromarray(noise(10, 20)), torch.from_numpy(noise(10, 20))):
        with pytest.raises(MediaError, match="20 x 10 pixels, more than 199"):
            load_image(source, max_pixels=199)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support|The PyTorch API of nested tensors")
def test_arrays_that_hold_no_picture_are_refused_in_words():
    flat = torch.rand(20, 30)
    for refused, reason in (
        (torch.nested.nested_tensor([flat, flat]), "nested tensor holds several; give each by itself, of unbind"),
        (torch.nested.nested_tensor([flat, flat], layout=torch.jagged), "nested tensor holds several"),
        (flat.to("meta"), "meta device holds no values"),
        *((layout, "give a dense one") for layout in (flat.to_sparse(), flat.to_sparse_csr(), flat.to_sparse_csc())),
        (torch.quantize_per_tensor(flat, 0.1, 0, torch.quint8), "give a dense one"),
        (np.zeros((20, 30), dtype=[("r", "u1"), ("g", "u1")]), "values of type"),
        (np.full((20, 30), None, object), "values of type object"),
        *((one, r"give \[H, W\]") for one in (np.array(0.5), torch.tensor(0.5), np.array(object()))),
        (np.float32(0.5), "not a media source"),
        (type("Tensor", (), {"shape": (20, 30), "dtype": "f4", "detach": list})(), "not a media source"),
    ):
        for read in (load_image, content_key):
            with pytest.raises(MediaError, match=reason):
                read(refused)


def test_giant_arrays_are_refused_before_they_are_copied():
    for kind in (np.uint8, np.uint16, np.float64):
        with pytest.raises(MediaError, match="pixels"):
            load_image(np.broadcast_to(kind(0), (10**6, 10**6, 3)))
    with pytest.raises(MediaError, match="pixels"):
        load_image(torch.zeros(1).expand(3, 10**6, 10**6))


def test_a_small_tiff_of_giant_tiles_is_refused(no_decoding):
    """16 x 16 pixels whose one tile is 20000 x 20000: libtiff would unpack all 400 MB."""
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: 20000, 323: 20000, 324: 8, 325: 20}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(40)
    assert Image.open(io.BytesIO(data)).size == (16, 16)
    with pytest.raises(MediaError, match="20000 x 20000"):
        load_image(data)


def test_ribbons_are_refused():
    """Resizing the short side of a ribbon to 224 would multiply its pixels."""
    assert load_image(noise(1, 200)).size == (200, 1)
    for source in (noise(1, 201), noise(201, 1), encoded(noise(1, 201))):
        with pytest.raises(MediaError, match="to 1"):
            load_image(source)


def test_byte_limit(tmp_path):
    data = encoded(noise())
    path = tmp_path / "a.png"
    path.write_bytes(data)
    url = "data:;base64," + base64.b64encode(data).decode()

    class Endless(io.RawIOBase):
        def read(self, size=-1):
            assert 0 <= size <= 10**6
            return bytes(size)

    for source in (data, path, str(path), io.BytesIO(data), url, "data:," + quote_from_bytes(data)):
        assert load_image(source, max_bytes=len(data)).size == (30, 20)
        with pytest.raises(MediaError, match="bytes"):
            load_image(source, max_bytes=len(data) - 1)
        with pytest.raises(MediaError, match="bytes"):
            content_key(source, max_bytes=len(data) - 1)
    with pytest.raises(MediaError, match="bytes"):
        load_image(Endless(), max_bytes=1000)


# ---- damage


FILES = {
    "PNG": encoded(noise()),
    "JPEG": encoded(noise(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"),
    "progressive JPEG": encoded(noise(), "JPEG", progressive=True),
    "GIF": encoded(noise(), "GIF"),
    "WEBP": encoded(noise(), "WEBP"),
    "lossless WEBP": encoded(noise(), "WEBP", lossless=True),
    "BMP": encoded(noise(), "BMP"),
    "PPM": encoded(noise(), "PPM"),
    "TIFF": encoded(noise(), "TIFF"),
    "LZW TIFF": encoded(noise(), "TIFF", compression="tiff_lzw"),
    "AVIF": encoded(noise(), "AVIF"),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")  # its tags are damaged on purpose
@pytest.mark.parametrize("name", FILES)
def test_truncated_files_are_refused(name):
    """Cut anywhere, a file is refused, unless what is missing was no part of the picture (an end mark, metadata)."""
    data = FILES[name]
    whole = pixels(data)
    complete = 0
    for length in sorted({0, 1, 2, *range(0, len(data), 1 + len(data) // 60), *range(len(data) - 30, len(data))}):
        try:
            assert np.array_equal(pixels(data[:length]), whole), length
            complete += 1
        except MediaError:
            pass
    assert complete <= 20  # PNG: the end chunk (12 bytes) and two checksums


def test_a_picture_that_was_opened_but_not_loaded_may_be_truncated():
    data = encoded(noise())[:600]
    for source in (data, Image.open(io.BytesIO(data))):
        with pytest.raises(MediaError, match="truncated.*whole copy"):
            load_image(source)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")  # its tags are damaged on purpose
@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(FILES)),
    st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=6)), max_size=6),
    st.integers(0, 400),
)
def test_damaged_files_give_a_picture_or_media_error(name, patches, cut):
    data = bytearray(FILES[name])
    for place, patch in patches:
        place %= min(len(data), 600)  # mostly the headers
        data[place : place + len(patch)] = patch
    data = bytes(data[: len(data) - cut])
    try:
        assert pixels(data, max_pixels=10**6).size <= 3 * 10**6
    except MediaError as error:
        assert "bytes of length" in str(error)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")  # its tags are damaged on purpose
@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0", b"P6 ", b"RIFF"]),
    st.binary(),
)
def test_random_bytes_give_a_picture_or_media_error(magic, rest):
    with contextlib.suppress(MediaError):
        pixels(magic + rest, max_pixels=10**6)


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.text(), st.text().map("data:".__add__), st.text().map("data:;base64,".__add__)))
def test_any_text_gives_media_error(text):
    with pytest.raises(MediaError):
        load_image(text)


def test_a_program_in_postscript_is_no_image():
    with pytest.raises(MediaError, match="not an image"):
        load_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")


# ---- refusals


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "not a media source"),
        (3, "not a media source"),
        ([[1, 2]], "not a media source"),
        (b"", "empty"),
        (b"hello", "not an image"),
        (io.StringIO("text"), "mode 'rb'"),
        ("", "not a regular file"),
        ("/", "not a regular file"),
        ("a\0b", "no such file"),
        ("x" * 5000, "cannot be read"),
        ("file:///etc/hostname", "plain path"),
        ("FILE:///etc/hostname", "plain path"),
        ("ftp://localhost/a.png", "plain path"),
        ("http://localhost/a.png", "allow_url"),
        ("HTTPS://localhost/a.png", "allow_url"),
        ("data:image/png;base64", "comma"),
        ("data:image/png;base64,@@@@", "base64 is broken"),
        ("data:image/png;base64,iVBOR", "base64 is broken"),
        ("data:text/html,<b>hello</b>", "not an image"),
        (np.zeros(5, np.uint8), "H, W"),
        (np.zeros((2, 2, 2), np.uint8), "H, W"),
        (np.zeros((1, 2, 2, 3), np.uint8), "H, W"),
        (np.zeros((5, 5, 7), np.uint8), "H, W"),
        (np.zeros((0, 5, 3), np.uint8), "the image is empty"),
        (np.zeros((2, 2), np.int64), "int64"),
        (np.zeros((2, 2), bool), "bool"),
        (np.zeros((2, 2), complex), "complex"),
        (np.array([["a"]]), "U1"),
        (np.full((2, 2), np.nan), "0..1"),
        (np.array([[0, np.nan]], np.float32), "0..1"),
        (np.array([[0, np.inf]]), "0..1"),
        (np.array([[0, 255.0]]), "0..1"),
        (np.array([[-0.1, 0]]), "0..1"),
        (torch.full((3, 2, 2), float("nan")), "0..1"),
        (torch.zeros(3, 2, 2, dtype=torch.int32), "int32"),
        (torch.zeros(3, 2, 2).to_sparse(), "give a dense one"),
        (np.ma.array(np.zeros((2, 2), np.uint8), mask=[[0, 1], [0, 0]]), "masked"),
        (Image.new("RGB", (0, 3)), "the image is empty"),
        (Image.fromarray(np.array([[0, 70000]], np.int32)), "0..65535"),
    ],
)
def test_refusals_say_why(source, message):
    with pytest.raises(MediaError, match=message) as caught:
        load_image(source)
    assert isinstance(caught.value, ValueError) and len(str(caught.value)) < 400


def test_floats_may_round_a_little_beyond_their_range():
    assert pixels(np.array([[-1e-6, 1 + 1e-6]], np.float32))[0, :, 0].tolist() == [0, 255]
    assert pixels(torch.tensor([[0.5]], dtype=torch.bfloat16))[0, 0, 0] == 128


def test_a_missing_file_is_a_file_not_found_error(tmp_path):
    for name in ("no-such.png", "http", "data", "no/such/folder.png"):
        for source in (tmp_path / name, str(tmp_path / name)):
            with pytest.raises(FileNotFoundError, match=name) as caught:
                load_image(source)
            assert isinstance(caught.value, MissingMediaError) and isinstance(caught.value, MediaError)


def test_names_that_look_like_schemes_are_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("data", "http", "https"):
        Path(name).write_bytes(encoded(noise()))
        assert np.array_equal(pixels(name), noise())


def test_long_sources_are_named_shortly():
    with pytest.raises(MediaError) as caught:
        load_image("data:image/png;base64," + "QUJD" * 10000)
    assert len(str(caught.value)) < 300 and "'data:image/png" in str(caught.value)


# ---- imports


@pytest.mark.parametrize(
    ("room", "heavy"),
    [
        ("encoders.media", "torch whisper open_clip av soundfile soxr"),
        ("encoders.clip", "whisper av soundfile soxr"),
        ("decoders.codecs", "torch diffusers vector_quantize_pytorch"),
        ("decoders.codecs.base", "diffusers transformers vector_quantize_pytorch decoders.codecs.pretrained"),
        ("decoders.codecs.checkpoint", "diffusers transformers vector_quantize_pytorch decoders.codecs.pretrained"),
    ],
)
def test_a_room_imports_no_library_that_it_can_do_without(room, heavy):
    script = f"import sys, {room}; print([name for name in {heavy.split()} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "room", ["encoders.media", "encoders.transcription", "decoders.codecs", "decoders.codecs.pretrained",
             "decoders.diffusion"]
)  # fmt: skip
def test_every_exported_name_is_there(room):
    module = importlib.import_module(room)
    assert all(hasattr(module, name) for name in module.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


# ---- content keys


@quick
@given(pictures, st.integers(0, 2), st.integers(1, 255))
def test_content_key(values, channel, change):
    data = encoded(values)
    assert content_key(data) == hashlib.sha256(data).hexdigest()
    assert content_key("data:;base64," + base64.b64encode(data).decode()) == content_key(io.BytesIO(data))
    key = content_key(values)
    assert (
        key == content_key(Image.fromarray(values)) == content_key(torch.from_numpy(values.transpose(2, 0, 1).copy()))
    )
    other = values.copy()
    other[-1, -1, channel] ^= np.uint8(change)
    assert content_key(other) != key and content_key(encoded(other)) != content_key(data)
    if values.shape[0] != values.shape[1]:
        assert content_key(values.reshape(values.shape[1], values.shape[0], 3)) != key


def test_content_key_sees_the_palette():
    images = []
    for colour in (10, 20):
        image = Image.new("P", (2, 2))
        image.putpalette([colour] * 3)
        images.append(image)
    assert images[0].tobytes() == images[1].tobytes() and content_key(images[0]) != content_key(images[1])


@pytest.mark.parametrize("source", ["no-such.png", "http://localhost/a.png", None, np.zeros(3)])
def test_content_key_refuses_what_load_image_refuses(source):
    with pytest.raises(MediaError):
        content_key(source)


# ---- addresses


@pytest.fixture
def server(monkeypatch):
    """A small site on this machine, which counts as public; `server.hits` lists what was asked for."""
    monkeypatch.setattr("encoders.media.fetch.is_public", lambda address: address == "127.0.0.1")
    data = encoded(noise())

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            if self.path.startswith("/to?"):
                self.send_response(302)
                self.send_header("Location", self.path[4:])
                self.end_headers()
            elif self.path == "/drip":
                self.send_response(200)
                self.end_headers()
                for _ in range(40):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            elif self.path == "/headers":
                for _ in range(80):
                    self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    time.sleep(0.05)
            elif self.path == "/endless":
                self.send_response(200)
                self.end_headers()
                for _ in range(10000):
                    self.wfile.write(bytes(1000))
            elif self.path == "/short":
                self.send_response(200)
                self.send_header("Content-Length", str(len(data) + 50))
                self.end_headers()
                self.wfile.write(data[:100])
            elif self.path == "/a.png":
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            else:
                self.send_error(404)

        def log_message(self, *_):
            pass

        def handle(self):
            with contextlib.suppress(ConnectionError):  # the client hung up, as it should
                super().handle()

    hits = []
    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.daemon_threads = True
    site.hits, site.url = hits, f"http://127.0.0.1:{site.server_port}"
    threading.Thread(target=site.serve_forever, args=(0.01,), daemon=True).start()
    yield site
    site.shutdown()
    site.server_close()


def test_an_address_is_fetched_only_when_asked(server):
    with pytest.raises(MediaError, match="allow_url"):
        load_image(server.url + "/a.png")
    assert server.hits == []
    assert np.array_equal(pixels(server.url + "/a.png", allow_url=True), noise())
    assert np.array_equal(pixels(server.url + "/to?/a.png", allow_url=True), noise())


def test_redirects_to_other_schemes_are_refused(server, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(noise()))
    for target in (path.as_uri(), "data:,x"):
        with pytest.raises(MediaError, match="cannot be fetched"):
            load_image(server.url + "/to?" + target, allow_url=True)
    with pytest.raises(MediaError, match="not http"):  # urllib alone would follow this one
        load_image(server.url + "/to?ftp://127.0.0.1/a.png", allow_url=True)


def test_fetching_is_limited(server, monkeypatch):
    with pytest.raises(MediaError, match="bytes"):
        load_image(server.url + "/a.png", allow_url=True, max_bytes=100)
    with pytest.raises(MediaError, match="bytes"):
        load_image(server.url + "/endless", allow_url=True, max_bytes=100_000)
    with pytest.raises(MediaError, match="404"):
        load_image(server.url + "/gone", allow_url=True)
    with pytest.raises(MediaError, match="cannot be fetched|truncated|damaged"):
        load_image(server.url + "/short", allow_url=True)
    monkeypatch.setattr("encoders.media.source._FETCH_SECONDS", 0.2)
    with pytest.raises(MediaError, match="longer than"):
        load_image(server.url + "/drip", allow_url=True)
    with pytest.raises(MediaError, match="longer than"):  # nor may headers come for ever
        load_image(server.url + "/headers", allow_url=True)
    server.shutdown()
    server.server_close()
    with pytest.raises(MediaError, match="cannot be fetched"):
        load_image(server.url + "/a.png", allow_url=True)


# By the registries of special addresses of IANA (RFC 6890, 6598, 5737, 3849, 3056, 6052, 4380, 4291).
NOT_PUBLIC = (
    "127.0.0.1 127.9.9.9 0.0.0.0 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1 192.0.2.1 "
    "198.18.0.1 224.0.0.1 240.0.0.1 255.255.255.255 :: ::1 fe80::1 fe80::1%eth0 fc00::1 fd12::1 ff02::1 2001:db8::1 "
    "::ffff:127.0.0.1 ::ffff:10.0.0.1 2002:7f00:1:: 2002:c0a8:101:: 64:ff9b::10.0.0.1 64:ff9b::7f00:1"
).split()
PUBLIC = "1.1.1.1 8.8.8.8 172.15.0.1 172.32.0.1 100.128.0.1 2606:4700::1111 ::ffff:8.8.8.8 64:ff9b::8.8.8.8".split()


def test_which_addresses_are_of_the_internet():
    assert [address for address in NOT_PUBLIC if is_public(address)] == []
    assert [address for address in PUBLIC if not is_public(address)] == []


def test_addresses_inside_a_network_are_refused(server, monkeypatch):
    inside = "http://{}:" + server.url.rpartition(":")[2] + "/a.png"
    with pytest.raises(MediaError, match="only public addresses"):
        load_image(server.url + "/to?" + inside.format("127.0.0.2"), allow_url=True)
    assert server.hits == ["/to?" + inside.format("127.0.0.2")]
    monkeypatch.setattr("encoders.media.fetch.is_public", is_public)
    for host in ("127.0.0.1", "localhost", "[::1]", "0", "2130706433", "0x7f.1", "10.0.0.1", "169.254.169.254"):
        with pytest.raises(MediaError, match="only public addresses|cannot be fetched"):
            load_image(inside.format(host), allow_url=True)
    assert len(server.hits) == 1


def test_the_address_that_is_connected_to_is_what_counts(server, monkeypatch):
    """A name that has a public address when it is first asked for, and one of this machine after that."""
    asked = []

    def resolve(host, port, **_):
        asked.append(host)
        address = "8.8.8.8" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr("encoders.media.fetch.is_public", is_public)
    monkeypatch.setattr("socket.getaddrinfo", resolve)
    tried = []
    monkeypatch.setattr("socket.socket.connect", lambda self, place: tried.append(place[0]) or self.close())
    for _ in range(2):
        with pytest.raises(MediaError):
            load_image("http://example.invalid/a.png", allow_url=True)
    assert tried == ["8.8.8.8"]
    assert asked == ["example.invalid"] * 2, "a name is asked for once a connection"


def test_a_name_that_nobody_answers_for_ends_at_the_deadline(monkeypatch):
    forever = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: forever.wait(5))
    monkeypatch.setattr("encoders.media.source._FETCH_SECONDS", 0.1)
    with pytest.raises(MediaError, match="longer than"):
        load_image("http://example.invalid/a.png", allow_url=True)
    forever.set()


ADDRESSES = [
    "http://", "http://[", "http://exa mple/", "http://:x/", "https://\n", "http:///a.png", "http://:80/a.png",
    "http://host:99999999999999999999/a.png", "http://host:65536/", "http://host:-1/", "http://host:0/",
    "http://host:\u0661/", "http://host\0/a.png", "http://ho\rst/", "http://me:secret@host/", "http://@host/",
    "http://[::1/", "http://[::1]x/", "http://[v9.a]/", "http://" + "a." * 10_000, "http://" + "a" * 64 + ".invalid/",
    "http://..invalid/", "http://\ud800/", "http://host\uff20elsewhere/", "http://host\\@elsewhere/",
]  # fmt: skip


@pytest.mark.parametrize("url", ADDRESSES, ids=ascii)
def test_addresses_that_are_none_are_refused_at_once(url, monkeypatch):
    """Nobody is asked for the address of a name, nor waited for."""

    def resolve(host, port, **_):
        # As the system's resolver does it: a label that is none, or a port beyond a C integer
        host.encode("idna")
        struct.pack("q", port)
        raise AssertionError(f"{host}:{port} was looked up")

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    monkeypatch.setattr("encoders.media.source._FETCH_SECONDS", 1000)  # a test that waits this long has failed
    with pytest.raises(MediaError, match="cannot be fetched"):
        load_image(url, allow_url=True)


def test_an_error_of_the_resolver_ends_the_wait(monkeypatch):
    def resolve(*_, **__):
        raise OverflowError("Python int too large to convert to C long")

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    monkeypatch.setattr("encoders.media.source._FETCH_SECONDS", 1000)
    with pytest.raises(MediaError, match="cannot be fetched"):
        load_image("http://host/", allow_url=True)


ANSWERS = {
    "nothing": b"",
    "no HTTP": b"220 ftp ready\r\n",
    "no status": b"HTTP/1.1 9999999999 OK\r\n\r\n",
    "a header without an end": b"HTTP/1.1 200 OK\r\nA: " + b"a" * 200_000,
    "headers without an end": b"HTTP/1.1 200 OK\r\n" + b"A: a\r\n" * 50_000,
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    "a length of 5000 digits": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 99999999999\r\n\r\nabc",
    "a chunk of no size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
    "a chunk of negative size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n0\r\n\r\n",
    "a chunk of 2^70": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 18 + b"\r\nabc",
    "a chunk's line without an end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 200_000,
    "a gzip bomb": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(10**8)),
    "a redirect to nowhere": b"HTTP/1.1 302 Found\r\n\r\n",
    "a redirect to itself": b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n",
    "a redirect to a port that is none": b"HTTP/1.1 302 Found\r\nLocation: http://host:99999999999/\r\n\r\n",
    "a redirect to a file": b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n",
    "a redirect of no characters": b"HTTP/1.1 302 Found\r\nLocation: http://\xff\xfe/\r\n\r\n",
    "an early end": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_whatever_a_server_answers_is_a_plain_error(answer, monkeypatch):
    monkeypatch.setattr("encoders.media.fetch.is_public", lambda address: address == "127.0.0.1")
    asked = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            asked.append(self.request.recv(65536))
            with contextlib.suppress(ConnectionError):
                self.request.sendall(ANSWERS[answer])

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as site:
        site.daemon_threads, site.block_on_close = True, False
        threading.Thread(target=site.serve_forever, args=(0.01,), daemon=True).start()
        with pytest.raises(MediaError, match="cannot be fetched|cannot be decoded|not an image|truncated|damaged"):
            load_image(f"http://127.0.0.1:{site.server_address[1]}/", allow_url=True, max_bytes=10**6)
        site.shutdown()
    assert 0 < len(asked) < 20  # it is not asked for ever
