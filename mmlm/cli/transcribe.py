"""Write down what is said in recordings."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmlm.cli.loading import check_files, device_of, source_of
from mmlm.cli.options import add_device_option, add_json_option

EXAMPLES = """\
  mmlm transcribe talk.mp3 --model whisper/small
  mmlm transcribe *.wav --model whisper/base --format srt --output subtitles/
  mmlm transcribe film.mp4 --model my-whisper.pt --language en --json
  arecord -f S16_LE -r 16000 -t raw -d 5 | mmlm transcribe - --pcm-rate 16000 --model whisper/base"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verb.add_argument("recordings", nargs="+", metavar="AUDIO", help="sound or video files; - reads standard input")
    verb.add_argument(
        "--model",
        default="nano",
        metavar="WHISPER",
        help="nano, a Whisper model such as whisper/small (downloaded once), or a checkpoint file (default: nano)",
    )
    verb.add_argument("--format", choices=("txt", "srt", "vtt", "tsv", "json", "all"), help="openai-whisper's formats")
    verb.add_argument("--output", metavar="FOLDER", help="write files there instead of to standard output")
    verb.add_argument("--language", metavar="NAME", help="what is spoken; detected if not given")
    verb.add_argument("--task", choices=("transcribe", "translate"), default="transcribe", help="translate: to English")
    verb.add_argument("--vad", action="store_true", help="leave out text for stretches without speech (extra vad)")
    verb.add_argument("--prompt", metavar="TEXT", help="text that might come before: names and words to expect")
    verb.add_argument("--pcm-rate", type=int, metavar="HZ", help="the input is raw 16-bit mono at this rate")
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="of the samples of second attempts")
    add_device_option(verb)
    add_json_option(verb)


def run(args: argparse.Namespace) -> None:
    """What is said, on standard output or in openai-whisper's file formats."""
    check_files(args.recordings)
    if args.format == "all" and args.output is None:
        raise ValueError("--format all writes several files: give a folder for them with --output")
    from encoders.transcription.transcriber import Transcriber
    from encoders.whisper import load_whisper
    from mmlm.assembly.presets import part_of_preset

    given = {name: getattr(args, name) for name in ("language", "prompt", "pcm_rate")}
    options = {name: value for name, value in given.items() if value is not None}
    transcriber = Transcriber(load_whisper(part_of_preset(args.model, "audio_encoder.pt"), device_of(args)))
    at_once = args.format is None and args.output is None and not args.json
    for name in args.recordings:
        running = transcriber.stream(source_of(name), task=args.task, seed=args.seed, vad=args.vad, **options)
        segments = []
        for segment in with_bar(running, name):
            segments.append(segment)
            if at_once:
                line = segment.text.strip()
                print(line if len(args.recordings) == 1 else f"{name}\t{line}", flush=True)
        write(args, name, running.transcript(segments).to_dict())


def write(args: argparse.Namespace, name: str, result: dict[str, Any]) -> None:
    """One recording's transcript, wherever it was asked for; lines for people have been printed already."""
    from whisper.utils import get_writer

    if args.output is not None:
        Path(args.output).mkdir(parents=True, exist_ok=True)
        save: Any = get_writer(args.format or "txt", args.output)  # upstream annotates the name as a file
        save(result, "stdin" if name == "-" else name, {})
    elif args.json:
        print(json.dumps({"audio": name, **result}, ensure_ascii=False), flush=True)
    elif args.format is not None:
        writer: Any = get_writer(args.format, ".")
        writer.write_result(result, sys.stdout, {})


def with_bar(running: Any, name: str) -> Iterator[Any]:
    """The segments of a running transcription, with a bar of seconds on the terminal."""
    from tqdm import tqdm

    with tqdm(desc=name, unit="s", disable=not sys.stderr.isatty(), bar_format="{l_bar}{bar}| {elapsed}") as bar:
        for segment in running:
            bar.total = running.total
            bar.update(running.seconds - bar.n)
            yield segment
        bar.update(running.seconds - bar.n)
