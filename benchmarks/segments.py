"""Whether segments of long noisy recordings are openai-whisper's, on real weights.

    MMLM_REAL=FOLDER python benchmarks/segments.py 'speech/*.tar' --noise 'noise/*.tar' [--models base tiny.en]

FOLDER holds whisper-MODEL.pt (shared/real/prepare.py makes it). The recordings of the data are joined with pauses to
one of `--minutes`, and the sounds of `--noise`, one after the other, are added to it, by so many decibels weaker than
the speech. Both programs transcribe it greedily, in English, first with temperature 0 alone, then with the
temperatures that both try by default, where each draws its own samples.

A segment is equal if its text and both times, to 0.02 s, are those of one of openai-whisper's. "To the first
difference" is the share of openai-whisper's segments before the first that differs: a window starts where the last
segment ended and is given the text before it, so that one difference can change all that follows.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

RATE = 16_000
PAUSE = RATE // 2  # samples between joined recordings
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def sounds(data: list[str]) -> list[tuple[np.ndarray, str]]:
    """The recordings of the data with what is said in them."""
    from encoders.media.sound import load_audio
    from mmlm.data import read_records

    records = [record for record in read_records(data).records if record.sound]
    read = [record.sound if isinstance(record.sound, bytes) else record.sound.read() for record in records]
    return [
        (load_audio(one).waveform, getattr(record, "transcript", None) or "")
        for one, record in zip(read, records, strict=True)
    ]


def joined(parts: list[np.ndarray], seconds: float) -> tuple[np.ndarray, int]:
    """The first parts, as many as fit, with pauses; and how many they are."""
    taken, length = [], 0
    for part in parts:
        if length + len(part) + PAUSE > seconds * RATE:
            break
        taken += [part, np.zeros(PAUSE, np.float32)]
        length += len(part) + PAUSE
    return np.concatenate(taken), len(taken) // 2


def noisy(speech: np.ndarray, noise: np.ndarray, decibels: float) -> np.ndarray:
    """Speech with noise whose power lies so many decibels below its own."""
    long = np.resize(noise, len(speech))
    scale = np.sqrt(np.mean(speech**2) / np.mean(long**2)) * 10 ** (-decibels / 20)
    mixed = speech + scale * long
    return (mixed / max(1.0, float(np.abs(mixed).max()))).astype(np.float32)


Segments = list[tuple[float, float, str]]


def upstream(model: object, samples: np.ndarray, temperatures: tuple[float, ...]) -> Segments:
    import torch
    import whisper

    torch.manual_seed(0)
    found = whisper.transcribe(model, samples, language="en", temperature=temperatures, fp16=False, verbose=None)
    return [(one["start"], one["end"], one["text"].strip()) for one in found["segments"]]


def own(model: object, samples: np.ndarray, temperatures: tuple[float, ...]) -> Segments:
    from encoders.transcription.transcriber import Transcriber

    found = Transcriber(model).transcribe((samples, RATE), language="en", temperatures=temperatures)
    return [(one.start, one.end, one.text.strip()) for one in found.segments]


def equal(one: tuple[float, float, str], other: tuple[float, float, str]) -> bool:
    return one[2] == other[2] and abs(one[0] - other[0]) <= 0.02 and abs(one[1] - other[1]) <= 0.02


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--noise", nargs="+", required=True)
    parser.add_argument("--weights", type=Path, default=os.environ.get("MMLM_REAL"), help="default: $MMLM_REAL")
    parser.add_argument("--models", nargs="+", default=["base", "tiny.en"])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--decibels", nargs="+", type=float, default=[40, 10, 0])
    options = parser.parse_args(argv)
    if options.weights is None:
        parser.error("set MMLM_REAL to a folder made by shared/real/prepare.py, or give --weights")
    import whisper

    from mmlm.evaluation.metrics.words import word_error_rate

    spoken = sounds(options.data)
    speech, count = joined([part for part, _ in spoken], options.minutes * 60)
    expected = [" ".join(text for _, text in spoken[:count])]
    noise = np.concatenate([part for part, _ in sounds(options.noise)])
    print(f"{count} recordings, {len(speech) / RATE / 60:.1f} minutes\n")
    names = ("Whisper", "speech over noise", "temperatures", "segments, openai-whisper's", "own", "equal")
    names = (*names, "to the first difference", "WER, openai-whisper's", "own")
    print(f"| {' | '.join(names)} |\n" + "| --- " * len(names) + "|", flush=True)
    for name in options.models:
        model = whisper.load_model(str(options.weights / f"whisper-{name}.pt"), "cpu")
        for decibels in options.decibels:
            samples = noisy(speech, noise, decibels)
            for temperatures in (TEMPERATURES[:1], TEMPERATURES):
                theirs, ours = (run(model, samples, temperatures) for run in (upstream, own))
                same = sum(any(equal(one, other) for other in ours) for one in theirs)
                first = next(
                    (at for at, one in enumerate(theirs) if at >= len(ours) or not equal(one, ours[at])), len(theirs)
                )
                errors = [word_error_rate([" ".join(one[2] for one in part)], expected) for part in (theirs, ours)]
                shares = [f"{part / max(1, len(theirs)):.1%}" for part in (same, first)]
                tried = "0" if len(temperatures) == 1 else "0 to 1"
                row = (name, f"{decibels:g} dB", tried, str(len(theirs)), str(len(ours)), *shares)
                print(f"| {' | '.join(row)} | {errors[0]:.1%} | {errors[1]:.1%} |", flush=True)


if __name__ == "__main__":
    main()
