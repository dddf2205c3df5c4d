"""/v1/images/generations and /v1/images/edits: pictures of texts, from nothing or a picture, whole or as a stream."""

from __future__ import annotations

import base64
import functools
import io
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image
from pydantic import Field

from encoders.media.image import FORMATS, load_image
from mmlm.generation.constraints.codes import Place
from mmlm.generation.media import Medium
from mmlm.generation.preview import preview
from mmlm.generation.request import Writing
from mmlm.generation.result import GenerationResult
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.code_layout import CodeSpan
from mmlm.serving.clients import EventStream, answered
from mmlm.serving.context import Context, context_of
from mmlm.serving.dialect.asked import form_of, from_form, one_file
from mmlm.serving.dialect.written import MediaRequest, Prepare, Underway, begun_writing, check_writes
from mmlm.serving.errors import ApiError, not_yet
from mmlm.serving.media import MediaDoor
from mmlm.serving.models import Loaded
from mmlm.tasks.draw import kept_codes, writing_of

router = APIRouter()


class ImageRequest(MediaRequest):
    """What is to be drawn, and how it is sent."""

    no_effect = ("user", "moderation", "safety_identifier")
    not_yet = {
        "style": [], "quality": ["auto", "standard"], "svg": [],
        "background": ["auto", "opaque"], "complexity": [], "frame_count": [], "frame_duration_ms": [],
        "input_fidelity": [], "markup": [],
    }  # fmt: skip

    prompt: Annotated[str, Field(min_length=1, max_length=32_000)]
    n: Annotated[int, Field(ge=1, le=10)] | None = None
    size: str | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = None

    def check(self) -> None:
        """ApiError for what this version has not."""
        if self.response_format == "url":
            raise not_yet("response_format=url (pictures are sent in the answer, b64_json)", "response_format")
        if self.output_compression is not None and self.output_format == "png":
            message = "output_compression is for jpeg and webp"
            raise ApiError(400, message, "output_compression", "invalid_value")
        if self.partial_images and not self.stream:
            raise ApiError(400, "partial_images come in a stream: send stream=true", "partial_images", "invalid_value")
        if self.stream and (self.n or 1) > 1:
            raise ApiError(400, "a stream is of one picture: send n=1", "n", "invalid_value")

    def check_size(self, loaded: Loaded) -> None:
        """ApiError for another size than that of the model's pictures."""
        check_writes(loaded, "image")
        side = loaded.model.codecs["image"].size
        if self.size not in (None, "auto", f"{side}x{side}"):
            raise ApiError(400, f"the model {loaded.name!r} draws {side}x{side} alone", "size", "unsupported_by_model")


class EditRequest(ImageRequest):
    """The fields of the form beside its files. strength: without a mask, the share that is drawn anew."""

    strength: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5


@router.post("/v1/images/generations")
async def generations(asked: ImageRequest, request: Request) -> Response:
    """Pictures of a text."""
    asked.check()

    def prepare(loaded: Loaded) -> tuple[Sequence[Any], Writing]:
        asked.check_size(loaded)
        return writing_of(loaded.model, "image", asked.prompt, asked.guidance_scale)

    return await answered(request, _drawn(asked, context_of(request), prepare, "image_generation"))


@router.post("/v1/images/edits")
async def edits(request: Request) -> Response:
    """Pictures of a text that begin with a picture: what a mask marks is drawn anew."""
    async with form_of(request) as form:
        asked, files = from_form(EditRequest, form, ("image", "mask"))
        picture = await one_file(files, "image")
        mask = await one_file(files, "mask") if "mask" in files else None
    asked.check()
    context = context_of(request)

    def prepare(loaded: Loaded) -> tuple[Sequence[Any], Writing]:
        asked.check_size(loaded)
        start, anew = _start_of(picture, mask, context.door())
        fixed = kept_codes(loaded.model, start, anew, asked.strength, [asked.seed or 0])
        return writing_of(loaded.model, "image", asked.prompt, asked.guidance_scale, fixed=fixed)

    return await answered(request, _drawn(asked, context, prepare, "image_edit"))


