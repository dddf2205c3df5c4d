"""Frames of videos: which, when, in what colours; what is no video; and what a model sees of one."""

import io
import struct
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import mmlm
from encoders.media import MediaError, Video, is_video, load_video
from encoders.media.container import decoded
from mmlm.model.config import ResamplerConfig
from support import parts

COLOURS = [(250, 20, 20), (20, 200, 20), (20, 20, 250), (240, 240, 20)]


def film(path: Path, seconds: int = 4, rate: int = 10, codec: str = "mpeg4", gop: int = 12) -> Path:
    """A second of each of the colours in turn."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", gop
        for index in range(seconds * rate):
            pixels = np.full((48, 64, 3), COLOURS[index // rate % 4], np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def colours(video: Video) -> list[int]:
    """Of each frame, which of the colours is nearest to its mean."""
    means = [np.asarray(frame, float).mean((0, 1)) for frame in video.frames]
    return [int(np.argmin([np.abs(mean - colour).sum() for colour in COLOURS])) for mean in means]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.webm"])
def test_frames_are_those_of_the_middles(tmp_path, name):
    path = film(tmp_path / name, codec="libvpx" if name == "a.webm" else "mpeg4")
    for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        video = load_video(source, num_frames=4)
        assert colours(video) == [0, 1, 2, 3]
        assert video.times == pytest.approx([0.5, 1.5, 2.5, 3.5], abs=0.11)
        assert all(frame.mode == "RGB" and frame.size == (64, 48) for frame in video.frames)
    assert colours(load_video(path, num_frames=8)) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert colours(load_video(path, num_frames=1)) == [2]


@pytest.mark.parametrize(("name", "codec"), [("a.ts", "mpeg2video"), ("a.mpg", "mpeg2video"), ("a.ts", "libx264")])
@pytest.mark.parametrize("gop", [12, 250])
def test_films_that_cannot_be_sought_are_read(tmp_path, name, codec, gop):
    """Broadcasts have no index: seeking lands behind the key frame."""
    video = load_video(film(tmp_path / name, rate=25, codec=codec, gop=gop), num_frames=8)
    assert colours(video) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert video.times == pytest.approx([0.25 + 0.5 * index for index in range(8)], abs=0.15)


def test_captions_that_begin_near_the_end_hide_no_picture(tmp_path):
    """FLV names its streams as they come: a text among the last pictures is a stream that nobody knew of."""
    with av.open(str(tmp_path / "a.flv"), "w") as container:
        pictures, sound = container.add_stream("flv1", rate=25), container.add_stream("aac", rate=16_000)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        for index in range(100):
            pixels = np.full((48, 64, 3), COLOURS[index // 25], np.uint8)
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux([*pictures.encode(None), *sound.encode(frame), *sound.encode(None)])
    data = (tmp_path / "a.flv").read_bytes()
    tags, at = [], 13  # behind the header: each tag is a type, the size of its data, and 8 bytes more
    while at < len(data):
        tags.append(at)
        at += 11 + int.from_bytes(data[at + 1 : at + 4], "big") + 4
    video = load_video(data[: tags[-2]] + bytes([18]) + data[tags[-2] + 1 :], num_frames=200)  # 18: text
    assert len(video.frames) >= 98 and colours(video) == sorted(colours(video))


def test_a_video_of_few_frames_gives_those_it_has(tmp_path):
    video = load_video(film(tmp_path / "a.mp4", seconds=1, rate=3), num_frames=8)
    assert len(video.frames) == 3 and list(video.times) == sorted(set(video.times))


def test_what_is_no_video_says_so(tmp_path):
    path = film(tmp_path / "a.mp4")
    data = path.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.mp4").write_text("this is no video, nor anything like one, but text")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    for source, reason in (
        (tmp_path / "cut.mp4", "truncated or damaged"),
        (tmp_path / "text.mp4", "not a sound file or video"),
        (tmp_path / "sound.mp4", "no video stream in it"),
        (tmp_path / "gone.mp4", "no such file"),
    ):
        with pytest.raises(MediaError, match=reason):
            load_video(source)
    with pytest.raises(MediaError, match="64 x 48 pixels"):
        load_video(path, max_pixels=1000)
    with pytest.raises(MediaError, match="longer than 3 s"):
        load_video(path, max_seconds=3)
    with pytest.raises(MediaError, match="more than 100 bytes"):
        load_video(path, max_bytes=100)
    with pytest.raises(ValueError, match="num_frames"):
        load_video(path, num_frames=0)
    assert is_video("a.MP4") and is_video(path) and not is_video("a.png") and not is_video(b"x.mp4")


def two_halves(path, left, right, **stream_options):
    """Pictures of 64 x 32, half one colour and half the other."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for name, value in stream_options.items():
            setattr(stream.codec_context, name, value)
        picture = np.zeros((32, 64, 3), np.uint8)
        picture[:, :32], picture[:, 32:] = left, right
        for _ in range(20):
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


