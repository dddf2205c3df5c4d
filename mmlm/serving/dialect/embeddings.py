"""/v1/embeddings: texts and pictures in the space of the model's CLIP."""

from __future__ import annotations

import base64
import functools
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from encoders.clip import ClipImageEncoder
from mmlm.serving.clients import answered
from mmlm.serving.context import Context, context_of
from mmlm.serving.dialect.asked import Asked
from mmlm.serving.errors import ApiError, lacks
from mmlm.serving.models import Loaded

router = APIRouter()

AT_ONCE = 16  # texts or pictures


class Address(BaseModel):
    """Where a picture is: a data: URL."""

    model_config = ConfigDict(extra="forbid")
    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class Picture(BaseModel):
    """A picture to embed, in the form of a chat's content."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["image_url"] = "image_url"
    image_url: Address


Input = str | Picture


class EmbeddingRequest(Asked):
    """What is to be embedded: a text or picture, or a list of them."""

    no_effect = ("user",)

    input: Input | Annotated[list[Input], Field(min_length=1)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


@router.post("/v1/embeddings")
async def embeddings(asked: EmbeddingRequest, request: Request) -> Response:
    """Embeddings of unit length, whose products tell how alike texts and pictures are."""
    return await answered(request, _answer(asked, context_of(request)))


async def _answer(asked: EmbeddingRequest, context: Context) -> Response:
    inputs = asked.input if isinstance(asked.input, list) else [asked.input]
    if len(inputs) > context.settings.limits.max_texts:
        message = f"more than {context.settings.limits.max_texts:,} inputs"
        raise ApiError(400, message, "input", "too_many_inputs")
    async with context.using(asked.model) as loaded:
        rows, tokens = await context.quick.run(functools.partial(_embedded, loaded, inputs, asked, context))
    data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "data": data, "model": asked.model, "usage": usage})


def _embedded(
    loaded: Loaded, inputs: Sequence[Input], asked: EmbeddingRequest, context: Context
) -> tuple[list[Any], int]:
    """Embeddings in the form that is asked for, and how many tokens the texts have."""
    encoder = loaded.model.encoders["image"] if "image" in loaded.model.encoders else None
    if not isinstance(encoder, ClipImageEncoder):
        raise lacks(loaded.name, "CLIP that embeds texts and pictures", "name a model that has one", "model")
    door = context.door()
    pictures = {
        index: door.picture_at(one.image_url.url, f"input[{index}]")
        for index, one in enumerate(inputs) if isinstance(one, Picture)
    }  # fmt: skip
    texts = {index: one for index, one in enumerate(inputs) if isinstance(one, str)}
    rows: dict[int, torch.Tensor] = {}
    with loaded.model.changes.passing():
        for chunk in _chunks(list(texts)):
            rows |= zip(chunk, encoder.embed_texts([texts[index] for index in chunk]), strict=True)
        for chunk in _chunks(list(pictures)):
            batch = torch.stack([encoder.preprocess(pictures[index]) for index in chunk])
            rows |= zip(chunk, encoder.embed_images(batch), strict=True)
        tokens = 0 if not texts else _count(encoder.tokenizer, [*texts.values()])
    found = torch.stack([rows[index] for index in range(len(inputs))]).cpu()
    if asked.dimensions not in (None, found.shape[1]):
        message = f"the model {loaded.name!r} embeds in {found.shape[1]} dimensions"
        raise ApiError(400, message, "dimensions", "unsupported_by_model")
    if asked.encoding_format == "base64":
        return [base64.b64encode(row.numpy().astype("<f4").tobytes()).decode() for row in found], tokens
    return found.tolist(), tokens


def _count(tokenizer: Any, texts: list[str]) -> int:
    """Tokens of the texts without padding, nor an end mark that pads as well."""
    pad = getattr(getattr(tokenizer, "tokenizer", None), "pad_token_id", None) or 0  # CLIP's own tokenizer has 0
    return int((tokenizer(texts) != pad).sum())


def _chunks(indices: list[int]) -> list[list[int]]:
    return [indices[start : start + AT_ONCE] for start in range(0, len(indices), AT_ONCE)]
