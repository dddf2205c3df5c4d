"""Looking up: an index as a tool."""

from __future__ import annotations

from typing import Any

from mmlm.prompting.parts import Image, Part, Sound
from mmlm.reasoning.tools.tool import Tool


def search(index: Any, *, k: int = 3, description: str = "Looks up what is known.") -> Tool:
    """The tool `search(query)`: the best of an index for some words, numbered from 1.

    index: anything with `search(query, k=k)`, which gives texts, parts or sources: objects with a text `quote`, and for
        a picture the `modality` "image", whose file `index.picture(source)` gives. k: how many are shown at most.
    description: what the model is told of the tool, such as what the index holds.
    """
    if not callable(getattr(index, "search", None)):
        raise TypeError(f"the tool search needs an index with a method search, not {type(index).__name__}")

    def found(query: str) -> list[Part] | str:
        sources = list(index.search(query, k=k))[:k]
        parts = [part for number, source in enumerate(sources, 1) for part in (f"[{number}]", *_parts(index, source))]
        return _joined(parts) if parts else "Nothing was found."

    return Tool(
        "search",
        description,
        {
            "type": "object",
            "properties": {"query": {"type": "string", "minLength": 1, "description": "Words to look for."}},
            "required": ["query"],
            "additionalProperties": False,
        },
        found,
    )


def _parts(index: Any, source: Any) -> list[Part]:
    if isinstance(source, (str, Image, Sound)):
        return [source]
    quote = " ".join(str(getattr(source, "quote", "")).split())
    picture = [Image(index.picture(source))] if getattr(source, "modality", "text") == "image" else []
    return [*picture, *([quote] if quote else [])]


def _joined(parts: list[Part]) -> list[Part] | str:
    """Texts that follow each other as one, each number on a line of its own."""
    found: list[Part] = []
    for part in parts:
        if isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += ("\n" if part.startswith("[") else " ") + part
        else:
            found.append(part)
    return found[0] if len(found) == 1 and isinstance(found[0], str) else found
