"""Reading sound (encoders/media/sound.py): every way in gives the same samples, every bad one a reason."""

import base64
import contextlib
import io
import re
import struct
import tracemalloc
import wave

import av
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.media import SAMPLE_RATE, Audio, MediaError, MissingMediaError, audio_key, load_audio, open_audio


def tone(seconds=1.0, rate=SAMPLE_RATE, hertz=440.0, level=0.4):
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def wav(samples, rate=SAMPLE_RATE):
    """16-bit WAV by the standard library; `samples` [T] or [T, C] in -1..1."""
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
    return data.getvalue()


def encoded(samples, rate=SAMPLE_RATE, format="WAV", subtype=None):
    data = io.BytesIO()
    soundfile.write(data, samples, rate, format=format, subtype=subtype)
    return data.getvalue()


def contained(samples, rate, format, codec):
    """Mono sound in a container that libsndfile does not know, by PyAV."""
    data = io.BytesIO()
    with av.open(data, "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=rate,
                                      frame_size=stream.codec_context.frame_size or 1024)  # fmt: skip
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return data.getvalue()


def loudness(samples, hertz, rate=SAMPLE_RATE):
    """Amplitude of one frequency, by its Fourier sum."""
    turns = np.exp(-2j * np.pi * hertz * np.arange(len(samples)) / rate)
    return 2 * abs((samples * turns).mean())


def test_every_way_in_gives_the_same_samples(tmp_path):
    samples, data = tone(), wav(tone())
    path = tmp_path / "tone.wav"
    path.write_bytes(data)
    expected = np.rint(samples * 32767) / 32768
    url = "data:audio/wav;base64," + base64.b64encode(data).decode()
    for source in (path, str(path), data, io.BytesIO(data), url, Audio(expected.astype(np.float32), SAMPLE_RATE),
                   (expected, SAMPLE_RATE), (torch.from_numpy(expected), SAMPLE_RATE)):  # fmt: skip
        audio = load_audio(source)
        assert audio.sample_rate == SAMPLE_RATE and audio.waveform.dtype == np.float32 and audio.seconds == 1.0
        np.testing.assert_allclose(audio.waveform, expected, atol=1e-6)
    with path.open("rb") as file:
        np.testing.assert_allclose(load_audio(file).waveform, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("format", "subtype", "tolerance"),
    [("FLAC", None, 1e-4), ("AIFF", None, 1e-4), ("MP3", None, 0.03), ("OGG", "VORBIS", 0.05), ("OGG", "OPUS", 0.05)],
)
def test_formats_of_libsndfile(format, subtype, tolerance):
    got = load_audio(encoded(tone(), format=format, subtype=subtype)).waveform
    assert abs(len(got) - SAMPLE_RATE) <= 128  # half a block of Vorbis, which FFmpeg may leave at the end
    assert abs(got[2000:12_000] - tone()[2000:12_000]).max() < tolerance


@pytest.mark.parametrize(("format", "codec"), [("mp4", "aac"), ("adts", "aac"), ("webm", "libopus")])
def test_formats_of_ffmpeg(format, codec):
    got = load_audio(contained(tone(2.0, 48_000), 48_000, format, codec)).waveform
    assert abs(len(got) - 2 * SAMPLE_RATE) < 0.1 * SAMPLE_RATE
    assert loudness(got[4000:-4000], 440.0) == pytest.approx(0.4, rel=0.05)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_resampling_keeps_pitch_level_and_length(rate):
    got = load_audio(wav(tone(2.0, rate, 1234.5), rate)).waveform
    assert abs(len(got) - 2 * SAMPLE_RATE) <= 1
    assert loudness(got[1600:-1600], 1234.5) == pytest.approx(0.4, rel=0.01)
    assert abs(got - tone(2.0, hertz=1234.5)[: len(got)])[800:-800].max() < 0.01  # in phase: nothing is shifted


def test_what_the_new_rate_cannot_carry_is_filtered_out():
    got = load_audio(wav(tone(1.0, 48_000, 15_000.0), 48_000)).waveform
    assert abs(got[800:-800]).max() < 1e-3  # unfiltered, it would be heard at 1,000 Hz


def test_channels_are_averaged_and_the_shorter_axis_is_the_channels():
    left, right = tone(hertz=300.0), tone(hertz=500.0)
    both = np.stack([left, right])
    expected = (left + right) / 2
    for source in (wav(both.T), (both, SAMPLE_RATE), (both.T, SAMPLE_RATE)):
        np.testing.assert_allclose(load_audio(source).waveform, expected, atol=1e-4)


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint8"])
def test_integers_are_at_full_scale(dtype):
    info = np.iinfo(dtype)
    middle = 128 if dtype == "uint8" else 0
    got = load_audio((np.array([info.min, middle, info.max] * 10, dtype=dtype), SAMPLE_RATE)).waveform
    np.testing.assert_allclose(got[:3], [-1, 0, 1], atol=0.01)


