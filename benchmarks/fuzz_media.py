"""Damaged pictures, sounds and films: how many are read, how many are refused, and whether anything else happens.

    python benchmarks/fuzz_media.py --count 4000

Small files of every format are damaged at random (bytes changed, parts cut out or doubled, the end cut off) and read.
What is read must be sound: RGB pictures within the limits, finite samples near -1..1, frames in order of their times.
What is not read must raise MediaError. Exit code 1 if anything else happens.
"""

from __future__ import annotations

import argparse
import functools
import io
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable

import av
import numpy as np
import soundfile
from PIL import Image
from tqdm import tqdm

from encoders.media import MediaError, load_audio, load_image, load_video

SECONDS = 30.0  # a file that takes longer to read counts as hanging


@functools.cache
def pictures() -> list[bytes]:
    """A small picture in every format that is read."""
    draw = np.random.default_rng(0)
    smooth = Image.fromarray(draw.integers(0, 256, (6, 8, 4), np.uint8)).resize((48, 40), Image.Resampling.BICUBIC)
    files = []
    for mode in ("RGB", "RGBA", "L", "P", "1", "CMYK", "I;16"):
        grey = np.asarray(smooth.convert("L"), np.uint16) * 257
        image = Image.fromarray(grey) if mode == "I;16" else smooth.convert(mode)
        for format in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF"):
            data = io.BytesIO()
            try:
                image.save(data, format)
            except (OSError, ValueError):
                continue  # this format has no such mode
            files.append(data.getvalue())
    return files


@functools.cache
def sounds() -> list[bytes]:
    """A second of sound in many formats."""
    samples = np.random.default_rng(0).standard_normal(16_000).cumsum() / 400
    samples = np.clip(samples - samples.mean(), -1, 1).astype(np.float32)
    files = []
    for format, subtype in (
        ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "PCM_24"), ("WAV", "ULAW"), ("WAV", "IMA_ADPCM"),
        ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("CAF", "PCM_16"), ("W64", "PCM_16"), ("RF64", "DOUBLE"),
        ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None), ("VOC", "PCM_16"), ("NIST", "PCM_16"),
        ("SVX", "PCM_16"),
    ):  # fmt: skip
        data = io.BytesIO()
        soundfile.write(data, samples, 16_000, format=format, subtype=subtype)
        files.append(data.getvalue())
    for format, codec in (
        ("mp4", "aac"), ("adts", "aac"), ("webm", "libopus"), ("matroska", "aac"), ("mpegts", "aac"), ("flv", "aac"),
        ("mpeg", "mp2"), ("asf", "wmav2"), ("avi", "mp2"), ("ipod", "alac"), ("ac3", "ac3"),
        ("eac3", "eac3"), ("mp2", "mp2"), ("latm", "aac"), ("tta", "tta"), ("wv", "wavpack"), ("dvd", "ac3"),
    ):  # fmt: skip
        files.append(_muxed(format, codec, samples))
    files += [b"#!AMR\n" + (b"\x3c" + samples.tobytes()[:31]) * 50, (b"\xd0" + samples.tobytes()[:32]) * 50]
    joined = [_muxed("ogg", codec, samples) for codec in ("flac", "libopus")]  # a recording after one of another codec
    return [*files, joined[0] + joined[1], _muxed("wv", "wavpack", samples) * 2]


@functools.cache
def films() -> list[bytes]:
    """Two seconds of film, with sound, in many formats."""
    samples = (0.3 * np.sin(np.arange(48_000) / 20)).astype(np.float32)
    kinds = (
        ("mp4", "mpeg4", "aac"), ("mp4", "libx264", "aac"), ("mov", "mjpeg", "aac"), ("matroska", "mpeg4", "aac"),
        ("webm", "libvpx", "libopus"), ("avi", "mpeg4", "mp2"), ("mpegts", "mpeg2video", "mp2"), ("flv", "flv1", "aac"),
        ("asf", "wmv2", "wmav2"), ("mpeg", "mpeg1video", "mp2"),
    )  # fmt: skip
    return [_muxed(format, sound, samples, film) for format, film, sound in kinds]


def _muxed(format: str, codec: str, samples: np.ndarray, film: str | None = None) -> bytes:
    data = io.BytesIO()
    rate = 48_000
    with av.open(data, "w", format=format) as out:
        pictures = None
        if film is not None:
            pictures = out.add_stream(film, rate=25)
            pictures.width, pictures.height = 64, 48
            pictures.pix_fmt = "yuvj420p" if film == "mjpeg" else "yuv420p"
        sound = out.add_stream(codec, rate=rate, layout="mono")
        sound.bit_rate = 64_000
        for index in range(50 if pictures is not None else 0):
            values = np.full((48, 64, 3), (5 * index, 200 - 4 * index, index), np.uint8)
            out.mux(pictures.encode(av.VideoFrame.from_ndarray(values, format="rgb24")))
        if pictures is not None:
            out.mux(pictures.encode(None))
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        size = sound.codec_context.frame_size or 1024
        resampler = av.AudioResampler(sound.codec_context.format, "mono", rate, size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(sound.encode(part))
        out.mux(sound.encode(None))
    return data.getvalue()


def damaged(data: bytes, draw: np.random.Generator) -> bytes:
    """One to four kinds of damage, the more of them near the beginning, where headers are."""
    damaged = bytearray(data)
    for _ in range(draw.integers(1, 5)):
        size = len(damaged)
        if size < 8:
            break
        at = int(size * draw.random() ** draw.choice([1, 4]))
        length = int(min(size - at, 1 + size * draw.random() ** 4))
        match draw.integers(0, 7):
            case 0:
                damaged[at] = draw.integers(0, 256)
            case 1:
                damaged[at : at + 4] = int(draw.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])).to_bytes(4, "big")
            case 2:
                damaged[at : at + length] = draw.bytes(length)
            case 3:
                del damaged[at : at + length]
            case 4:
                damaged[at:at] = damaged[at : at + length]
            case 5:
                del damaged[at:]
            case 6:
                damaged[at] ^= 1 << int(draw.integers(0, 8))
    return bytes(damaged)


