"""What is said in recordings."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmlm.model.network import MultimodalNetwork


def transcribe(model: "MultimodalNetwork", recordings: Any, **options: Any) -> Any:
    """What is said in a recording, as Whisper writes it down: a `Transcript`; a list of recordings gives a list.

    `options` and errors are those of `encoders.transcription.Transcriber.stream`.
    """
    if isinstance(recordings, list):
        return [transcribe(model, recording, **options) for recording in recordings]
    with model.language_model.accelerated():
        return model.transcriber.transcribe(recordings, **options)