def test_raw_samples_of_a_microphone():
    raw = np.rint(tone(1.0, 8000) * 32767).astype("<i2").tobytes()
    assert load_audio(io.BytesIO(raw), pcm_rate=8000).seconds == pytest.approx(1.0, abs=1e-3)
    np.testing.assert_allclose(
        load_audio(raw, pcm_rate=8000).waveform, load_audio(wav(tone(1.0, 8000), 8000)).waveform, atol=1e-6
    )
    with pytest.raises(MediaError, match="16-bit"):
        load_audio(raw[:-1], pcm_rate=8000)


@settings(deadline=None, max_examples=25)
@given(length=st.integers(3, 200_000), rate=st.sampled_from([8000, 16_000, 44_100]))
def test_blocks_joined_are_the_whole(length, rate):
    """Cut into blocks or not: against one call of the resampler over all samples."""
    import soxr

    samples = np.random.default_rng(length).uniform(-1, 1, length).astype(np.float32)
    got = load_audio((samples, rate)).waveform
    whole = samples if rate == SAMPLE_RATE else soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
    assert abs(len(got) - length * SAMPLE_RATE / rate) <= 1
    np.testing.assert_allclose(got, whole[: len(got)], atol=1e-5)


def test_an_hour_takes_the_memory_of_a_block(tmp_path):
    path = tmp_path / "hour.flac"
    with soundfile.SoundFile(path, "w", 8000, 1) as file:
        for _ in range(60):
            file.write(np.zeros(60 * 8000, dtype=np.float32))
    tracemalloc.start()
    with open_audio(path) as sound:
        assert sound.seconds == pytest.approx(3600)
        count = sum(len(block) for block in sound.blocks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == pytest.approx(3600 * SAMPLE_RATE, abs=2)
    assert peak < 8e6  # all of it would take 230 MB


# ---- what is refused, and why


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"", "empty"),
        (b"not a sound at all, but long enough to look at", "not a sound file"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "not a sound file|damaged"),
        (wav(np.zeros(0, dtype=np.float32)), "0 samples"),
        ((np.zeros(0, dtype=np.float32), SAMPLE_RATE), "0 samples"),
        ((np.zeros(1, dtype=np.float32), 44_100), "too short"),
        (np.zeros(100, dtype=np.float32), "rate"),
        ((np.zeros((2, 3, 4)), SAMPLE_RATE), r"\[T\]"),
        ((np.zeros(10, dtype=complex), SAMPLE_RATE), "complex"),
        ((np.zeros(10), 16000.5), "the sample rate must be a whole number of Hz, such as 16000, not 16000.5"),
        ((np.zeros(10), np.nan), "whole number of Hz"),
        ((np.zeros(10), True), "whole number of Hz"),
        ((np.zeros(10), 10), "10 Hz"),
        (None, "not a media source"),
        (3, "not a media source"),
        ("https://example.invalid/a.wav", "allow_url"),
        ("data:audio/wav", "comma"),
        ("file:///etc/passwd", "plain path"),
        (b"#EXTM3U\nhttp://example.invalid/secret.ts\n" + bytes(40), "not a sound file"),  # a list of addresses
        (b"\x1aE\xdf\xa3" + bytes(200), "damaged|sound"),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(200), "damaged|sound"),
    ],
)  # fmt: skip
def test_refusals_say_why(source, reason):
    with pytest.raises(MediaError, match=reason):
        load_audio(source)


@pytest.mark.parametrize("kind", [float, np.float64, np.int16, np.array, torch.tensor])
def test_a_rate_is_a_number_of_any_kind_without_a_fraction(kind):
    tone, rate = np.sin(np.arange(1600) / 9).astype(np.float32), kind(16000)
    for source in ((tone, rate), Audio(tone, rate)):
        found = load_audio(source, sample_rate=rate)
        assert type(found.sample_rate) is int and found.sample_rate == SAMPLE_RATE
        assert np.array_equal(found.waveform, tone)
    pcm = (tone * 32767).astype("<i2").tobytes()
    assert len(load_audio(pcm, pcm_rate=rate).waveform) == 1600