def look(data: bytes) -> None:
    """A picture that is read is RGB and within the limits."""
    image = load_image(data)
    assert image.mode == "RGB" and 1 <= image.width * image.height <= 64_000_000
    np.asarray(image)


def hear(data: bytes) -> None:
    """Sound that is read is finite and near the scale; what is there of a cut file is too."""
    samples = load_audio(data, max_seconds=600, allow_truncated=True).waveform
    assert samples.dtype == np.float32 and samples.ndim == 1 and len(samples) <= 601 * 16_000
    assert np.isfinite(samples).all() and np.abs(samples).max(initial=0) < 32


def watch(data: bytes) -> None:
    """Frames that are read are RGB, and in the order of their times. Then its sound."""
    video = load_video(data, num_frames=4, max_seconds=600)
    assert all(frame.mode == "RGB" for frame in video.frames) and list(video.times) == sorted(set(video.times))


KINDS: dict[str, tuple[Callable[[], list[bytes]], Callable[[bytes], None]]] = {
    "pictures": (pictures, look),
    "sounds": (sounds, hear),
    "films": (films, watch),
}


def attempt(kind: str, seed: int, index: int) -> tuple[str, str]:
    """Damage and read one file: (read, refused or failed; the message)."""
    make, read = KINDS[kind]
    files = make()
    data = damaged(files[index % len(files)], np.random.default_rng((seed, index)))
    start = time.monotonic()
    try:
        read(data)
        outcome = "read", ""
    except MediaError as error:
        outcome = "refused", str(error)
    except BaseException as error:  # whatever it is, it is counted and shown
        outcome = "failed", f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - start
    return outcome if seconds < SECONDS else ("failed", f"took {seconds:.0f} s")


Attempt = Callable[[str, int, int], tuple[str, str]]  # kind, seed and number of a file → outcome and message


def _worker(attempt: Attempt, kind: str, seed: int, first: int, last: int, results: multiprocessing.Queue) -> None:
    import logging
    import warnings

    logging.disable()
    warnings.simplefilter("ignore")
    av.logging.set_level(None)
    for index in range(first, last):
        results.put((index, None, ""))  # what is being tried, should the process die of it
        results.put((index, *attempt(kind, seed, index)))


def run(kind: str, count: int, seed: int, attempt: Attempt = attempt) -> tuple[Counter, list[str]]:
    """Read `count` damaged files in a process of their own, which is started anew where it dies."""
    counts: Counter = Counter()
    failures: list[str] = []
    index = 0
    with tqdm(total=count, desc=kind, mininterval=5) as bar:
        while index < count:
            results: multiprocessing.Queue = multiprocessing.get_context("spawn").Queue()
            process = multiprocessing.get_context("spawn").Process(
                target=_worker, args=(attempt, kind, seed, index, count, results), daemon=True
            )
            process.start()
            while index < count:
                try:
                    at, outcome, message = results.get(timeout=1)
                except Exception:  # queue.Empty
                    if process.is_alive():
                        continue
                    outcome, message = "failed", f"the process died with exit code {process.exitcode}"
                    at = index
                if outcome is None:
                    continue
                counts[outcome] += 1
                if outcome == "failed":
                    failures.append(f"{kind} {at}: {message}")
                index = at + 1
                bar.update()
                if message.startswith("the process died"):
                    break
            process.join()
    return counts, failures


def report(found: dict[str, tuple[Counter, list[str]]], read: str, refused: str) -> None:
    """Prints the outcomes of each kind as a table, and each failure; ends the program, with exit code 1 if any is."""
    print(f"| Damaged | files | {read} | {refused} | anything else |")
    print("|---|---|---|---|---|")
    for kind, (counts, _) in found.items():
        print(f"| {kind} | {counts.total():,} | {counts['read']:,} | {counts['refused']:,} | {counts['failed']:,} |")
    failures = [line for _, lines in found.values() for line in lines]
    print("\n".join(failures), file=sys.stderr)
    sys.exit(1 if failures else 0)


def main() -> None:
    """Print a table of outcomes, and each failure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=4000, help="files of each kind (default: 4000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    args = parser.parse_args()
    found = {kind: run(kind, args.count, args.seed) for kind in args.kinds}
    report(found, "read", "refused with MediaError")


if __name__ == "__main__":
    main()
