"""What is said in recordings, as Whisper writes it down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from mmlm.model.network import MultimodalNetwork

if TYPE_CHECKING:
    from encoders.transcription.transcript import Transcript


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
    """What is said in a recording, as a `Transcript`; a list of recordings gives a list.

    The options and errors are those of `encoders.transcription.Transcriber.stream`. ValueError where the model has no
    Whisper.
    """
    options: dict[str, Any] = {
        "language": language, "task": task, "prompt": prompt, "temperatures": temperatures,
        "condition_on_previous_text": condition_on_previous_text, "beam_size": beam_size, "vad": vad,
        "pcm_rate": pcm_rate, "seed": seed,
    }  # fmt: skip
    single = not isinstance(recordings, list)
    with model.language_model.accelerated():
        found = [model.transcriber.transcribe(one, **options) for one in ([recordings] if single else recordings)]
    return found[0] if single else found