@pytest.mark.parametrize("rate", [None, "16000", 16000.5])
def test_each_rate_of_another_kind_is_named(rate):
    tone = np.zeros(1600, np.float32)
    wrong = re.escape(f"must be a whole number of Hz, such as 16000, not {rate!r}")
    for source, options in (((tone, rate), {}), (Audio(tone, rate), {}), ((tone, 16000), {"sample_rate": rate})):
        with pytest.raises(MediaError, match=wrong):
            load_audio(source, **options)
    if rate is not None:  # which is for a source that has a header
        with pytest.raises(MediaError, match=f"pcm_rate {wrong}"):
            load_audio(bytes(64), pcm_rate=rate)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(MissingMediaError, match="no such file"):
        load_audio(tmp_path / "none.wav")
    with pytest.raises(MediaError, match="regular file"):
        load_audio(tmp_path)
    with pytest.raises(MediaError):
        load_audio("a\0b.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(value):
    samples = tone(2.0)
    samples[20_000] = value
    with pytest.raises(MediaError, match="finite"):
        load_audio(encoded(samples, subtype="FLOAT"))
    with pytest.raises(MediaError, match="finite"):
        load_audio((samples, SAMPLE_RATE))


@pytest.mark.parametrize(
    ("format", "subtype"),
    [("WAV", None), ("AIFF", None), ("AU", None), ("W64", None), ("FLAC", None), ("MP3", None), ("OGG", "VORBIS"),
     ("OGG", "OPUS")],
)  # fmt: skip
def test_half_a_file_is_refused(format, subtype):
    """Most decoders give half of it without a word. Cut within a frame, in the formats that have frames."""
    data = encoded(tone(4.0), format=format, subtype=subtype)
    assert load_audio(data).seconds == pytest.approx(4.0, abs=0.1)
    with pytest.raises(MediaError, match="truncated|damaged"):
        load_audio(data[: len(data) // 2 + 3])


def test_half_a_container_is_refused():
    data = contained(tone(8.0), SAMPLE_RATE, "webm", "libopus")
    with pytest.raises(MediaError, match="truncated|damaged"):
        load_audio(data[: len(data) // 2])


def test_what_is_there_of_half_a_file_can_be_asked_for(caplog):
    data = wav(tone(4.0))
    half = load_audio(data[: len(data) // 2], allow_truncated=True)
    assert half.seconds == pytest.approx(2.0, abs=0.01) and "truncated" in caplog.text
    np.testing.assert_allclose(half.waveform, tone(4.0)[: len(half.waveform)], atol=1e-4)


@pytest.mark.parametrize("said", [0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_written_to_a_pipe_does_not_know_its_length_and_is_whole(said):
    data = bytearray(wav(tone()))
    place = data.index(b"data")
    data[4:8] = data[place + 4 : place + 8] = struct.pack("<I", said)
    np.testing.assert_allclose(load_audio(bytes(data)).waveform, tone(), atol=1e-4)


def test_bombs_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    """Two hours of silence in some hundred kB, and many fast channels."""
    path = tmp_path / "silence.flac"
    with soundfile.SoundFile(path, "w", 8000, 1) as file:
        for _ in range(120):
            file.write(np.zeros(60 * 8000, dtype=np.float32))
    monkeypatch.setattr("encoders.media.sound_track.decoded", lambda *a, **k: pytest.fail("decoded"))
    with pytest.raises(MediaError, match="longer than 3,600 s"):
        load_audio(path, max_seconds=3600)
    with pytest.raises(MediaError, match="8 channels at 384,000 Hz"):
        load_audio(encoded(np.zeros((100, 8), dtype=np.float32), 384_000, "FLAC"))
    for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        with pytest.raises(MediaError, match="more than 1,000 bytes"):
            load_audio(source, max_bytes=1000)


def test_a_file_without_a_length_does_not_pass_the_limit():
    data = contained(tone(8.0), SAMPLE_RATE, "adts", "aac")
    with pytest.raises(MediaError, match="longer than 3 s"):
        load_audio(data, max_seconds=3.0)


def test_a_video_without_sound(tmp_path):
    data = io.BytesIO()
    with av.open(data, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError, match="no sound"):
        load_audio(data.getvalue())


def test_keys_follow_the_content(tmp_path):
    data = wav(tone())
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    assert audio_key(path) == audio_key(data) == audio_key(io.BytesIO(data)) != audio_key(wav(tone(hertz=441.0)))
    assert audio_key((tone(), 16_000)) == audio_key(Audio(tone(), 16_000)) != audio_key((tone(), 8000))


@settings(deadline=None, max_examples=60)
@given(st.binary(min_size=1, max_size=300), st.sampled_from([b"", b"RIFF", b"fLaC", b"OggS", b"ID3\x04", b"\xff\xfb"]))
def test_whatever_bytes_come_only_a_reason_is_raised(data, start):
    with contextlib.suppress(MediaError):
        load_audio(start + data)
