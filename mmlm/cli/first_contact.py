"""What nano, the default model, cannot do, said once where it is asked to."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from mmlm.cli.messages import complain

if TYPE_CHECKING:
    from PIL.Image import Image

    from encoders.transcription.transcript import Transcript

# The share of equal neighbours that a drawn scene has at least, also as a JPEG; photographs have 0.02 to 0.7.
FLAT = 0.75
SURE = -0.3  # mean log-probability of the words in a recording of the kind that nano was trained on


class Note:
    """Says once a command that nano was not trained for such input, and which model to name instead."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.silent = args.model not in (None, "nano") or vars(args).get("language_model") is not None

    def of_picture(self, picture: Any) -> None:
        """For a picture or video that is no drawing of flat shapes, a photograph say."""
        seen = picture.frames[0] if hasattr(picture, "frames") else picture
        if not self.silent and flatness(seen) < FLAT:
            self._say(
                "nano knows drawn scenes only, and this looks like a photograph: its words mean nothing here. For "
                "photographs: --model openflamingo-3b (`mmlm models` lists all)"
            )

    def of_speech(self, said: Transcript) -> None:
        """For a recording whose words nano is unsure of."""
        tokens = sum(len(segment.tokens) for segment in said.segments)
        if self.silent or not tokens:
            return
        if sum(segment.avg_logprob * len(segment.tokens) for segment in said.segments) / tokens < SURE:
            self._say(
                "nano knows a synthesiser's voices and few words, and is unsure of these. For people's speech: "
                + ("--model whisper/small" if self.args.verb == "transcribe" else "--model chat-small")
            )

    def _say(self, message: str) -> None:
        self.silent = True
        complain(self.args, message)


def flatness(picture: Image) -> float:
    """The share (0–1) of pixels that are within 2 of 255 of the next one in the row, seen at 128 pixels at most."""
    import numpy as np
    from PIL import Image

    size = (min(128, picture.width), min(128, picture.height))
    pixels = np.asarray(picture.resize(size, Image.Resampling.NEAREST), dtype=np.int16)
    return float((np.abs(np.diff(pixels, axis=1)).max(axis=2) <= 2).mean()) if size[0] > 1 else 1.0
