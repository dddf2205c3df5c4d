"""Hearing again: a part of a recording of the conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from encoders.media.sound import Audio, load_audio
from mmlm.prompting.parts import Image, Sound
from mmlm.reasoning.tools.tool import Tool, ToolError
from mmlm.reasoning.tools.zoom import nth


def listen() -> Tool:
    """The tool `listen(from, to, recording)`: a part of a recording, in seconds from its beginning."""

    def hear(media: Sequence[Image | Sound], recording: int = 1, **span: Any) -> Audio:
        sound = load_audio(nth(media, Sound, recording, "recording"))
        start, end = float(span["from"]), min(float(span["to"]), sound.seconds)
        if start >= end:
            raise ToolError(
                f"there is nothing from {start:g} s to {span['to']:g} s: the recording has {sound.seconds:.1f} s"
            )
        rate = sound.sample_rate
        return Audio(sound.waveform[round(start * rate) : max(round(start * rate) + 1, round(end * rate))], rate)

    number = {"type": "number", "minimum": 0}
    return Tool(
        "listen",
        "Listens again to a part of a recording of the conversation.",
        {
            "type": "object",
            "properties": {
                "from": {**number, "description": "Where the part begins, in seconds."},
                "to": {**number, "description": "Where it ends, in seconds."},
                "recording": {"type": "integer", "minimum": 1, "description": "Which recording: 1 is the first."},
            },
            "required": ["from", "to"],
            "additionalProperties": False,
        },
        hear,
        sees=True,
    )
