"""Where a model's thinking ends and its answer begins: `<think>…</think>`, as most models that think write it."""

from collections.abc import Sequence
from typing import Any

from mmlm.prompting.parts import Markup


def begins_thinking(parts: Sequence[Any]) -> bool:
    """Whether a prompt ends in the opening mark of a thinking block, which some chat templates write."""
    return bool(parts) and isinstance(parts[-1], Markup) and parts[-1].text.rstrip().endswith("<think>")


def after_thinking(text: str, begun: bool = False) -> str:
    """The text after a model's thinking, `<think>…</think>`; "" while it thinks; all of a text without thinking.

    begun: whether the prompt has written the opening mark, so that only the closing one is in the text.
    """
    _, closed, answer = text.rpartition("</think>")
    if closed:
        return answer
    return "" if begun or text.lstrip().startswith("<think>") else text
