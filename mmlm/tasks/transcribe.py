"""What is said in recordings, as Whisper writes it down."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from encoders.media.container import MAX_BYTES, MAX_SECONDS
from encoders.media.notices import unnoticed
from encoders.media.sound import open_audio
from encoders.media.source import is_path
from mmlm.generation.options import takes_options
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.parts import Sound
from mmlm.tasks.rows import as_rows, bare

if TYPE_CHECKING:
    from encoders.media.sound import ReadingOptions
    from encoders.transcription.transcriber import Transcriber
    from encoders.transcription.transcript import Transcript


@takes_options
def transcribe(
    model: MultimodalNetwork,
    recordings: Any,
    *,
    language: str | None = None,
    task: Literal["transcribe", "translate"] = "transcribe",
    prompt: str | None = None,
    temperatures: Sequence[float] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    condition_on_previous_text: bool = True,
    beam_size: int | None = None,
    vad: bool = False,
    word_timestamps: bool = False,
    channels: Literal["mix", "split"] = "mix",
    seed: int = 0,
    max_seconds: float = MAX_SECONDS,
    max_bytes: float = MAX_BYTES,
    pcm_rate: float | None = None,
    allow_truncated: bool = False,
    allow_url: bool = False,
) -> Transcript | list[Transcript]:
    """What is said in a recording, as a `Transcript`; several recordings, which are written down together, give a list.

    channels: "split" takes each channel of a recording for a speaker: it is written down by itself, and segments carry
        `channel`, where 1 is the first. "mix" writes down their mean.
    The other options and errors are those of `encoders.transcription.Transcriber.stream`, from `max_seconds` on those
    of `encoders.media.open_audio`. ValueError where the model has no Whisper.
    """
    options: dict[str, Any] = {
        "language": language, "task": task, "prompt": prompt, "temperatures": temperatures,
        "condition_on_previous_text": condition_on_previous_text, "beam_size": beam_size, "vad": vad,
        "word_timestamps": word_timestamps, "seed": seed,
    }  # fmt: skip
    reading: ReadingOptions = {
        "max_seconds": max_seconds, "max_bytes": max_bytes, "pcm_rate": pcm_rate,
        "allow_truncated": allow_truncated, "allow_url": allow_url,
    }  # fmt: skip
    rows, batch = as_rows(recordings=recordings)
    given = [bare(one, Sound) for (one,) in rows]
    if channels == "split":
        from encoders.transcription.channels import stream_channels

        each = (stream_channels(model.transcriber, one, reading, **options) for one in given)
        found = [running.transcript(list(running)) for running in each]
    elif len(given) == 1:
        found = [model.transcriber.transcribe(given[0], **options, **reading)]
    else:
        for one in given:
            if is_path(one):  # what is wrong with the last is told before the first is written down
                with unnoticed(), open_audio(one, **reading):
                    pass
        found = _together(model.transcriber, given, {**options, **reading})
    return found if batch else found[0]


def _together(transcriber: Transcriber, recordings: Sequence[Any], options: dict[str, Any]) -> list[Transcript]:
    """The transcripts of several recordings; the first error is raised."""
    from encoders.transcription.together import transcribed_together

    begin = [functools.partial(transcriber.stream, one, **options) for one in recordings]
    found: dict[int, Transcript] = {}
    for number, said in transcribed_together(transcriber, begin):
        if isinstance(said, Exception):
            raise said
        found[number] = said
    return [found[number] for number in range(len(recordings))]
