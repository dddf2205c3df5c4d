"""/v1/images/generations and /v1/images/edits: pictures of texts, from nothing or from a picture."""

from __future__ import annotations

import base64
import functools
import io
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image
from pydantic import Field

from encoders.media.image import FORMATS, load_image
from mmlm.generation.media import Medium
from mmlm.generation.request import Writing
from mmlm.generation.result import GenerationResult
from mmlm.serving.clients import answered
from mmlm.serving.context import Context, context_of
from mmlm.serving.dialect.asked import form_of, from_form, one_file
from mmlm.serving.dialect.written import MediaRequest, check_writes, written
from mmlm.serving.errors import ApiError, not_yet
from mmlm.serving.media import MediaDoor
from mmlm.serving.models import Loaded
from mmlm.tasks.draw import kept_codes, writing_of

router = APIRouter()


class ImageRequest(MediaRequest):
    """What is to be drawn, and how it is sent."""

    no_effect = ("user", "moderation", "safety_identifier")
    not_yet = {
        "stream": [False, "false"], "partial_images": [0], "style": [], "quality": ["auto", "standard"], "svg": [],
        "background": ["auto", "opaque"], "complexity": [], "frame_count": [], "frame_duration_ms": [],
        "input_fidelity": [], "markup": [],
    }  # fmt: skip

    prompt: Annotated[str, Field(min_length=1, max_length=32_000)]
    n: Annotated[int, Field(ge=1, le=10)] | None = None
    size: str | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None

    def check(self) -> None:
        """ApiError for what this version has not."""
        if self.response_format == "url":
            raise not_yet("response_format=url (pictures are sent in the answer, b64_json)", "response_format")
        if self.output_compression is not None and self.output_format == "png":
            message = "output_compression is for jpeg and webp"
            raise ApiError(400, message, "output_compression", "invalid_value")

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

    return await answered(request, _drawn(asked, context_of(request), prepare))


@router.post("/v1/images/edits")
async def edits(request: Request) -> Response:
    """Pictures of a text that begin with a picture: what a mask marks is drawn anew."""
    async with form_of(request) as form:
        asked, files = from_form(EditRequest, form)
        if unknown := sorted(files.keys() - {"image", "mask"}):
            raise ApiError(400, f"unknown field {unknown[0][:80]!r}", unknown[0][:80], "unknown_field")
        picture = await one_file(files, "image")
        mask = await one_file(files, "mask") if "mask" in files else None
    asked.check()
    context = context_of(request)

    def prepare(loaded: Loaded) -> tuple[Sequence[Any], Writing]:
        asked.check_size(loaded)
        start, anew = _start_of(picture, mask, context.door())
        fixed = kept_codes(loaded.model, start, anew, asked.strength, asked.seed or 0)
        return writing_of(loaded.model, "image", asked.prompt, asked.guidance_scale, fixed=fixed)

    return await answered(request, _drawn(asked, context, prepare))


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


async def _drawn(asked: ImageRequest, context: Context, prepare: Any) -> Response:
    pictures, results = await written(asked, context, "image", asked.n or 1, prepare)
    data = await context.quick.run(functools.partial(_encoded_all, pictures, asked))
    first = pictures[0]
    assert isinstance(first, Image.Image), "drawings are pictures"
    body = {
        "created": int(time.time()), "data": data, "output_format": asked.output_format,
        "size": f"{first.width}x{first.height}", "usage": _usage(results),
    }  # fmt: skip
    return JSONResponse(body)


def _encoded_all(pictures: Sequence[Medium], asked: ImageRequest) -> list[dict[str, str]]:
    quality = {} if asked.output_compression is None else {"quality": max(1, asked.output_compression)}
    found = []
    for picture in pictures:
        assert isinstance(picture, Image.Image), "drawings are pictures"
        data = io.BytesIO()
        picture.save(data, format=asked.output_format, **quality)
        found.append({"b64_json": base64.b64encode(data.getvalue()).decode()})
    return found


def _usage(results: Sequence[GenerationResult]) -> dict[str, Any]:
    prompt, codes = results[0].usage.prompt_tokens, sum(len(result.token_ids) for result in results)
    details = {"text_tokens": prompt, "image_tokens": 0}
    return {
        "input_tokens": prompt, "output_tokens": codes, "total_tokens": prompt + codes, "input_tokens_details": details
    }  # fmt: skip
