"""Sound files as phones, browsers and crashed recorders leave them: read whole, in time, or refused before work."""

import io
import struct
import sys

import av
import numpy as np
import pytest
import soundfile
import torch
from av.audio.plane import AudioPlane

from encoders.media import SAMPLE_RATE, MediaError, load_audio, load_image, load_video, open_audio
from encoders.media.frames import missing_of_frame
from encoders.media.parts import parts_of
from encoders.media.truncation import missing_bytes

RATE = 44_100


def tone(seconds, hertz=440.0, rate=RATE):
    return (0.4 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def written(samples, rate=RATE, format="MP3", **options):
    data = io.BytesIO()
    soundfile.write(data, samples, rate, format=format, **options)
    return data.getvalue()


def muxed(samples, format, codec="aac", rate=RATE, late=0.0, pictures=0.0, gap=None, live=False, **options):
    """Samples [T] or [2, T] in a container by PyAV.

    late: seconds before the sound; pictures: seconds of a film beside it; gap: (from, to), seconds of packets left out;
    live: written to a pipe, so that no length is filled in. options: of the muxer.
    """
    samples = np.atleast_2d(samples)
    layout = "stereo" if len(samples) == 2 else "mono"
    data = io.BytesIO()
    target = _Pipe(data) if live else data
    with av.open(target, "w", format=format, options={"live": "1"} if live else options) as out:
        film = None
        if pictures:
            film = out.add_stream("mpeg4", rate=10)
            film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
        stream = out.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 96_000
        for _ in range(round(pictures * 10)):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")
            out.mux(film.encode(picture))
        if film is not None:
            out.mux(film.encode(None))
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        resampler = av.AudioResampler(
            format=stream.codec_context.format, layout=layout, rate=rate,
            frame_size=stream.codec_context.frame_size or 1024,
        )  # fmt: skip
        parts = [*resampler.resample(frame), *resampler.resample(None)]
        packets = [packet for part in [*parts, None] for packet in stream.encode(part)]
        for packet in packets:
            time = float(packet.pts * packet.time_base)
            if gap is None or not gap[0] <= time < gap[1]:
                packet.pts += round(late / packet.time_base)
                packet.dts += round(late / packet.time_base)
                out.mux(packet)
    return data.getvalue()


class _Pipe:
    """A file that cannot seek."""

    def __init__(self, file):
        self.write = file.write


def pitch(samples, rate=SAMPLE_RATE):
    """The loudest frequency in Hz."""
    return np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * rate / len(samples)


def loud(samples):
    """The first and the last second in which a sound is at least a tenth of the loudest."""
    heard = np.flatnonzero(np.abs(samples) > 0.1 * np.abs(samples).max()) / SAMPLE_RATE
    return heard[0], heard[-1]


def syncsafe(count):
    return bytes(count >> shift & 127 for shift in (21, 14, 7, 0))


def id3(body):
    return b"ID3\4\0\0" + syncsafe(len(body)) + body


# ---- read whole


def uneven_mp3():
    """30 s of variable bit rate: next to nothing, noise, next to nothing."""
    noise = np.random.default_rng(0).standard_normal(10 * RATE).astype(np.float32) * 0.3
    samples = np.concatenate([noise * 1e-4, noise, noise * 1e-4])
    return written(samples, bitrate_mode="VARIABLE", compression_level=0.3)


def without_first_frame(mp3):
    start = mp3.find(b"\xff\xfb")
    return mp3[mp3.find(b"\xff\xfb", start + 100) :]


def in_a_wav(mp3):
    data = io.BytesIO()
    with av.open(io.BytesIO(mp3), format="mp3") as source, av.open(data, "w", format="wav") as out:
        stream = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    return data.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        lambda mp3: mp3,
        without_first_frame,
        in_a_wav,
        lambda mp3: bytes(4096) + mp3,
        lambda mp3: np.random.default_rng(1).bytes(64) + mp3,
        lambda mp3: id3(b"") + id3(b"APIC" + syncsafe(200_000) + b"\0\0" + bytes(200_000)) + mp3,
        lambda mp3: id3(b"TIT2" + bytes(20)) + bytes(2000) + mp3,
        lambda mp3: mp3 + b"TAG" + bytes(125),
    ],
    ids=["plain", "no Xing frame", "in a WAV", "zeros", "junk", "two tags", "tag and zeros", "tag at the end"],
)
def test_an_mp3_is_read_whole(change):
    got = load_audio(change(uneven_mp3()))
    assert got.seconds == pytest.approx(30, abs=0.12)  # two frames and the decoder's delay
    assert loud(got.waveform) == pytest.approx((10, 20), abs=0.15)