ONE = 1 << 16  # in the matrix of a track header (ISO/IEC 14496-12, 8.3), whose last column has 1 as 1 << 30


@pytest.mark.parametrize(
    ("matrix", "size", "first", "last"),
    [
        ((0, ONE, 0, -ONE, 0, 0, 32 * ONE, 0, 1 << 30), (32, 64), "top", "bottom"),  # a phone held upright
        ((0, -ONE, 0, ONE, 0, 0, 0, 64 * ONE, 1 << 30), (32, 64), "bottom", "top"),  # upside down
        ((-ONE, 0, 0, 0, -ONE, 0, 64 * ONE, 32 * ONE, 1 << 30), (64, 32), "right", "left"),  # held the wrong way
        ((-ONE, 0, 0, 0, ONE, 0, 64 * ONE, 0, 1 << 30), (64, 32), "right", "left"),  # a mirrored camera
        ((0, ONE - 1, 0, 1 - ONE, 0, 0, 32 * ONE, 0, 1 << 30), (32, 64), "top", "bottom"),  # rounded
        (
            (7, 2 * ONE, 0, -2 * ONE, 7, 0, 64 * ONE, 0, 1 << 30),
            (32, 64),
            "top",
            "bottom",
        ),  # to be shown twice as large
    ],
)
def test_a_video_is_upright(tmp_path, matrix, size, first, last):
    data = bytearray(two_halves(tmp_path / "a.mp4", COLOURS[0], COLOURS[2]).read_bytes())
    at = data.find(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", *matrix)
    (frame,) = load_video(bytes(data), num_frames=1).frames
    places = {"top": (16, 4), "bottom": (16, 60), "left": (4, 16), "right": (60, 16)}
    assert frame.size == size
    assert np.abs(np.subtract(frame.getpixel(places[first]), COLOURS[0])).max() < 30
    assert np.abs(np.subtract(frame.getpixel(places[last]), COLOURS[2])).max() < 30


def test_pixels_are_square(tmp_path):
    path = two_halves(tmp_path / "a.mkv", COLOURS[0], COLOURS[2], sample_aspect_ratio=Fraction(2, 1))
    (frame,) = load_video(path, num_frames=1).frames
    assert frame.size == (128, 32)
    assert np.abs(np.subtract(frame.getpixel((120, 16)), COLOURS[2])).max() < 30


@pytest.mark.parametrize("said", [0.0, 1.0, 2.4, 40.0])
def test_a_length_that_is_missing_or_wrong_is_read_from_the_film(tmp_path, said):
    """The duration in a Matroska header: element 0x4489 with a float of 8 bytes, in milliseconds."""
    data = bytearray(film(tmp_path / "a.mkv").read_bytes())
    at = data.find(b"\x44\x89\x88") + 3
    assert struct.unpack(">d", data[at : at + 8])[0] == pytest.approx(4000)
    data[at : at + 8] = struct.pack(">d", said * 1000)
    video = load_video(bytes(data), num_frames=4)
    assert colours(video) == [0, 1, 2, 3]
    with pytest.raises(MediaError, match="longer than 3 s"):
        load_video(bytes(data), max_seconds=3)
    assert colours(load_video(bytes(data), num_frames=4, max_seconds=5)) == [0, 1, 2, 3]
    assert load_video(bytes(data), num_frames=1).times == pytest.approx([2.0], abs=0.11)


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "mpeg4"), ("a.avi", "rawvideo")])
def test_a_film_that_ends_in_the_middle_is_said(tmp_path, caplog, name, codec):
    data = film(tmp_path / name, codec=codec).read_bytes()
    assert colours(load_video(data, num_frames=4)) == [0, 1, 2, 3] and not caplog.text
    assert colours(load_video(data[: len(data) * 2 // 3], num_frames=4))[0] == 0
    assert "bytes are missing at its end; what is there is used" in caplog.text


@pytest.mark.parametrize(("name", "codec"), [("a.gif", "gif"), ("a.apng", "apng")])
def test_animations_are_films_where_films_are_asked_for(tmp_path, name, codec):
    path = tmp_path / name
    first, *rest = [Image.new("RGB", (64, 48), COLOURS[index // 10]) for index in range(40)]
    first.save(path, "GIF" if codec == "gif" else "PNG", save_all=True, append_images=rest, duration=100)
    video = load_video(path, num_frames=4)
    assert colours(video) == [0, 1, 2, 3]


def test_pictures_that_stay_as_they_are_are_no_damage(tmp_path):
    """Theora says so by packets without data, which FFmpeg refuses to decode."""
    with av.open(str(film(tmp_path / "a.mkv"))) as container:
        stream = container.streams.video[0]
        packets = []
        for packet in container.demux(stream):
            packets.append(packet)
            if packet.size:
                empty = av.Packet(0)
                empty.stream, empty.pts, empty.dts = stream, packet.pts, packet.dts
                packets.append(empty)
        found = list(decoded(SimpleNamespace(demux=lambda _: packets), stream, "film"))
    assert [type(one) for one in found] == [av.VideoFrame] * 40


def test_a_bad_packet_does_not_spoil_a_video(tmp_path):
    path = film(tmp_path / "a.avi", gop=5)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
    bad = next(packet for packet in packets[18:] if packet.is_keyframe)
    at = data.find(bytes(bad))
    data[at : at + bad.size] = bytes(bad.size)
    assert {0, 1, 3} <= set(colours(load_video(bytes(data), num_frames=4)))


def test_the_picture_of_an_album_is_no_film(tmp_path):
    png = io.BytesIO()
    Image.new("RGB", (64, 64)).save(png, "PNG")
    cover = b"\0image/png\0\3\0" + png.getvalue()
    size = bytes(len(cover) >> shift & 127 for shift in (21, 14, 7, 0))
    frame = b"APIC" + size + b"\0\0" + cover
    tag = b"ID3\4\0\0" + bytes(len(frame) >> shift & 127 for shift in (21, 14, 7, 0)) + frame
    sound = io.BytesIO()
    soundfile.write(sound, np.zeros(16_000, np.float32), 16_000, format="MP3")
    with pytest.raises(MediaError, match="no video stream"):
        load_video(tag + sound.getvalue())


def test_a_model_sees_the_frames_and_their_order(tmp_path):
    """One item of as many tokens as its frames have together; the latents change when the order in time does."""
    path = film(tmp_path / "clip.mp4")
    model = parts.build()
    config = ResamplerConfig(depth=1, num_latents=4, heads=2, dim_head=8, ff_mult=2, timed=True)
    model = mmlm.MultimodalLM(model.language_model, model.encoders["image"], config, parts.fusion())
    parts.open_gates(model)
    torch.nn.init.normal_(model.resamplers["image"].time.weight)
    encoder = model.encoders["image"]
    video = load_video(path)
    (features,) = model.encode_media([mmlm.Image(path)])
    apart = torch.cat([encoder.encode(encoder.preprocess(frame)[None]).tokens[0] for frame in video.frames])
    torch.testing.assert_close(features.tokens[0], apart, rtol=1e-4, atol=1e-5)
    assert features.times[0, ::16].tolist() == pytest.approx(list(video.times))

    with torch.no_grad():
        forward, backward, still = (
            model._resample(model.encode_media([Video(frames, video.times)]), ["image"])[0]
            for frames in (video.frames, video.frames[::-1], video.frames)
        )
    assert torch.equal(forward, still) and (forward - backward).abs().max() > 1e-3
    texts = model.caption([path, Image.new("RGB", (40, 40))], max_new_tokens=6)
    assert texts[0] == model.caption(path, max_new_tokens=6) == model.caption(str(path), max_new_tokens=6)
