"""What is said in recordings, as Whisper writes it down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

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
    pcm_rate: int | None = None,
    seed: int = 0,
) -> Transcript | list[Transcript]:
    """What is said in a recording, as a `Transcript`; several recordings give a list.

    The options and errors are those of `encoders.transcription.Transcriber.stream`. ValueError where the model has no
    Whisper.
    """
    options: dict[str, Any] = {
        "language": language, "task": task, "prompt": prompt, "temperatures": temperatures,
        "condition_on_previous_text": condition_on_previous_text, "beam_size": beam_size, "vad": vad,
        "pcm_rate": pcm_rate, "seed": seed,
    }  # fmt: skip
    rows, batch = as_rows(recordings=recordings)
    with model.language_model.accelerated():
        found = [model.transcriber.transcribe(one, **options) for (one,) in rows]
    return found if batch else found[0]
