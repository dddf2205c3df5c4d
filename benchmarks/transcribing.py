"""Transcribing real speech with real weights, beside openai-whisper and faster-whisper.

    MMLM_REAL=FOLDER python benchmarks/transcribing.py 'speech/dev-*.tar' [--peers FOLDER] [--model base] [--rounds 3]

FOLDER holds whisper-MODEL.pt and faster-whisper-MODEL (shared/real/prepare.py makes it). The data are recordings with
their transcripts, in any form that `mmlm.read_records` reads. They are transcribed as they are ("each"), joined to one
long recording with pauses ("joined"), and to recordings of a minute ("minutes"). "together" writes several recordings
down at once. `--peers` is a folder where `pip install --target` put faster-whisper.

Every run is a process of its own, which first transcribes 5 s that do not count; the programs take turns. CPU seconds
are of all threads, for one minute of speech, the median of the rounds; the ratios are medians of the ratios within a
round: to openai-whisper, and to faster-whisper in int8. All programs detect the language, in the first window or in
each recording, unless `--language` gives it, and draw one sample where they try again. Words are normalised alike.
"""

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

RATE = 16_000
PAUSE = RATE // 2  # samples between joined recordings
MINUTE = 60 * RATE
PROGRAMS = (
    "openai-whisper", "faster-whisper", "faster-whisper int8", "mmlm", "mmlm exact", "mmlm int8",
    "mmlm exact together", "mmlm int8 together",
)  # fmt: skip
BASES = ("openai-whisper", "faster-whisper int8")
SETS = ("joined", "each", "minutes")
Transcribe = Callable[[list[np.ndarray]], list[str]]


def openai_whisper(weights: Path, model: str, options: argparse.Namespace) -> Transcribe:
    import torch
    import whisper

    torch.set_num_threads(options.threads)
    own = whisper.load_model(str(weights / f"whisper-{model}.pt"), "cpu")
    settings = {"beam_size": options.beams, "language": options.language, "fp16": False}
    return lambda recordings: [str(whisper.transcribe(own, samples, **settings)["text"]) for samples in recordings]


def faster_whisper(weights: Path, model: str, options: argparse.Namespace, kind: str) -> Transcribe:
    from faster_whisper import WhisperModel

    folder = str(weights / f"faster-whisper-{model}")
    own = WhisperModel(folder, device="cpu", compute_type=kind, cpu_threads=options.threads)
    settings = {"beam_size": options.beams or 1, "best_of": 1, "language": options.language}

    def transcribe(samples: np.ndarray) -> str:
        segments, _ = own.transcribe(samples, **settings)
        return "".join(segment.text for segment in segments)

    return lambda recordings: [transcribe(samples) for samples in recordings]


def mmlm(weights: Path, model: str, options: argparse.Namespace, forms: list[str]) -> Transcribe:
    import torch

    from encoders.transcription.together import transcribed_together
    from encoders.transcription.transcriber import Transcriber
    from encoders.whisper import load_whisper
    from mmlm.acceleration.speech import pack_transcriber

    torch.set_num_threads(options.threads)
    own = Transcriber(load_whisper(weights / f"whisper-{model}.pt"))
    for form in set(forms) - {"together"}:
        pack_transcriber(own, form)
    settings = {"beam_size": options.beams, "language": options.language}
    if "together" not in forms:
        return lambda recordings: [own.transcribe((samples, RATE), **settings).text for samples in recordings]

    def together(recordings: list[np.ndarray]) -> list[str]:
        begin = [partial(own.stream, (samples, RATE), **settings) for samples in recordings]
        return [said.text for _, said in sorted(transcribed_together(own, begin), key=lambda one: one[0])]

    return together


def loaded(program: str, options: argparse.Namespace) -> Transcribe:
    """A program with its model."""
    name, _, form = program.partition(" ")
    if name == "openai-whisper":
        return openai_whisper(options.weights, options.model, options)
    if name == "faster-whisper":
        return faster_whisper(options.weights, options.model, options, form or "float32")
    return mmlm(options.weights, options.model, options, form.split())


def measure(program: str, files: list[Path], options: argparse.Namespace) -> dict:
    """What a process prints: CPU seconds, texts and the peak of memory of transcribing these arrays of samples."""
    recordings = [np.load(file) for file in files]
    transcribe = loaded(program, options)
    transcribe([recordings[0][: 5 * RATE]])
    start = time.process_time()
    texts = transcribe(recordings)
    seconds = time.process_time() - start
    return {"cpu": seconds, "texts": texts, "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


def run(program: str, files: list[Path], options: argparse.Namespace, beams: int | None) -> dict:
    """`measure` in a process of its own."""
    given = {"--weights": options.weights, "--model": options.model, "--threads": options.threads, "--beams": beams}
    given |= {"--language": options.language, "--child": program}
    flags = [str(part) for pair in given.items() if pair[1] is not None for part in pair]
    paths = [str(Path(__file__).parents[1]), str(options.peers or ""), os.environ.get("PYTHONPATH", "")]
    own = {"OMP_NUM_THREADS": str(options.threads), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, __file__, *map(str, files), *flags]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | own)
    return json.loads(done.stdout.splitlines()[-1])


