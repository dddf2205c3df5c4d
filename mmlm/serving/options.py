"""How much an engine takes on, and what it has done."""

from __future__ import annotations

from dataclasses import dataclass

from decoders.values import check_kinds, check_least


@dataclass(frozen=True)
class EngineOptions:
    """How much an engine takes on.

    max_rows: rows that are decoded together. max_waiting: prompts that may wait for a place, and as many recordings.
    max_recordings: recordings that are written down together.
    prompt_tokens: tokens of prompts that are read between two steps, so that running texts do not stall.
    cache_bytes: of media and prompts that are kept in case they come again; 0 keeps none.
    """

    max_rows: int = 32
    max_waiting: int = 256
    max_recordings: int = 8
    prompt_tokens: int = 256
    cache_bytes: int = 1 << 28

    def __post_init__(self) -> None:
        check_kinds(self)
        check_least(self, max_rows=1, max_waiting=1, max_recordings=1, prompt_tokens=1, cache_bytes=0)


@dataclass
class Counts:
    """What an engine has done since it began."""

    requests: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0  # their callers left, or the engine was closed
    prompt_tokens: int = 0
    known_tokens: int = 0  # of prompts, that were not read again
    generated_tokens: int = 0
    steps: int = 0
    windows: int = 0  # of recordings, that were written down
