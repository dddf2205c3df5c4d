"""Several recordings written down together: each pass of the decoder writes a token of every one.

Alone, a text has the decoder's weights read for each of its tokens; several texts share the reading. Each has its own
windows, prompts and random numbers, so that it is what it is alone, to the rounding of sums.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from whisper.decoding import DecodingResult

from encoders.transcription.decoding import Attempt
from encoders.transcription.passes import step_together, window_bytes
from encoders.transcription.transcriber import Transcriber
from encoders.transcription.transcript import Segment, Transcript, Transcription
from encoders.transcription.turns import Wanted

AT_ONCE = 8
MEMORY = 2**30  # bytes, of all that is kept of their windows


@torch.no_grad()
def transcribed_together(
    transcriber: Transcriber, begin: Iterable[Callable[[], Transcription]], at_once: int = AT_ONCE
) -> Iterator[tuple[int, Transcript | Exception]]:
    """The transcripts of recordings, each with its number, as soon as it is done; or what is wrong with it.

    begin: for each recording, what begins it by `transcriber.stream`; called when there is a place for it.
    at_once: how many are written together; fewer where their windows would take more than 1 GB.
    """
    waiting, going = enumerate(begin), list[_Recording]()
    places = max(1, min(at_once, MEMORY // window_bytes(transcriber.model)))
    try:
        while True:
            going += [_Recording(*one) for one in itertools.islice(waiting, places - len(going))]
            if not going:
                return
            for one in list(going):
                try:
                    said = one.until_written(transcriber)
                except Exception as error:
                    said = error
                if said is not None:
                    going.remove(one)
                    yield one.number, said
            if going:
                _step(transcriber, going)
    finally:
        for one in going:
            one.close()


def _step(transcriber: Transcriber, going: list[_Recording]) -> None:
    """The logits of the next token of each row of all windows. All recordings are at the text of one."""
    attempts = [one.attempt for one in going if one.attempt is not None]
    with transcriber.computing():
        found = step_together([one.passes for one in attempts], [one.last for one in attempts])
    for one, logits in zip(going, found, strict=True):
        one.logits = logits


@dataclass(eq=False)
class _Recording:
    """A recording on its way. attempt: at the text of a window, while it is written. logits: of its next tokens."""

    number: int
    begin: Callable[[], Transcription]
    running: Transcription | None = None
    attempt: Attempt | None = None
    logits: Tensor | None = None
    segments: list[Segment] = field(default_factory=list)

    def until_written(self, transcriber: Transcriber) -> Transcript | None:
        """Goes on until logits are needed for a window's text; the transcript, where there is no window any more."""
        if self.running is None:
            self.running = self.begin()
        turns = self.running.turns
        assert turns is not None, "a transcriber's own has them"
        while True:
            found: DecodingResult | None = None
            if self.attempt is not None:
                if self.logits is not None:
                    self.attempt.take(self.logits)
                    self.logits = None
                if not self.attempt.has_ended:
                    return None
                found, self.attempt = self.attempt.result(), None
            try:
                turn = turns.send(found)
            except StopIteration:
                return self.running.transcript(self.segments)
            if isinstance(turn, Wanted):
                self.attempt = Attempt(transcriber.model, turn.heard, turn.options, turn.generator)
                with transcriber.computing():
                    self.attempt.begin()
            elif turn is not None:
                self.segments += turn.segments

    def close(self) -> None:
        """Gives up what is read."""
        if self.running is not None and self.running.turns is not None:
            self.running.turns.close()