def heading() -> None:
    names = ("recordings", "program", "search", "CPU s/min", *(f"÷ {base}" for base in BASES), "WER", "peak")
    print(f"| {' | '.join(names)} |\n" + "| --- " * len(names) + "|", flush=True)


def compare(
    name: str,
    files: list[Path],
    expected: list[str],
    beams: int | None,
    installed: list[str],
    options: argparse.Namespace,
) -> None:
    """All programs over these files, in turns, and one line for each."""
    from mmlm.evaluation.metrics.words import word_error_rate

    minutes = sum(len(np.load(file, mmap_mode="r")) for file in files) / RATE / 60
    rounds = [{program: run(program, files, options, beams) for program in installed} for _ in range(options.rounds)]
    for program in options.programs:
        search = "greedy" if beams is None else f"{beams} beams"
        if program not in installed:
            print(f"| {name} | {program} | {search} | not installed | | | | |", flush=True)
            continue
        own = [found[program] for found in rounds]
        cost = statistics.median(found["cpu"] for found in own) / minutes
        ratios = []
        for base in BASES:
            pairs = [found[program]["cpu"] / found[base]["cpu"] for found in rounds if base in found]
            ratios.append(f"{statistics.median(pairs):.2f}" if pairs else "")
        errors = word_error_rate(own[-1]["texts"], expected)
        peak = max(found["gigabytes"] for found in own)
        print(f"| {name} | {program} | {search} | {cost:.1f} | {' | '.join(ratios)} | {errors:.1%} | {peak:.2f} GB |")
        sys.stdout.flush()


def prepared(options: argparse.Namespace, folder: Path) -> dict[str, tuple[list[Path], list[str]]]:
    """The arrays of samples, as files in `folder`, and what is said in them, of each set."""
    from encoders.media.sound import load_audio
    from mmlm.data import read_records

    records = [record for record in read_records(options.data).records if record.sound and record.transcript]
    records = records[:: max(1, len(records) // options.count)][: options.count]
    sounds = [record.sound if isinstance(record.sound, bytes) else record.sound.read() for record in records]
    samples = [load_audio(sound).waveform for sound in sounds]
    texts = [record.transcript for record in records]
    places = list(range(len(samples)))
    minutes, length = [[]], 0
    for place in places:
        if length and length + len(samples[place]) > MINUTE:
            minutes, length = [*minutes, []], 0
        minutes[-1].append(place)
        length += len(samples[place]) + PAUSE
    silence, found = np.zeros(PAUSE, np.float32), {}
    for name, groups in (("joined", [places]), ("each", [[place] for place in places]), ("minutes", minutes)):
        files = [folder / f"{name}-{number}.npy" for number in range(len(groups))]
        for file, group in zip(files, groups, strict=True):
            np.save(file, np.concatenate([part for place in group for part in (samples[place], silence)][:-1]))
        found[name] = files, [" ".join(texts[place] for place in group) for group in groups]
    return found


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--weights", type=Path, default=os.environ.get("MMLM_REAL"), help="default: $MMLM_REAL")
    parser.add_argument("--model", default="base")
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=PROGRAMS)
    parser.add_argument("--search", nargs="+", type=int, default=[1, 5], help="numbers of beams; 1 is greedy")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["joined", "each"])
    parser.add_argument("--count", type=int, default=1000, help="recordings to take of the data")
    parser.add_argument("--language")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beams", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.weights is None:
        parser.error("set MMLM_REAL to a folder made by shared/real/prepare.py, or give --weights")
    return options


def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    if options.child:
        print(json.dumps(measure(options.child, [Path(name) for name in options.data], options)))
        return
    here = importlib.util.find_spec("faster_whisper") or (options.peers and (options.peers / "faster_whisper").is_dir())
    installed = [program for program in options.programs if here or not program.startswith("faster")]
    heading()
    with tempfile.TemporaryDirectory() as folder:
        sets = prepared(options, Path(folder))
        for name in options.sets:
            for beams in options.search:
                compare(name, *sets[name], None if beams == 1 else beams, installed, options)


if __name__ == "__main__":
    main()
