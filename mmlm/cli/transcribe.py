"""Write down what is said in recordings."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmlm.cli.batch import UNUSABLE, Batch
from mmlm.cli.first_contact import Note
from mmlm.cli.hearing import listening, load_transcriber
from mmlm.cli.inputs import Input, check_given, inputs_of, labelled, output_stems
from mmlm.cli.job import Work, add_job_options, is_job, run_job
from mmlm.cli.loading import check_sound
from mmlm.cli.options import (
    SOUND_LIMITS,
    add_batch_options,
    add_device_option,
    add_json_option,
    add_pack_option,
    add_reading_options,
    file_path,
    reading_options,
)
from mmlm.cli.output import marked
from mmlm.cli.transcript_job import transcript_work

FORMATS = ("txt", "vtt", "srt", "tsv", "json")  # openai-whisper's
EXAMPLES = """\
  mmlm transcribe talk.mp3 --model whisper/small
  mmlm transcribe *.wav --model whisper/base --format srt --output subtitles/
  mmlm transcribe lectures/ --model whisper/base --format srt --output subtitles/  (keeps the folders' order)
  mmlm transcribe --data speech.jsonl --model whisper/base --json
  mmlm transcribe --data "calls/*.tar" --output texts/ --model whisper/small   (millions: ended at any time, it goes on)
  mmlm transcribe film.mp4 --model my-whisper.pt --language en --json
  mmlm transcribe talk.mp3 --model distil-whisper/distil-small.en --pack int8 --beam-size 5
  mmlm transcribe talk.mp3 --model whisper/small --format vtt --word-timestamps
  mmlm transcribe call.wav --model whisper/small --channels split
  arecord -f S16_LE -r 16000 -t raw -d 5 | mmlm transcribe - --pcm-rate 16000 --model whisper/base"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verb.add_argument(
        "recordings", nargs="*", default=[], metavar="AUDIO",
        help="sound or video files, folders, patterns, - for standard input",
    )  # fmt: skip
    verb.add_argument(
        "--data", type=file_path, metavar="DATA",
        help="tars (here, s3://…, https://…) or manifest: its recordings",
    )  # fmt: skip
    verb.add_argument(
        "--model",
        default="nano",
        type=file_path,
        metavar="WHISPER",
        help="nano, whisper/small or another of openai-whisper's, its checkpoint file, or a folder or hub id of "
        "transformers or CTranslate2 (faster-whisper) (default: nano)",
    )
    verb.add_argument("--format", choices=(*FORMATS, "all"), help="openai-whisper's formats")
    verb.add_argument(
        "--output", type=file_path, metavar="FOLDER",
        help="write files there, not to standard output; with --data and without --format, rows (many inputs, below)",
    )  # fmt: skip
    verb.add_argument("--language", metavar="NAME", help="what is spoken; detected if not given")
    verb.add_argument("--task", choices=("transcribe", "translate"), default="transcribe", help="translate: to English")
    verb.add_argument("--vad", action="store_true", help="leave out text for stretches without speech (extra vad)")
    verb.add_argument("--prompt", metavar="TEXT", help="text that might come before: names and words to expect")
    verb.add_argument("--beam-size", type=int, metavar="N", help="search with so many beams (default: greedily)")
    verb.add_argument(
        "--word-timestamps",
        action="store_true",
        help="time each word (in json; srt and vtt show the word that is said)",
    )
    verb.add_argument(
        "--channels", choices=("mix", "split"), default="mix",
        help="split: each channel is a speaker, written down by itself (default: mix)",
    )  # fmt: skip
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="of the samples of second attempts")
    add_batch_options(verb)
    add_job_options(verb, shard_size=100)
    add_reading_options(verb, *SOUND_LIMITS)
    add_device_option(verb)
    add_pack_option(verb)
    add_json_option(verb)


