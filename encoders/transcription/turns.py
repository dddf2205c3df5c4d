"""A transcription in turns, so that several can share a machine: each turn is a piece of work, or asks for one."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from whisper.decoding import DecodingOptions

from encoders.transcription.passes import Heard
from encoders.transcription.transcript import Segment


@dataclass(frozen=True)
class Wanted:
    """A window that is to be decoded, as `decode_window` does; its result is sent in return."""

    heard: Heard
    options: DecodingOptions
    generator: torch.Generator


@dataclass(frozen=True)
class Written:
    """A window that has been written down: its first frame in the recording, and its segments, which may be none."""

    seek: int
    segments: tuple[Segment, ...]


Turn: TypeAlias = Wanted | Written | None
"""What a turn ends with; None where it was work alone."""
Turns: TypeAlias = Generator[Turn, Any, None]