def _start_of(picture: bytes, mask: bytes | None, door: MediaDoor) -> tuple[Image.Image, Any]:
    """The picture to begin with, and where it is drawn anew: where the mask, or else the picture, is transparent.

    A mask without transparency is white there. None where nothing marks a place.
    """
    start = load_image(door.picture(picture, "image"))
    if mask is not None:
        door.picture(mask, "mask")
        alpha = _transparent(mask)
        return start, load_image(mask) if alpha is None else alpha
    return start, _transparent(picture)


def _transparent(data: bytes) -> np.ndarray | None:
    """Where a picture is transparent [H, W]; None for one that is nowhere."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if not image.has_transparency_data:
            return None
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    return alpha < 128 if bool((alpha < 128).any()) else None


async def _drawn(asked: ImageRequest, context: Context, prepare: Prepare, kind: str) -> Response:
    """The answer. kind: what the events of a stream are named by."""
    async with AsyncExitStack() as stack:
        drawing = await begun_writing(asked, context, "image", asked.n or 1, prepare, stack)
        if asked.stream:
            await drawing.running.begun()
            return EventStream(_events(asked, drawing, kind), stack.pop_all())
        pictures, results = await drawing.media()
        data = await context.quick.run(functools.partial(_all_in_base64, pictures, asked))
        body = {
            "created": int(time.time()), "data": data, "output_format": asked.output_format,
            "size": _size(drawing), "usage": _usage(results),
        }  # fmt: skip
        return JSONResponse(body)
    raise AssertionError("a stack of these contexts suppresses nothing")


async def _events(asked: ImageRequest, drawing: Underway, kind: str) -> AsyncIterator[dict[str, Any]]:
    """Previews, at equal shares of the codes that are to be written, and the picture."""
    about = {
        "background": "opaque", "created_at": int(time.time()), "output_format": asked.output_format,
        "quality": "auto", "size": _size(drawing),
    }  # fmt: skip
    model, quick, previews = drawing.loaded.model, drawing.context.quick, asked.partial_images or 0
    span, fixed = drawing.writing.spans["image"], next(iter(drawing.writing.fixed), None)
    due = [1 + span.layout.codes * (index + 1) // (previews + 1) for index in range(previews)]  # the first id opens it
    ids: list[int] = []
    async for token in drawing.running.pieces:
        ids.append(token.id)
        for index in [index for index, count in enumerate(due) if count == len(ids)]:
            shown = functools.partial(_previewed, model, span, [*ids], fixed, asked)
            yield {
                "type": f"{kind}.partial_image", "b64_json": await quick.run(shown), "partial_image_index": index,
                **about,
            }  # fmt: skip
    pictures, results = await drawing.media()
    (data,) = await quick.run(functools.partial(_all_in_base64, pictures, asked))
    yield {"type": f"{kind}.completed", **data, **about, "usage": _usage(results)}


def _previewed(
    model: MultimodalNetwork, span: CodeSpan, ids: Sequence[int], fixed: Mapping[Place, int] | None, asked: ImageRequest
) -> str:
    return in_base64(preview(model, span, ids, fixed), asked.output_format, asked.output_compression)


def _size(drawing: Underway) -> str:
    side = drawing.loaded.model.codecs["image"].size
    return f"{side}x{side}"


def in_base64(picture: Medium, form: str, compression: int | None = None) -> str:
    """A picture as a file of this format. compression: the quality of jpeg and webp, 0 to 100."""
    assert isinstance(picture, Image.Image), "drawings are pictures"
    quality = {} if compression is None else {"quality": max(1, compression)}
    data = io.BytesIO()
    picture.save(data, format=form, **quality)
    return base64.b64encode(data.getvalue()).decode()


def _all_in_base64(pictures: Sequence[Medium], asked: ImageRequest) -> list[dict[str, str]]:
    return [{"b64_json": in_base64(picture, asked.output_format, asked.output_compression)} for picture in pictures]


def _usage(results: Sequence[GenerationResult]) -> dict[str, Any]:
    prompt, codes = results[0].usage.prompt_tokens, sum(len(result.token_ids) for result in results)
    details = {"text_tokens": prompt, "image_tokens": 0}
    return {
        "input_tokens": prompt, "output_tokens": codes, "total_tokens": prompt + codes, "input_tokens_details": details
    }  # fmt: skip
