"""Frames of videos: which, when, in what colours; what is no video; and what a model sees of one."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mmlm
from encoders.media import MediaError, Video, is_video, load_video
from mmlm.model.config import ResamplerConfig
from support import parts

av = pytest.importorskip("av", reason="videos are read by PyAV: pip install -e .[media]")

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
        (tmp_path / "text.mp4", "not a video"),
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
