"""Answers of a chat that are said aloud: the model says the text that it has written, which is the transcript."""

from __future__ import annotations

import base64
import functools
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from encoders.media.sound import Audio
from mmlm.generation.request import Writing
from mmlm.serving.context import Context
from mmlm.serving.dialect.asked import LEAST
from mmlm.serving.dialect.chat_answer import Answer
from mmlm.serving.dialect.speech import SECONDS, encoded
from mmlm.serving.dialect.written import MediaRequest, nth_seed, seed_of, written
from mmlm.serving.models import Loaded
from mmlm.serving.ticket import Ticket
from mmlm.serving.tokens import Submitted
from mmlm.tasks.draw import writing_of

PIECE = 48_000  # bytes of sound in an event of a stream: a second


class SpokenAnswer:
    """An answer as sound. It is said as `/v1/audio/speech` says its text, with the same seed and temperature."""

    def __init__(self, answer: Answer, context: Context) -> None:
        self.answer, self.context = answer, context
        self._seed = seed_of(answer.asked.seed)

    async def whole(self, running: Submitted) -> dict[str, Any]:
        """A chat.completion."""
        found, spent = self.answer.whole(await running.results()), 0
        for index, choice in enumerate(found["choices"]):
            message = choice["message"]
            if (text := message["content"]) and text.strip():
                data, codes = await self._said(index, text, running.ticket)
                spent += codes
                message |= {"content": None, "audio": {
                    "id": _number(), "data": base64.b64encode(data).decode(), "expires_at": self.answer.created,
                    "transcript": text,
                }}  # fmt: skip
        return {**found, "usage": _usage(found["usage"], spent)}

    async def stream(self, running: Submitted) -> AsyncIterator[dict[str, Any] | str]:
        """The events of a stream: the transcript while it is written, then the sound, a second at a time."""
        answer, texts, endings, used, spent = self.answer, {}, {}, {}, 0
        numbers = [_number() for _ in range(answer.options.num_return_sequences)]
        async for event in answer.stream(running, usage=True):
            if isinstance(event, str):
                break
            if not event["choices"]:
                used = event["usage"]
                continue
            (choice,) = event["choices"]
            row, delta = choice["index"], choice["delta"]
            if choice["finish_reason"] is not None:
                endings[row] = event
                continue
            if text := delta.get("content"):
                first = {} if row in texts else {"id": numbers[row]}
                texts[row] = texts.get(row, "") + text
                choice["delta"] = {**delta, "content": None, "audio": {**first, "transcript": text}}
            elif "content" in delta:
                choice["delta"] = {**delta, "content": None}
            yield event
        for row, ending in endings.items():
            if texts.get(row, "").strip():
                data, codes = await self._said(row, texts[row], running.ticket)
                spent += codes
                for at in range(0, len(data), PIECE):
                    piece = base64.b64encode(data[at : at + PIECE]).decode()
                    yield answer.chunk(row, {"audio": {"data": piece}})
                yield answer.chunk(row, {"audio": {"expires_at": answer.created}})
            yield ending
        for event in answer.ending(_usage(used, spent)):
            yield event

    async def _said(self, index: int, text: str, ticket: Ticket) -> tuple[bytes, int]:
        """A text as a file of the asked format, and how many tokens were written. It is done in the ticket's time."""
        asked, model = self.answer.asked, self.answer.loaded.model
        temperature = 1.0 if asked.temperature is None else max(asked.temperature, LEAST)
        said = MediaRequest(
            model=asked.model, seed=nth_seed(self._seed, index), steps=asked.steps, temperature=temperature,
            top_p=asked.top_p,
        )  # fmt: skip

        def prepare(_: Loaded) -> tuple[Sequence[Any], Writing]:
            return writing_of(model, "audio", text, max_seconds=asked.max_seconds or SECONDS)

        left = None if ticket.deadline is None else max(0.0, ticket.deadline - time.monotonic())
        (sound,), results = await written(said, self.context, "audio", 1, prepare, left)
        assert isinstance(sound, Audio) and asked.audio is not None, "speech is sound, whose format was checked"
        form = "pcm" if asked.audio.format == "pcm16" else asked.audio.format
        return await self.context.quick.run(functools.partial(encoded, sound, form)), len(results[0].token_ids)


def _number() -> str:
    return f"audio_{uuid.uuid4().hex}"


def _usage(used: dict[str, Any], codes: int) -> dict[str, Any]:
    """Usage with the tokens of sounds."""
    details = {**used["completion_tokens_details"], "audio_tokens": codes}
    return {
        **used, "completion_tokens": used["completion_tokens"] + codes, "total_tokens": used["total_tokens"] + codes,
        "completion_tokens_details": details,
    }  # fmt: skip
