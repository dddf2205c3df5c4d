"""What makes vectors of texts: CLIP's text tower, or any function of your own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from encoders.clip import ClipImageEncoder


class TextEmbedder(Protocol):
    """Texts → vectors `[N, D]`, a tensor or an array; the nearer two texts in meaning, the larger their cosine."""

    def __call__(self, texts: list[str], /) -> Any: ...

    def fingerprint(self) -> str:
        """What changes with its weights and settings: an index made with another embedder is refused."""
        ...


class ClipTexts:
    """The text tower of a CLIP. It reads the first 77 tokens of a text, in most CLIPs."""

    def __init__(self, clip: ClipImageEncoder) -> None:
        self.clip = clip

    def __call__(self, texts: Sequence[str]) -> Any:
        """`[N, E]` on the CPU."""
        return self.clip.embed_texts(list(texts), cut=True).cpu()  # what it cuts off is found by its words

    def fingerprint(self) -> str:
        """That of the CLIP."""
        return self.clip.fingerprint()


class Named:
    """A function from texts to vectors, with the name that stands for its weights and settings.

    name: give another one with each change of what the function computes, such as "bge-small-en v1.5".
    """

    def __init__(self, function: Callable[[list[str]], Any], name: str) -> None:
        self.function, self.name = function, name

    def __call__(self, texts: list[str]) -> Any:
        return self.function(texts)

    def fingerprint(self) -> str:
        """The name."""
        return self.name
