"""/v1/attention_maps, which OpenAI has not: what the words of an answer attend to in its pictures and recordings."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field
from torch import Tensor

from encoders.media.image import load_image
from mmlm.generation.text import Pieces
from mmlm.prompting.parts import Image
from mmlm.serving.clients import answered
from mmlm.serving.context import Context, context_of
from mmlm.serving.dialect.asked import Asked
from mmlm.serving.dialect.messages import check_parts, has_sound, heard_messages, read_messages
from mmlm.serving.errors import ApiError
from mmlm.serving.models import Loaded
from mmlm.tasks.attention_maps import attention_maps
from mmlm.tasks.chat import Mode, chat_prompt
from mmlm.tasks.seen_part import grid_of, seen_part

router = APIRouter()

TOKEN_SECONDS = 0.02  # of Whisper's encoder
MOST_WEIGHTS = 4_000_000  # numbers of an answer
DIGITS = 5


class MapsRequest(Asked):
    """A conversation whose last message is the answer; the other fields are those of the chat."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=2)]
    mode: Mode = "transcript"
    language: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def answer(self) -> str:
        """The text of the last message."""
        last = self.messages[-1]
        text = last.get("content")
        if last.get("role") != "assistant" or not isinstance(text, str) or not text.strip():
            raise ApiError(400, "the last message is the assistant's, with its answer as a text", "messages")
        return text


@router.post("/v1/attention_maps")
async def maps(asked: MapsRequest, request: Request) -> Response:
    """A map over each picture and recording for each token of the answer."""
    return await answered(request, _answer(asked, context_of(request)))


async def _answer(asked: MapsRequest, context: Context) -> Response:
    asked.answer()
    async with context.using(asked.model) as loaded:
        workers, left = context.slow if has_sound(asked.messages) else context.quick, threading.Event()
        return JSONResponse(await workers.run(functools.partial(_maps, asked, loaded, context, left), left))


def _maps(asked: MapsRequest, loaded: Loaded, context: Context, left: threading.Event) -> dict[str, Any]:
    model, door = loaded.model, context.door()
    turns = read_messages(asked.messages[:-1], door)
    check_parts(model, loaded.name, turns)
    pictures = [part for turn in turns for part in turn.content if isinstance(part, Image)]
    turns = heard_messages(loaded, turns, asked.mode, asked.language, door, left)
    prompt = chat_prompt(model, turns, mode="features", chat_template_kwargs=asked.chat_template_kwargs)
    found = attention_maps(model, prompt, asked.answer())
    count = sum(1 for token in found.token_ids if token < model.language_model.vocabulary.offset)
    if count * sum(one.weights.shape[-1] for one in found.media) > MOST_WEIGHTS:
        raise ApiError(400, "the answer and its media are too long for maps", "messages", "too_large")
    seen = iter(pictures)
    media = [
        _picture(model.encoders["image"], next(seen), one.weights[:count])
        if one.modality == "image"
        else {"type": "audio", "seconds": TOKEN_SECONDS, "weights": _rounded(one.weights[:count])}
        for one in found.media
    ]
    return {
        "object": "attention_maps", "model": loaded.name, "media": media,
        "tokens": _texts(model.processor.decode, found.token_ids[:count]),
    }  # fmt: skip


def _picture(encoder: Any, part: Image, weights: Tensor) -> dict[str, Any]:
    width, height = load_image(part.source).size
    rows, columns = grid_of(encoder, weights.shape[-1])
    box = [round(side, DIGITS) for side in seen_part(encoder, width, height)]
    return {"type": "image", "rows": rows, "columns": columns, "box": box, "weights": _rounded(weights)}


def _rounded(weights: Tensor) -> list[list[float]]:
    return [[round(value, DIGITS) for value in row] for row in weights.tolist()]


def _texts(decode: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token; of a character that several tokens write, at the last of them."""
    pieces = Pieces(decode, ())
    texts = [pieces.push(token) for token in ids]
    texts[-1] += pieces.rest()
    return texts