def run(args: argparse.Namespace) -> int:
    """What is said, on standard output, in openai-whisper's file formats, or as rows of a job."""
    check_given(args.recordings, args.data, "AUDIO")
    if args.format == "all" and args.output is None:
        raise ValueError("--format all writes several files: give a folder for them with --output")
    job = is_job(args) and args.format is None
    if args.json and (args.format or args.output) is not None and not job:
        raise ValueError("--json prints the whole transcript: give it without --format and --output")
    if args.word_timestamps and not args.json and args.format not in ("srt", "vtt", "json", "all"):
        raise ValueError("--word-timestamps: lines of text have no times; give --format json, srt or vtt, or --json")
    if job:
        return run_job(args, "audio", work_of)
    if args.channels == "split" and any(name == "-" or "://" in name for name in args.recordings):
        raise ValueError("--channels split reads a recording more than once: give a file")
    if args.output is not None:
        from mmlm.training.checks import check_output

        check_output(args.output)
    batch = Batch(args)
    inputs = inputs_of(args, batch, args.recordings, "audio", args.data)
    label = labelled(args.recordings, inputs)
    if args.format is not None and args.output is None and label:
        raise ValueError(f"--format {args.format} of several recordings: give a folder for their files with --output")
    stems = None if args.output is None else dict(zip(inputs, output_stems(inputs, args.output), strict=True))
    reading: Any = reading_options(args, *SOUND_LIMITS)
    inputs = [one for one in inputs if batch.attempt(one.name, lambda one=one: check_sound(one, reading))]
    if not inputs:
        return batch.code()
    stream, note = listening(args, reading, load_transcriber(args)), Note(args)
    for one in inputs:
        stem = None if stems is None else stems[one]
        if batch.attempt(one.name, functools.partial(transcribe, args, stream, one, label, stem, note)):
            batch.done += 1
    return batch.code()


def work_of(args: argparse.Namespace, rank: int) -> Work:
    """Transcripts in a job."""
    return transcript_work(args, rank, reading_options(args, *SOUND_LIMITS))


def transcribe(
    args: argparse.Namespace,
    stream: Callable[[Any], Any],
    one: Input,
    label: bool,
    stem: Path | None,
    note: Note,
) -> bool:
    """One recording, written wherever it was asked for: what was heard before an error, too. True when it is done."""
    running = stream(one.source())
    at_once, segments = args.format is None and args.output is None and not args.json, []
    try:
        for segment in with_bar(running, one.name):
            segments.append(segment)
            if at_once:
                line = marked(segment.text.strip(), segment.channel)
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
    for name in FORMATS if args.format == "all" else (args.format or "txt",):
        written(name, result if name == "json" else with_speakers(result), stem)


def written(name: str, result: dict[str, Any], stem: Path | None) -> None:
    """A transcript in one of openai-whisper's formats: as a file, or on standard output."""
    from whisper.utils import get_writer

    folder = "." if stem is None else str(stem.parent)
    writer: Any = get_writer(name, folder)  # upstream annotates the name as a file
    shown = {"highlight_words": "words" in next(iter(result["segments"]), {})}
    if stem is None:
        writer.write_result(result, sys.stdout, shown)
    else:
        stem.parent.mkdir(parents=True, exist_ok=True)
        writer(result, f"{stem.name}.audio", shown)  # it takes the suffix away


def with_speakers(result: dict[str, Any]) -> dict[str, Any]:
    """A transcript whose lines begin with their speakers, where channels are speakers."""
    return {**result, "segments": [with_speaker(segment) for segment in result["segments"]]}


def with_speaker(segment: dict[str, Any]) -> dict[str, Any]:
    """A segment whose text, and so its first word, begins with its speaker."""
    if "channel" not in segment:
        return segment
    found = {**segment, "text": marked(segment["text"].strip(), segment["channel"])}
    if words := [dict(word) for word in segment.get("words", ())]:
        words[0]["word"] = marked(words[0]["word"].strip(), segment["channel"])
        found["words"] = words
    return found


def with_bar(running: Any, name: str) -> Iterator[Any]:
    """The segments of a running transcription, with a bar of seconds on the terminal."""
    from tqdm import tqdm

    with tqdm(desc=name, unit="s", disable=not sys.stderr.isatty(), bar_format="{l_bar}{bar}| {elapsed}") as bar:
        for segment in running:
            bar.total = running.total
            bar.update(running.seconds - bar.n)
            yield segment
        bar.update(running.seconds - bar.n)
