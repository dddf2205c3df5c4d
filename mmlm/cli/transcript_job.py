"""Rows of what is said in recordings, in a job."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from mmlm.cli.batch import outcome
from mmlm.cli.first_contact import Note
from mmlm.cli.hearing import listening, load_transcriber
from mmlm.cli.inputs import Input
from mmlm.cli.job import Work, error_row
from mmlm.cli.output import marked

if TYPE_CHECKING:
    from encoders.transcription.transcriber import Transcriber
    from encoders.transcription.transcript import Transcript, Transcription
    from mmlm.data.records import BadRecord
    from mmlm.jobs import Item


def transcript_work(args: argparse.Namespace, rank: int, reading: Any) -> Work:
    """What `mmlm transcribe` does in a job: a row has the text, its language and the seconds of the recording.

    Several recordings are written down together, unless their channels are speakers: then the text has a line for each
    segment, which begins with its speaker. With `--json` a row has the whole transcript. reading: options of the reader
    of recordings.
    """

    @functools.cache
    def loaded() -> tuple[dict[str, str], Transcriber, Callable[[Any], Transcription]]:
        from encoders.base import fingerprint

        transcriber = load_transcriber(args)
        return {"whisper": fingerprint(transcriber.model)}, transcriber, listening(args, reading, transcriber)

    def said_in(items: Sequence[Item]) -> Iterator[tuple[int, Transcript | Exception]]:
        """The transcript of each, or what is wrong with it, as soon as it is known."""
        from encoders.transcription.together import transcribed_together

        _, transcriber, listen = loaded()
        begin = [functools.partial(_begun, listen, item) for item in items]
        if args.channels == "mix":
            yield from transcribed_together(transcriber, begin)
        else:
            for number, start in enumerate(begin):
                yield number, outcome(lambda start=start: _whole(start()))

    def row(item: Item, said: Transcript | Exception) -> dict[str, Any]:
        """A recording's row; errors of a fault that is not the recording's are raised."""
        from mmlm.data.streams import UnreachableError

        said = outcome(functools.partial(_given, said), UnreachableError)
        if isinstance(said, Exception):
            return error_row(args, item.key, said)
        if note is not None:
            note.of_speech(said)
        about = {"text": text_of(said), "language": said.language, "seconds": round(said.seconds, 3)}
        return {"key": item.key, **about, **(said.to_dict() if args.json else {})}

    def rows_of(items: Sequence[Item | BadRecord], _: int) -> list[dict[str, Any]]:
        """The rows of a shard, in the order of its items."""
        from mmlm.jobs import Item

        rows, good = dict[int, dict[str, Any]](), list[tuple[int, Item]]()
        for place, item in enumerate(items):
            if isinstance(item, Item):
                good.append((place, item))
            else:
                rows[place] = error_row(args, item.key, item.reason)
        for number, said in said_in([item for _, item in good]):
            place, item = good[number]
            rows[place] = row(item, said)
        return [rows[place] for place in range(len(items))]

    note = Note(args) if rank == 0 else None
    return Work(lambda: loaded()[0], rows_of)


def _begun(listen: Callable[[Any], Transcription], item: Item) -> Transcription:
    return listen(Input(item.name, PurePath(), item.place).source())


def _whole(running: Transcription) -> Transcript:
    return running.transcript(list(running))


def _given(said: Transcript | Exception) -> Transcript:
    """The transcript; the error is raised."""
    if isinstance(said, Exception):
        raise said
    return said


def text_of(said: Transcript) -> str:
    """What is said, as `mmlm transcribe` prints it where channels are speakers."""
    lines = [marked(segment.text.strip(), segment.channel) for segment in said.segments]
    return "\n".join(lines) if any(segment.channel is not None for segment in said.segments) else said.text
