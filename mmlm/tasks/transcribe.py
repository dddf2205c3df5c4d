"""What is said in recordings, as Whisper writes it down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from decoders.values import check_kind
from encoders.media.container import MAX_BYTES, MAX_SECONDS
from mmlm.generation.options import takes_options
from mmlm.model.network import MultimodalNetwork
from mmlm.tasks.rows import as_rows

if TYPE_CHECKING:
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
    seed: int = 0,
    max_seconds: float = MAX_SECONDS,
    max_bytes: int = MAX_BYTES,
    pcm_rate: int | None = None,
    allow_truncated: bool = False,
    allow_url: bool = False,
) -> Transcript | list[Transcript]:
    """What is said in a recording, as a `Transcript`; several recordings give a list.

    The options and errors are those of `encoders.transcription.Transcriber.stream`, from `max_seconds` on those of
    `encoders.media.open_audio`. ValueError where the model has no Whisper.
    """
    options: dict[str, Any] = {
        "language": language, "task": task, "prompt": prompt, "temperatures": temperatures,
        "condition_on_previous_text": condition_on_previous_text, "beam_size": beam_size, "vad": vad,
        "word_timestamps": word_timestamps, "seed": seed, "max_seconds": max_seconds, "max_bytes": max_bytes,
        "pcm_rate": pcm_rate, "allow_truncated": allow_truncated, "allow_url": allow_url,
    }  # fmt: skip
    flags = dict(vad=vad, word_timestamps=word_timestamps, allow_truncated=allow_truncated, allow_url=allow_url)
    for name, value in {**flags, "condition_on_previous_text": condition_on_previous_text}.items():
        check_kind(name, value, bool)
    rows, batch = as_rows(recordings=recordings)
    found = [model.transcriber.transcribe(one, **options) for (one,) in rows]
    return found if batch else found[0]
