"""What lmms-eval asks about a scene. It loads this file by its path in its own environment, which has no mmlm."""

from __future__ import annotations

from typing import Any

from PIL import Image


def pictures(doc: dict[str, Any]) -> list[Image.Image]:
    """The picture of a question."""
    return [Image.open(doc["image"]).convert("RGB")]


def messages(doc: dict[str, Any], lmms_eval_specific_kwargs: Any = None) -> list[dict[str, Any]]:
    """One turn: the picture, then the question as it is."""
    (picture,) = pictures(doc)
    content = [{"type": "image", "url": picture}, {"type": "text", "text": doc["question"]}]
    return [{"role": "user", "content": content}]
