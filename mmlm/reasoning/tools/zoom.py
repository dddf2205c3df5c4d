"""Looking again: a part of a picture of the conversation, as large as the encoder sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image as PILImage

from encoders.base import Features
from encoders.media.image import load_image
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.parts import Image, Sound
from mmlm.reasoning.tools.tool import Tool, ToolError


def zoom(model: MultimodalNetwork) -> Tool:
    """The tool `zoom(box, picture)`: a cut out of a picture, enlarged to the size that the model's encoder sees.

    box: left, top, right and bottom in shares of the picture, 0..1, or in percent. picture: which one, from 1.
    The cut is made square where the picture has room, since the encoder would leave out what is beyond a square.
    ValueError for a model without an image encoder.
    """
    if "image" not in model.encoders:
        raise ValueError("the tool zoom needs a model with an image encoder: assemble it with one")
    height, width = (int(side) for side in getattr(model.encoders["image"], "image_size", (224, 224)))

    def look(media: Sequence[Image | Sound], box: Sequence[float], picture: int = 1) -> PILImage.Image:
        return cut(nth(media, Image, picture, "picture"), box, (width, height))

    return Tool(
        "zoom",
        "Looks closer at a part of a picture of the conversation. Returns that part, enlarged.",
        {
            "type": "object",
            "properties": {
                "box": {
                    "type": "array", "items": {"type": "number", "minimum": 0, "maximum": 100},
                    "minItems": 4, "maxItems": 4,
                    "description": "Left, top, right and bottom, from 0 (left, top) to 1 (right, bottom).",
                },
                "picture": {"type": "integer", "minimum": 1, "description": "Which picture: 1 is the first."},
            },
            "required": ["box"],
            "additionalProperties": False,
        },
        look,
        sees=True,
    )  # fmt: skip


def nth(media: Sequence[Image | Sound], kind: type, number: int, what: str) -> Any:
    """The source of the number-th picture or recording; ToolError that says which there are."""
    found = [part for part in media if isinstance(part, kind)]
    if not 1 <= number <= len(found):
        there = f"there are {len(found)}, counted from 1" if found else "there is none"
        raise ToolError(f"there is no {what} {number}: {there}")
    source = found[number - 1].source
    if isinstance(source, Features):
        raise ToolError(f"{what} {number} was given as features, which hold no {what} to look into")
    return source


def cut(source: Any, box: Sequence[float], size: tuple[int, int]) -> PILImage.Image:
    """The part of a picture in `box` (left, top, right, bottom; shares or percent), enlarged to `size` if smaller.

    ToolError for a box that is empty or outside.
    """
    picture = load_image(source)
    scale = 100 if max(box) > 1 else 1
    left, top, right, bottom = (min(1.0, value / scale) for value in box)
    if left >= right or top >= bottom:
        raise ToolError("the box is empty: left must be less than right, and top less than bottom")
    wide, high = picture.size
    left, right = _at_least_a_pixel(left * wide, right * wide, wide)
    top, bottom = _at_least_a_pixel(top * high, bottom * high, high)
    side = min(max(right - left, bottom - top), wide, high)
    if right - left < side:
        left, right = _widened(left, right, side, wide)
    if bottom - top < side:
        top, bottom = _widened(top, bottom, side, high)
    found = picture.crop((round(left), round(top), round(right), round(bottom)))
    factor = max(size[0] / found.width, size[1] / found.height)
    if factor > 1:
        found = found.resize(
            (max(1, round(found.width * factor)), max(1, round(found.height * factor))), PILImage.Resampling.BICUBIC
        )
    return found


def _at_least_a_pixel(low: float, high: float, most: int) -> tuple[float, float]:
    return (low, high) if high - low >= 1 else _widened(low, high, 1, most)


def _widened(low: float, high: float, side: float, most: int) -> tuple[float, float]:
    """The span of a length around the same middle, moved into 0..most."""
    start = min(max(0.0, (low + high - side) / 2), most - side)
    return start, start + side
