"""Drawing and speaking as tools, for models with codecs."""

from __future__ import annotations

from typing import Any

from mmlm.model.network import MultimodalNetwork
from mmlm.reasoning.tools.tool import Tool
from mmlm.tasks.draw import draw as drawn
from mmlm.tasks.speak import speak as spoken


def draw(model: MultimodalNetwork, *, seed: int = 0, **options: Any) -> Tool:
    """The tool `draw(text)`: a picture of what a text says. options: of `model.draw`.

    ValueError for a model that draws nothing.
    """
    _check(model, "image", "draw")
    return _tool(
        "draw", "Draws a picture of what a text says.", "What is to be seen.",
        lambda text: drawn(model, text, seed=seed, **options),
    )  # fmt: skip


def speak(model: MultimodalNetwork, *, seed: int = 0, **options: Any) -> Tool:
    """The tool `speak(text)`: a text as speech. options: of `model.speak`.

    ValueError for a model that speaks nothing.
    """
    _check(model, "audio", "speak")
    return _tool(
        "speak", "Speaks a text.", "What is to be said.", lambda text: spoken(model, text, seed=seed, **options)
    )


def _check(model: MultimodalNetwork, modality: str, verb: str) -> None:
    if modality not in model.language_model.vocabulary.spans:
        raise ValueError(
            f"the tool {verb} needs a model that writes {modality} codes: load it with its codecs, or assemble it with "
            "one"
        )


def _tool(name: str, description: str, what: str, call: Any) -> Tool:
    text = {"type": "string", "minLength": 1, "description": what}
    schema = {"type": "object", "properties": {"text": text}, "required": ["text"], "additionalProperties": False}
    return Tool(name, description, schema, call)
