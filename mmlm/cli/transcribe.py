"""Write down what is said in recordings."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmlm.cli.batch import UNUSABLE, Batch
from mmlm.cli.first_contact import Note
from mmlm.cli.inputs import Input, inputs_of, labelled, output_stems
from mmlm.cli.loading import check_sound, device_of
from mmlm.cli.options import (
    SOUND_LIMITS,
    add_batch_options,
    add_device_option,
    add_json_option,
    add_reading_options,
    file_path,
    reading_options,
)

EXAMPLES = """\
  mmlm transcribe talk.mp3 --model whisper/small
  mmlm transcribe *.wav --model whisper/base --format srt --output subtitles/
  mmlm transcribe lectures/ --model whisper/base --format srt --output subtitles/  (keeps the folders' order)
  mmlm transcribe --data speech.jsonl --model whisper/base --json
  mmlm transcribe film.mp4 --model my-whisper.pt --language en --json
  mmlm transcribe talk.mp3 --model distil-whisper/distil-small.en
  arecord -f S16_LE -r 16000 -t raw -d 5 | mmlm transcribe - --pcm-rate 16000 --model whisper/base"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    given = verb.add_mutually_exclusive_group(required=True)
    given.add_argument(
        "recordings", nargs="*", default=[], metavar="AUDIO",
        help="sound or video files, folders, patterns, - for standard input",
    )  # fmt: skip
    given.add_argument("--data", type=file_path, metavar="DATA", help="tars or manifest: its recordings")
    verb.add_argument(
        "--model",
        default="nano",
        type=file_path,
        metavar="WHISPER",
        help="nano, whisper/small or another of openai-whisper's, its checkpoint file, or a folder or hub id of "
        "transformers or CTranslate2 (faster-whisper) (default: nano)",
    )
    verb.add_argument("--format", choices=("txt", "srt", "vtt", "tsv", "json", "all"), help="openai-whisper's formats")
    verb.add_argument("--output", type=file_path, metavar="FOLDER", help="write files there, not to standard output")
    verb.add_argument("--language", metavar="NAME", help="what is spoken; detected if not given")
    verb.add_argument("--task", choices=("transcribe", "translate"), default="transcribe", help="translate: to English")
    verb.add_argument("--vad", action="store_true", help="leave out text for stretches without speech (extra vad)")
    verb.add_argument("--prompt", metavar="TEXT", help="text that might come before: names and words to expect")
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="of the samples of second attempts")
    add_batch_options(verb)
    add_reading_options(verb, *SOUND_LIMITS)
    add_device_option(verb)
    add_json_option(verb)


def run(args: argparse.Namespace) -> int:
    """What is said, on standard output or in openai-whisper's file formats."""
    if args.format == "all" and args.output is None:
        raise ValueError("--format all writes several files: give a folder for them with --output")
    if args.json and (args.format or args.output) is not None:
        raise ValueError("--json prints the whole transcript: give it without --format and --output")
    if args.output is not None:
        from mmlm.training.checks import check_output

        check_output(args.output)
    batch = Batch(args)
    inputs = inputs_of(args, batch, args.recordings, "audio", args.data)
    label = labelled(args.recordings, inputs)
    if args.format is not None and args.output is None and label:
        raise ValueError(f"--format {args.format} of several recordings: give a folder for their files with --output")
    stems = None if args.output is None else dict(zip(inputs, output_stems(inputs, args.output), strict=True))
    reading = reading_options(args, *SOUND_LIMITS)
    inputs = [one for one in inputs if batch.attempt(one.name, lambda one=one: check_sound(one, reading))]
    if not inputs:
        return batch.code()
    from encoders.transcription.transcriber import Transcriber
    from encoders.whisper import load_whisper
    from mmlm.assembly.presets import part_of_preset

    given = {name: getattr(args, name) for name in ("language", "prompt", "task", "seed", "vad")}
    options = {name: value for name, value in given.items() if value is not None} | reading
    transcriber = Transcriber(load_whisper(part_of_preset(args.model, "audio_encoder.pt"), device_of(args)))
    note = Note(args)
    for one in inputs:
        stem = None if stems is None else stems[one]
        if batch.attempt(one.name, functools.partial(transcribe, args, transcriber, one, options, label, stem, note)):
            batch.done += 1
    return batch.code()


def transcribe(
    args: argparse.Namespace,
    transcriber: Any,
    one: Input,
    options: dict[str, Any],
    label: bool,
    stem: Path | None,
    note: Note,
) -> bool:
    """One recording, written wherever it was asked for: what was heard before an error, too. True when it is done."""
    running = transcriber.stream(one.source(), **options)
    at_once, segments = args.format is None and args.output is None and not args.json, []
    try:
        for segment in with_bar(running, one.name):
            segments.append(segment)
            if at_once:
                line = segment.text.strip()
                print(f"{one.name}\t{line}" if label else line, flush=True)
    except UNUSABLE as error:
        if segments and not at_once:
            write(args, one, running.transcript(segments).to_dict(), stem)
            raise ValueError(f"{error}; what was heard until then is written") from error
        raise
    if at_once and label and not segments:
        print(f"{one.name}\t", flush=True)  # nobody speaks in it
    said = running.transcript(segments)
    note.of_speech(said)
    write(args, one, said.to_dict(), stem)
    return True


def write(args: argparse.Namespace, one: Input, result: dict[str, Any], stem: Path | None) -> None:
    """One recording's transcript, wherever it was asked for; lines for people have been printed already."""
    if stem is None and not args.json and args.format is None:
        return
    if stem is None and args.json:
        print(json.dumps({"audio": one.name, **result}, ensure_ascii=False), flush=True)
        return
    from whisper.utils import get_writer

    if stem is not None:
        stem.parent.mkdir(parents=True, exist_ok=True)
        save: Any = get_writer(args.format or "txt", str(stem.parent))  # upstream annotates the name as a file
        save(result, f"{stem.name}.audio", {})  # it takes the suffix away
    else:
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