def ogg(hertz, subtype):
    return written(tone(3, hertz, 48_000), 48_000, format="OGG", subtype=subtype)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (written(tone(3)), written(tone(3))),
        (written(tone(3)), written(tone(3, rate=48_000), 48_000)),
        (written(tone(3)), written(np.stack([tone(3)] * 2, 1))),
        (muxed(tone(3), "adts"), muxed(tone(3, rate=48_000), "adts", rate=48_000)),
        (muxed(tone(3), "adts"), muxed(np.stack([tone(3)] * 2), "adts")),
        (written(tone(3), format="FLAC"), written(tone(3, 880), format="FLAC")),
        (written(tone(3, rate=16_000), 16_000, format="FLAC"), written(tone(3), format="FLAC")),
        (ogg(440, "OPUS"), ogg(880, "OPUS")),
        (ogg(440, "VORBIS"), ogg(880, "VORBIS")),
        (ogg(440, "VORBIS"), written(tone(3, 880), format="OGG", subtype="VORBIS")),
        (ogg(440, "OPUS"), ogg(880, "VORBIS")),
        (ogg(440, "VORBIS"), ogg(880, "OPUS")),
        (muxed(tone(3), "ogg", "flac"), ogg(880, "OPUS")),
        (muxed(tone(3), "wv", "wavpack"), muxed(np.stack([tone(3, 880, 48_000)] * 2), "wv", "wavpack", 48_000)),
    ],
    ids=["mp3", "mp3 of two rates", "mp3 of two layouts", "aac of two rates", "aac of two layouts",
         "flac", "flac of two rates", "opus", "vorbis", "vorbis of two rates", "opus and vorbis", "vorbis and opus",
         "ogg flac and opus", "wavpack of two rates and layouts"],
)  # fmt: skip
def test_joined_recordings_are_read_to_the_end_at_their_own_rates(first, second):
    got = load_audio(first + second).waveform
    apart = [load_audio(part).waveform for part in (first, second)]
    assert len(got) / SAMPLE_RATE == pytest.approx(sum(map(len, apart)) / SAMPLE_RATE, abs=0.1)
    assert pitch(got[-2 * SAMPLE_RATE : -SAMPLE_RATE // 2]) == pytest.approx(
        pitch(apart[1][: len(apart[1]) // 2]), abs=2
    )
    assert pitch(got[SAMPLE_RATE : 2 * SAMPLE_RATE]) == pytest.approx(
        pitch(apart[0][SAMPLE_RATE : 2 * SAMPLE_RATE]), abs=2
    )


@pytest.mark.parametrize("name", ["AU", "NIST", "AMR", "AMR-WB"])
def test_the_head_of_a_second_recording_is_not_heard(name):
    """FFmpeg takes it for samples, or for frames."""
    if name.startswith("AMR"):
        frame = b"\x3c" + bytes(31) if name == "AMR" else b"\x44" + bytes(60)
        first = second = b"#!" + name.encode() + b"\n" + frame * 50
    else:
        first, second = (written(tone(1, hertz, 8_000), 8_000, name, subtype="PCM_16") for hertz in (440, 880))
    apart = [load_audio(one, sample_rate=8_000).waveform for one in (first, second)]
    got = load_audio(first + second, sample_rate=8_000).waveform
    assert len(got) == sum(map(len, apart)) == pytest.approx(16_000, abs=160)
    np.testing.assert_allclose(got, np.concatenate(apart), atol=1e-3 if name == "AMR-WB" else 0)


def test_a_joined_part_that_cannot_be_read_is_named():
    whole, cut = ogg(440, "VORBIS"), ogg(880, "OPUS")[:-5]
    with pytest.raises(
        MediaError, match="part 2 of 2: truncated: 5 bytes are missing at its end.*allow_truncated=True"
    ):
        load_audio(whole + cut)
    assert load_audio(whole + cut, allow_truncated=True).seconds == pytest.approx(6, abs=1)
    empty = b"OggS\0\2" + bytes(20) + b"\0"  # a page without packets
    with pytest.raises(MediaError, match="part 2 of 2: "):
        load_audio(whole + bytes(9) + empty)
    with pytest.raises(MediaError, match="more than 1,000 recordings joined.*convert it with ffmpeg to FLAC"):
        load_audio(whole + (bytes(9) + empty) * 1000)


@pytest.mark.parametrize("pages", [0.5, 2])
def test_a_joined_part_that_breaks_off_in_its_head_may_be_left_out(pages, caplog):
    """As where a broadcast that is recorded ends between two songs."""
    whole = ogg(440, "VORBIS")
    starts = [at for at in range(len(whole)) if whole.startswith(b"OggS", at)]
    head = whole[: starts[int(pages)] or 14]
    with pytest.raises(MediaError, match="part 2 of 3: .* .to leave this part out, pass allow_truncated=True"):
        load_audio(whole + head + whole)
    for joined in (whole + head, head + whole, whole + head + whole):
        got = load_audio(joined, allow_truncated=True).waveform
        np.testing.assert_array_equal(got, load_audio(whole * joined.count(whole)).waveform)
        assert "; this part is left out" in caplog.text
        caplog.clear()
    with pytest.raises(MediaError, match="none of its 2 joined recordings can be read"):
        load_audio(head + head, allow_truncated=True)


def test_the_streams_of_one_film_are_one_recording():
    """Its pages that begin a stream lie one behind the other."""
    data = muxed(tone(3, rate=48_000), "ogg", "libopus", 48_000)
    first = data[: data.index(b"OggS", 4)]
    other = bytearray(first)
    other[14:18] = b"\7\7\7\7"  # the number of a second stream
    assert len(parts_of(io.BytesIO(bytes(other) + data), "film")) == 1
    assert len(parts_of(io.BytesIO(data + data), "film")) == 2


def with_data_size(wav, size):
    data, at = bytearray(wav), wav.index(b"data")
    data[4:8] = data[at + 4 : at + 8] = struct.pack("<I", size)
    return bytes(data)


def of_unknown_length(flac):
    """The number of samples in STREAMINFO is 0: its lowest 36 of 64 bits at byte 18."""
    data = bytearray(flac)
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return bytes(data)


def without_end_mark(ogg):
    """The flag of the last page that ends the stream is cleared, and the page's checksum made anew (RFC 3533)."""
    data, page = bytearray(ogg), ogg.rfind(b"OggS")
    data[page + 5] &= ~4
    data[page + 22 : page + 26] = bytes(4)
    crc = 0
    for byte in data[page:]:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 1 << 31 else 0)) & 0xFFFFFFFF
    data[page + 22 : page + 26] = struct.pack("<I", crc)
    return bytes(data)


def quicktime_of_old(mov):
    return mov.replace(b"ftyp", b"wide", 1)


WILD = {
    "wav of size 0": lambda: with_data_size(written(tone(3), format="WAV"), 0),
    "wav of a pipe": lambda: with_data_size(written(tone(3), format="WAV"), 0xFFFFFFFF),
    "wav, odd chunk": lambda: (
        (plain := written(tone(3), format="WAV"))[:12] + b"JUNK\x1b\0\0\0" + bytes(28) + plain[12:]
    ),
    "wav, trailing junk": lambda: written(tone(3), format="WAV") + b"abc" * 100,
    "rf64": lambda: written(tone(3), format="RF64"),
    "caf": lambda: written(tone(3), format="CAF"),
    "caf with a tag behind": lambda: muxed(tone(3), "caf", "pcm_s16le") + b"TAG" + bytes(125),
    "mpeg-ts with zeros behind": lambda: muxed(tone(3), "mpegts") + bytes(10_000),
    "flac of unknown length": lambda: of_unknown_length(written(tone(3), format="FLAC")),
    "opus without end mark": lambda: without_end_mark(
        written(tone(3, rate=48_000), 48_000, format="OGG", subtype="OPUS")
    ),
    "vorbis without end mark": lambda: without_end_mark(written(tone(3), format="OGG", subtype="VORBIS")),
    "webm of a browser": lambda: muxed(tone(3, rate=48_000), "webm", "libopus", 48_000, live=True),
    "aac": lambda: muxed(tone(3), "adts"),
    "aac in wav": lambda: muxed(tone(3), "wav"),
    "aac behind a tag": lambda: id3(bytes(10)) + muxed(tone(3), "adts"),
    "mpeg-ts": lambda: muxed(tone(3), "mpegts"),
    "mpeg-ps": lambda: muxed(tone(3), "mpeg", "mp2"),
    "3gp": lambda: muxed(tone(3), "3gp"),
    "mov": lambda: muxed(tone(3), "mov"),
    "mov without ftyp": lambda: quicktime_of_old(muxed(tone(3), "mov")),
    "alac": lambda: muxed(tone(3), "ipod", "alac"),
    "ac3": lambda: muxed(tone(3, rate=48_000), "ac3", "ac3", 48_000),
    "mka": lambda: muxed(tone(3), "matroska"),
    "flv": lambda: muxed(tone(3), "flv"),
    "wma": lambda: muxed(tone(3), "asf", "wmav2"),
    "avi": lambda: muxed(tone(3), "avi", "mp2"),
}


@pytest.mark.parametrize("name", WILD)
def test_files_from_the_wild_are_read_whole(name):
    got = load_audio(WILD[name]())
    assert got.seconds == pytest.approx(3, abs=0.12)
    assert pitch(got.waveform[SAMPLE_RATE : 2 * SAMPLE_RATE]) == pytest.approx(440, abs=2)


def test_aac_in_wav_is_read_whole_or_refused(monkeypatch):
    """No frame has a head, so that FFmpeg's packets are cut anywhere: 1.2 of 3 s were left."""
    stereo = np.stack([tone(3), tone(3) / 2])
    got = load_audio(data := muxed(stereo, "wav"), channel=2)
    assert got.seconds == pytest.approx(3 + 1024 / RATE, abs=0.02) and got.waveform.max() == pytest.approx(
        0.2, abs=0.03
    )
    with pytest.raises(MediaError, match="truncated"):
        load_audio(data[: len(data) // 2])
    monkeypatch.setattr("encoders.media.raw_aac.MOST", 10_000)
    with pytest.raises(MediaError, match="AAC without frame heads in a WAV file.*written as M4A or FLAC"):
        load_audio(data)


def test_amr_is_read_whole():
    """Frames of 20 ms at 12.2 kbit/s (RFC 4867)."""
    assert load_audio(b"#!AMR\n" + (b"\x3c" + bytes(31)) * 150).seconds == pytest.approx(3, abs=0.01)


def test_what_only_libsndfile_reads_is_read():
    """PVF, of voice mailboxes."""
    got = load_audio(written(tone(3), format="PVF", subtype="PCM_16"))
    assert got.seconds == 3 and pitch(got.waveform[:SAMPLE_RATE]) == pytest.approx(440, abs=2)


@pytest.mark.parametrize(("quiet", "guess"), [("first", 500), ("last", 21)])
def test_a_guess_of_the_length_is_not_believed(quiet, guess):
    """Raw AAC states no length: FFmpeg guesses one by the bit rate of the first frames, 14 times the real one here."""
    noise = np.random.default_rng(0).standard_normal(20 * RATE).astype(np.float32) * 0.3
    data = muxed(np.concatenate([noise * 0, noise] if quiet == "first" else [noise, noise * 0]), "adts")
    with av.open(io.BytesIO(data)) as container:
        assert container.duration / 1e6 == pytest.approx(guess, rel=0.3)
    with open_audio(data, max_seconds=60) as sound:
        assert sound.seconds == pytest.approx(40, abs=0.1)
        assert sum(map(len, sound.blocks)) / SAMPLE_RATE == pytest.approx(40, abs=0.1)
    with pytest.raises(MediaError, match="longer than 30 s"), open_audio(data, max_seconds=30):
        pytest.fail("it is refused before anything is decoded")


# ---- in time


@pytest.mark.parametrize("format", ["mp4", "matroska", "mpegts"])
def test_a_film_whose_sound_begins_late_keeps_its_time(format):
    got = load_audio(muxed(tone(3), format, late=2.0, pictures=5.0)).waveform
    assert loud(got) == pytest.approx((2, 5), abs=0.08)


@pytest.mark.parametrize("format", ["mp4", "matroska"])
def test_a_film_whose_sound_ends_early_is_whole(format):
    assert load_audio(muxed(tone(3), format, pictures=6.0)).seconds == pytest.approx(3, abs=0.08)


@pytest.mark.parametrize(("format", "codec"), [("mp4", "aac"), ("matroska", "libopus")])
def test_a_gap_in_the_timestamps_is_silence(format, codec):
    rate = 48_000
    samples = np.concatenate([tone(3, 440, rate), tone(3, 880, rate)])
    got = load_audio(muxed(samples, format, codec, rate, gap=(2.0, 4.0))).waveform
    assert len(got) / SAMPLE_RATE == pytest.approx(6, abs=0.1)
    assert np.abs(got[int(2.2 * SAMPLE_RATE) : int(3.8 * SAMPLE_RATE)]).max() < 0.01
    assert pitch(got[int(4.3 * SAMPLE_RATE) : int(5.7 * SAMPLE_RATE)]) == pytest.approx(880, abs=2)
    assert pitch(got[int(0.3 * SAMPLE_RATE) : int(1.7 * SAMPLE_RATE)]) == pytest.approx(440, abs=2)


@pytest.mark.parametrize(("format", "codec"), [("matroska", "aac"), ("mpegts", "aac"), ("ogg", "libopus")])
def test_a_long_gap_is_silence_too(format, codec):
    samples = np.concatenate([tone(14, 440, 48_000), tone(2, 880, 48_000)])
    got = load_audio(muxed(samples, format, codec, 48_000, gap=(1.0, 14.0))).waveform
    assert len(got) / SAMPLE_RATE == pytest.approx(16, abs=0.1)
    assert pitch(got[int(14.3 * SAMPLE_RATE) : int(15.7 * SAMPLE_RATE)]) == pytest.approx(880, abs=2)


@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
def test_what_lies_behind_a_damaged_stretch_is_heard_at_its_time(subtype, caplog):
    samples = np.concatenate([tone(8, 440, 48_000), tone(8, 660, 48_000), tone(8, 880, 48_000)])
    data = bytearray(written(samples, 48_000, format="OGG", subtype=subtype))
    data[len(data) * 2 // 5 : len(data) * 3 // 5] = bytes(len(data) * 3 // 5 - len(data) * 2 // 5)
    got = load_audio(bytes(data)).waveform
    assert len(got) / SAMPLE_RATE == pytest.approx(24, abs=0.1) and "silence is put in place of" in caplog.text
    assert pitch(got[int(17 * SAMPLE_RATE) : int(23 * SAMPLE_RATE)]) == pytest.approx(880, abs=2)
    assert pitch(got[int(1 * SAMPLE_RATE) : int(7 * SAMPLE_RATE)]) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("format", ["flac", "adts"])
def test_a_bad_packet_costs_that_packet(format, caplog):
    samples = np.concatenate([tone(3, 440), tone(3, 880)])
    data = bytearray(written(samples, format="FLAC") if format == "flac" else muxed(samples, "adts"))
    with av.open(io.BytesIO(bytes(data))) as container:
        packets = list(container.demux(container.streams.audio[0]))
    bad = packets[len(packets) // 2]
    seconds = bad.duration * float(bad.time_base)
    data[bad.pos + 12 : bad.pos + bad.size - 4] = b"\xa5" * (bad.size - 16)
    got = load_audio(bytes(data)).waveform
    assert len(got) / SAMPLE_RATE == pytest.approx(6, abs=0.05)
    at = int(bad.pts * float(bad.time_base) * SAMPLE_RATE)
    after = got[at + int((5 * seconds + 0.1) * SAMPLE_RATE) : at + int((5 * seconds + 1.1) * SAMPLE_RATE)]
    assert pitch(after) == pytest.approx(880, abs=2) and np.abs(after).max() < 0.5
    assert "silence is put in place of" in caplog.text


# ---- truncation


@pytest.mark.parametrize(
    ("format", "codec"),
    [("mp4", "aac"), ("webm", "libopus"), ("adts", "aac"), ("ogg", "libopus"), ("mp3", "libmp3lame")],
)
def test_a_cut_file_is_refused_before_work(format, codec):
    rate = 48_000
    data = muxed(tone(4, rate=rate), format, codec, rate)
    with pytest.raises(MediaError, match="truncated"), open_audio(data[: len(data) // 2 + 5]):
        pytest.fail("it is refused before anything is decoded")


RAW = {  # streams without a container, of 4 s
    "mp2": lambda: muxed(tone(4), "mp2", "mp2"),
    "mp2 of MPEG 2": lambda: muxed(tone(4, rate=24_000), "mp2", "mp2", 24_000),
    "mp3 of MPEG 2": lambda: muxed(tone(4, rate=24_000), "mp3", "libmp3lame", 24_000),
    "adts": lambda: muxed(tone(4), "adts"),
    "loas": lambda: muxed(tone(4), "latm"),
    "ac3 at 32 kHz": lambda: muxed(tone(4, rate=32_000), "ac3", "ac3", 32_000),
    "ac3 at 44.1 kHz": lambda: muxed(tone(4), "ac3", "ac3"),
    "ac3 at 48 kHz": lambda: muxed(tone(4, rate=48_000), "ac3", "ac3", 48_000),
    "eac3": lambda: muxed(tone(4, rate=48_000), "eac3", "eac3", 48_000),
    "amr": lambda: b"#!AMR\n" + (b"\x3c" + bytes(31)) * 200,
    "amr-wb": lambda: b"#!AMR-WB\n" + (b"\x44" + bytes(60)) * 200,
    "gsm": lambda: (b"\xd0" + bytes(32)) * 200,
}  # fmt: skip


@pytest.mark.parametrize("name", RAW)
def test_a_frame_that_is_not_whole_is_told_in_streams_without_a_container(name):
    """Frames are as long as FFmpeg's parsers find them."""
    data = RAW[name]()
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.audio[0]
        codec = stream.codec_context.name
        packets = [(packet.pos, packet.size, bytes(packet)) for packet in container.demux(stream) if packet.size]
    frames = [packet for _, _, packet in packets[1:]]  # before the first an encoder may put what is no frame
    assert {missing_of_frame(codec, frame) for frame in frames} == {0}
    assert {missing_of_frame(codec, frames[0] + frame[:-1]) for frame in frames[1:20]} == {1}
    assert {missing_of_frame(codec, frame + b"TAG" + bytes(125)) for frame in frames} == {0}
    assert load_audio(data).seconds == pytest.approx(4, abs=0.12)
    place, size, _ = packets[len(packets) // 2]
    for cut in (place + size - 1, place + size // 2, place + 5):
        with pytest.raises(MediaError, match="truncated: its last frame is not whole.*or pass allow_truncated=True"):
            load_audio(data[:cut])
        assert load_audio(data[:cut], allow_truncated=True).seconds == pytest.approx(2, abs=0.12)


def test_frames_that_no_encoder_here_writes_are_measured_by_the_tables():
    """Layer I (ISO/IEC 11172-3, 2.4.3.1) has 12 · 384,000 / 48,000 slots of 4 bytes; at 44,100 Hz 104, and one more.

    Those of DTS, TrueHD and MLP are heads that ffmpeg 5.1 wrote, and the sizes of its packets.
    """
    dts = bytes.fromhex("7ffe8001fc3c75b0")
    assert missing_of_frame("dca", dts + bytes(1875)) == 1 and missing_of_frame("dca", dts + bytes(1876)) == 0
    for codec in ("truehd", "mlp"):
        unit, after = bytes.fromhex("b00b7688600853a7") + bytes(14), bytes.fromhex("400d76b0600a4aba")
        assert missing_of_frame(codec, unit) == 0 and missing_of_frame(codec, unit + after) == 26 - 8
        assert missing_of_frame(codec, unit + b"TAG" + bytes(125)) == 0
    for head, length in ((b"\xff\xff\xc4\x00", 384), (b"\xff\xff\xc2\x00", 420)):
        assert missing_of_frame("mp1", head + bytes(length - 5)) == 1
        assert missing_of_frame("mp1", head + bytes(length - 4)) == 0
    assert missing_of_frame("mp3float", b"\xff\xfb\x00\x00" + bytes(9)) == 0  # of free format
    assert missing_of_frame("ac3", b"\x0b\x77\0\0\x3f\x40" + bytes(9)) == 0  # a size that there is not
    assert missing_of_frame("ac3", b"\x0b") == 5 and missing_of_frame("dca", b"\x7f\xfe") == 6
    assert missing_of_frame("opus", b"\xff" * 9) == 0


def nist(samples):
    return written(samples, format="NIST", subtype="PCM_16")


ROWS = {  # formats that are a row of parts, and the bytes at their end that are no sound
    "caf": (lambda: muxed(tone(2), "caf", "pcm_s16le"), 0),
    "w64": (lambda: written(tone(2), format="W64"), 0),
    "voc": (lambda: written(tone(2), format="VOC"), 1),
    "wma": (lambda: muxed(tone(2), "asf", "wmav2"), 0),
    "wavpack": (lambda: muxed(tone(2), "wv", "wavpack"), None),
    "nist": (lambda: nist(tone(2)), 0),
    "8svx": (lambda: written(tone(2), format="SVX", subtype="PCM_16"), 0),
    "mpeg-ts": (lambda: muxed(tone(2), "mpegts"), 0),
    "mpeg-ps": (lambda: muxed(tone(2), "mpeg", "mp2"), 0),
    "mpeg-ps of DVD": (lambda: muxed(tone(2, rate=48_000), "dvd", "ac3", 48_000), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_parts_that_ends_within_one_is_refused(name):
    data, behind = ROWS[name][0](), ROWS[name][1]
    behind = len(data) - data.rindex(b"APETAGEX", 0, -32) if behind is None else behind
    assert missing_bytes(io.BytesIO(data)) == 0 and load_audio(data).seconds == pytest.approx(2, abs=0.12)
    sound = len(data) - behind
    assert missing_bytes(io.BytesIO(data[: sound - 1])) == 1
    for cut in (sound * 3 // 5 + 1, sound - 1):
        with pytest.raises(MediaError, match="truncated: .* missing at its end"):
            load_audio(data[:cut])
    assert load_audio(data[: sound * 3 // 5 + 1], allow_truncated=True).seconds == pytest.approx(1.2, abs=0.21)
    for more in (b"TAG" + bytes(125), bytes(10_000), data):
        assert missing_bytes(io.BytesIO(data + more)) == 0


@pytest.mark.parametrize("format", ["w64", "caf", "voc", "wv", "asf"])
def test_what_was_written_to_a_pipe_states_no_size_that_is_missing(format):
    codec = {"voc": "pcm_u8", "wv": "wavpack", "asf": "wmav2"}.get(format, "pcm_s16le")
    assert missing_bytes(io.BytesIO(muxed(tone(2), format, codec, live=True))) == 0


@pytest.mark.parametrize(("format", "codec"), [("tta", "tta"), ("wv", "wavpack")])
def test_a_count_of_samples_that_are_not_there_is_said(format, codec, caplog):
    """The file ends between two frames."""
    data = muxed(tone(4), format, codec)
    with av.open(io.BytesIO(data)) as container:
        packets = [packet for packet in container.demux(container.streams.audio[0]) if packet.size]
    got = load_audio(data[: packets[2].pos]).seconds
    assert got == pytest.approx(2.05, abs=0.06) and f"its header says 4.0 s, {got:.1f} s are there" in caplog.text


HEADS = [
    b"RIFF\0\0\0\0WAVEdata", b"FORM\0\0\0\0AIFFSSND", b".snd\0\0\0\x18\1\1\1\1", b"OggS" + bytes(40), b"fLaC",
    b"\x1aE\xdf\xa3\x84abcd\x18S\x80g\x90", b"\0\0\0\x18ftypM4A ", b"\xff\xfb\x90\x64",
]  # fmt: skip


def test_nothing_is_printed_of_a_damaged_head(monkeypatch):
    """libsndfile asks for a place before the file, and Python printed the error of its callback."""
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    head = written(tone(1), format="AIFF")[:24]
    for seed in range(40):
        with pytest.raises(MediaError):
            load_audio(head + np.random.default_rng(seed).bytes(2000))
    assert not printed


@pytest.mark.parametrize("start", HEADS)
def test_a_file_that_ends_in_its_head_is_refused(start):
    for length in range(1, len(start) + 1):
        with pytest.raises(MediaError):
            load_audio(start[:length])


def test_what_an_mp4_has_before_the_cut_can_be_had(tmp_path):
    """With its index in front, as on the web."""
    with (
        av.open(io.BytesIO(muxed(tone(4), "mp4"))) as source,
        av.open(str(tmp_path / "web.mp4"), "w", options={"movflags": "faststart"}) as out,
    ):
        stream = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    data = (tmp_path / "web.mp4").read_bytes()
    with pytest.raises(MediaError, match="truncated: .* bytes are missing"):
        load_audio(data[: len(data) // 2])
    assert 1 < load_audio(data[: len(data) // 2], allow_truncated=True).seconds < 3


def test_an_mp3_cut_between_two_frames_is_used_and_said(caplog):
    """Its encoder counted twice the frames that are there; no decoder meets a fault."""
    data = written(tone(4), bitrate_mode="CONSTANT")
    with av.open(io.BytesIO(data)) as container:
        positions = [packet.pos for packet in container.demux(container.streams.audio[0]) if packet.size]
    assert load_audio(data[: positions[len(positions) // 2]]).seconds == pytest.approx(2, abs=0.1)
    assert "its header says 4.0 s, 2.0 s are there" in caplog.text


@pytest.mark.parametrize("behind", ["another", "more"])
def test_what_lies_behind_a_wav_is_told(behind, caplog):
    first = written(tone(1), format="WAV")
    data = first + first if behind == "another" else with_data_size(written(tone(3), format="WAV"), 2 * RATE)
    assert load_audio(data).seconds == pytest.approx(1, abs=1e-3)
    assert f"{len(data) - len(first)} bytes behind its sound are not read" in caplog.text
    caplog.clear()
    load_audio(first + b"LIST" + struct.pack("<I", 2000) + bytes(2000))
    assert not caplog.text


@pytest.mark.parametrize("name", ["aiff", "mp4", "ipod"])
def test_what_lies_behind_an_aiff_or_mp4_is_told(name, caplog):
    first = written(tone(1), format="AIFF") if name == "aiff" else muxed(tone(1), name)
    assert load_audio(first).seconds == pytest.approx(1, abs=0.05)
    assert not caplog.text
    assert load_audio(first + first).seconds == pytest.approx(1, abs=0.05)
    assert f"{len(first)} bytes behind its sound are not read" in caplog.text


@pytest.mark.parametrize("name", ["RF64", "W64", "VOC", "tta", "flv", "asf", "mp4 in fragments"])
def test_a_second_recording_that_is_not_read_is_told_in_every_format(name, caplog):
    codecs = {"tta": "tta", "flv": "libmp3lame", "asf": "wmav2"}
    parts = {"movflags": "frag_keyframe+empty_moov"} if "fragments" in name else {}
    if name[0].isupper():
        first = written(tone(2), format=name)
    else:
        first = muxed(tone(2), name.split()[0], codecs.get(name, "aac"), **parts)
    alone = load_audio(first).seconds
    assert alone == pytest.approx(2, abs=0.1) and not caplog.text
    if load_audio(first + first).seconds < 2 * alone - 0.1:
        assert "bytes behind its sound are not read: a second recording" in caplog.text


def test_what_ffmpeg_seeks_in_vain_is_refused():
    data = written(tone(1), format="CAF")
    head = 8 + 12 + 32  # of the file, and the chunk that describes its samples
    with pytest.raises(MediaError, match="damaged .*; get a whole copy, or convert it"):
        load_audio(data[:head] + b"junk" + struct.pack(">q", -(1 << 40)) + data[head:])


def test_a_film_whose_first_sound_cannot_be_decoded_is_heard_by_its_second():
    data = io.BytesIO()
    with av.open(data, "w", format="mov") as out:
        streams = [out.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in range(2)]
        for stream, hertz in zip(streams, (300.0, 700.0), strict=True):
            samples = (tone(1, hertz) * 32_767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate = RATE
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                out.mux(packet)
    known = data.getvalue()
    assert pitch(load_audio(known).waveform) == pytest.approx(300, abs=2)
    assert known.count(b"sowt") == 2  # the code of these samples
    unknown = known.replace(b"sowt", b"ac-4", 1)  # that of Dolby AC-4, which FFmpeg knows and cannot decode
    assert pitch(load_audio(unknown).waveform) == pytest.approx(700, abs=2)


@pytest.mark.parametrize("wrong", [float("nan"), None, "10", 0, True])
@pytest.mark.parametrize("name", ["max_seconds", "max_bytes", "max_pixels"])
def test_a_limit_that_limits_nothing_is_refused(wrong, name):
    for read in (load_image, load_video) if name == "max_pixels" else (load_audio, load_video):
        with pytest.raises(ValueError, match=f"{name} must be a number above 0, not {wrong!r}"):
            read(written(tone(1)), **{name: wrong})


@pytest.mark.parametrize("most", [10**15, 1e15, float("inf")])
def test_a_high_limit_takes_no_memory(most):
    wav = written(tone(1), format="WAV")
    assert load_audio(io.BytesIO(wav), max_bytes=most).seconds == pytest.approx(1)


# ---- values


def test_samples_far_outside_the_scale_are_refused():
    speech = tone(1)
    for source in ((speech * 32_768, RATE), written(speech * 32_768, format="WAV", subtype="FLOAT")):
        with pytest.raises(MediaError, match="divide 16-bit values by 32,768"):
            load_audio(source)
    assert np.abs(load_audio(written(speech * 4, format="WAV", subtype="FLOAT")).waveform).max() == pytest.approx(
        1.6, abs=0.01
    )


def test_integers_that_are_not_at_full_scale_are_refused():
    samples = np.rint(tone(1) * 32_767)
    with pytest.raises(MediaError, match="int64"):
        load_audio((samples.astype(np.int64), RATE))
    with pytest.raises(MediaError, match="16-bit samples, it seems"):
        load_audio((samples.astype(np.int32), RATE))
    as_int16 = load_audio((samples.astype(np.int16), RATE)).waveform
    as_int32 = load_audio(((samples * 65_536).astype(np.int32), RATE)).waveform
    np.testing.assert_allclose(as_int32, as_int16, atol=1e-6)


def test_channels_that_cancel_are_not_averaged(caplog):
    left = tone(2, rate=SAMPLE_RATE)
    for right in (-left, -0.9 * left):
        got = load_audio((np.stack([left, right]), SAMPLE_RATE)).waveform
        np.testing.assert_allclose(got, left, atol=1e-6)
    assert "cancel each other" in caplog.text
    apart = np.stack([left, tone(2, 1000, SAMPLE_RATE)])
    np.testing.assert_allclose(load_audio((apart, SAMPLE_RATE)).waveform, apart.mean(0), atol=1e-6)
    np.testing.assert_allclose(load_audio((np.stack([left, left * 0]), SAMPLE_RATE)).waveform, left / 2, atol=1e-6)


def test_many_channels_that_cancel_are_not_averaged(caplog):
    left = tone(2, rate=SAMPLE_RATE)
    got = load_audio((np.stack([left / 2, -left, left / 2, 0 * left]), SAMPLE_RATE)).waveform
    np.testing.assert_allclose(got, -left, atol=1e-6)
    assert "cancel each other" in caplog.text
    caplog.clear()
    for one in range(6):  # a voice in the middle of a film's six
        channels = np.zeros((6, len(left)), np.float32)
        channels[one] = left
        np.testing.assert_allclose(load_audio((channels, SAMPLE_RATE)).waveform, left / 6, atol=1e-6)
    assert not caplog.text


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support|The PyTorch API of nested tensors")
def test_samples_in_every_coat_are_the_same_or_refused():
    samples = tone(1, rate=SAMPLE_RATE)
    negated = (
        torch.complex(torch.zeros(len(samples)), -torch.from_numpy(samples)).conj().imag
    )  # -(-x), not computed yet
    assert negated.is_neg()
    for same in (np.ma.array(samples), samples[::-1][::-1], torch.from_numpy(samples).requires_grad_(), negated):
        np.testing.assert_array_equal(load_audio((same, SAMPLE_RATE)).waveform, samples)
    wav = written(samples, SAMPLE_RATE, "WAV")
    assert load_audio(memoryview(wav)).seconds == pytest.approx(1)
    assert load_audio(wav, channel=np.int64(1)).seconds == pytest.approx(1)
    tensor = torch.from_numpy(samples)
    for refused, reason in (
        (np.ma.array(samples, mask=samples > 0), "masked"),
        (tensor.to_sparse(), "give a dense one"),
        (torch.quantize_per_tensor(tensor, 0.01, 0, torch.qint8), "give a dense one"),
        (tensor.cfloat().conj(), "give a dense one"),
        (tensor.view(100, -1).to_sparse_csr(), "give a dense one"),
        (tensor.to("meta"), "meta device holds no values"),
        (torch.nested.nested_tensor([tensor, tensor]), "nested tensor holds several"),
        (torch.nested.nested_tensor([tensor, tensor], layout=torch.jagged), "nested tensor holds several"),
        (np.zeros(9, dtype=[("left", "f4"), ("right", "f4")]), "values of type"),
        (np.array(0.5), r"give samples as \[T\]"),
        (torch.tensor(0.5), r"give samples as \[T\]"),
        (type("Tensor", (), {"shape": (9,), "dtype": "f4", "detach": list})(), "values of type object"),
    ):
        with pytest.raises(MediaError, match=reason):
            load_audio((refused, SAMPLE_RATE))


# ---- what FFmpeg would open beyond the file


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{path}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{path}'\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
    ],
)
def test_lists_of_other_files_are_not_followed(text, tmp_path):
    (tmp_path / "secret.wav").write_bytes(written(tone(1), format="WAV"))
    playlist = tmp_path / "list.wav"
    playlist.write_text(text.format(path=tmp_path / "secret.wav"))
    with pytest.raises(MediaError, match="not a sound file"):
        load_audio(playlist)


def test_planes_of_many_channels_are_read_and_nothing_behind_them():
    """PyAV counts planes up to a null pointer, which FFmpeg leaves behind eight at most."""
    channels = np.random.default_rng(0).uniform(-0.5, 0.5, (24, SAMPLE_RATE)).astype(np.float32)
    file = io.BytesIO()
    with av.open(file, "w", format="wv") as container:
        stream = container.add_stream("wavpack", rate=SAMPLE_RATE, layout="22.2", format="fltp")
        frame = av.AudioFrame(format="fltp", layout="22.2", samples=SAMPLE_RATE)
        frame.sample_rate, frame.pts = SAMPLE_RATE, 0
        for number, samples in enumerate(channels):
            AudioPlane(frame, number).update(samples)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    read = load_audio(file.getvalue())
    assert np.allclose(read.waveform, channels.mean(0), atol=1e-6)
