"""Rows of what is said in recordings, in a job."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from mmlm.cli.batch import outcome
from mmlm.cli.first_contact import Note
from mmlm.cli.hearing import listening, load_transcriber
from mmlm.cli.inputs import Input
from mmlm.cli.job import Work, error_row
from mmlm.cli.output import marked

if TYPE_CHECKING:
    from encoders.transcription.transcript import Transcript
    from mmlm.data.records import BadRecord
    from mmlm.jobs import Item


def transcript_work(args: argparse.Namespace, rank: int, reading: Any) -> Work:
    """What `mmlm transcribe` does in a job: a row has the text, its language and the seconds of the recording.

    Where channels are speakers, the text has a line for each segment, which begins with its speaker. With `--json` a
    row has the whole transcript. reading: options of the reader of recordings.
    """

    @functools.cache
    def loaded() -> tuple[dict[str, str], Callable[[Any], Any]]:
        from encoders.base import fingerprint

        transcriber = load_transcriber(args)
        return {"whisper": fingerprint(transcriber.model)}, listening(args, reading, transcriber)

    def said_in(item: Item) -> Transcript:
        running = loaded()[1](Input(item.name, PurePath(), item.place).source())
        return running.transcript(list(running))

    def row(item: Item | BadRecord) -> dict[str, Any]:
        from mmlm.data.streams import UnreachableError
        from mmlm.jobs import Item

        if not isinstance(item, Item):
            return error_row(args, item.key, item.reason)
        said = outcome(lambda: said_in(item), UnreachableError)
        if isinstance(said, Exception):
            return error_row(args, item.key, said)
        if note is not None:
            note.of_speech(said)
        about = {"text": text_of(said), "language": said.language, "seconds": round(said.seconds, 3)}
        return {"key": item.key, **about, **(said.to_dict() if args.json else {})}

    def rows_of(items: Sequence[Item | BadRecord], _: int) -> list[dict[str, Any]]:
        return [row(item) for item in items]

    note = Note(args) if rank == 0 else None
    return Work(lambda: loaded()[0], rows_of)


def text_of(said: Transcript) -> str:
    """What is said, as `mmlm transcribe` prints it where channels are speakers."""
    lines = [marked(segment.text.strip(), segment.channel) for segment in said.segments]
    return "\n".join(lines) if any(segment.channel is not None for segment in said.segments) else said.text
