"""Exercises: conversations whose answer is known, and the tars that hold them, in a form that `mmlm.data` reads."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from recipes.nano.data import add_file, as_answer, as_png, write_tars
from recipes.nano.scenes import Scene


@dataclass(frozen=True)
class Turn:
    """What one side says: texts and pictures in order."""

    role: str
    content: tuple[str | Image.Image, ...]


@dataclass(frozen=True)
class Exercise:
    """A conversation with the answer that ends it, and its rows' name in the tables.

    topic: what kind of question it is. scene: what the picture shows, for judges that need it.
    """

    kind: str
    topic: str
    turns: tuple[Turn, ...]
    answer: str
    scene: Scene | None = None

    @property
    def question(self) -> str:
        """What the user asks, the last text before the first answer."""
        user = next(turn for turn in self.turns if turn.role == "user")
        return [part for part in user.content if isinstance(part, str)][-1]

    @property
    def pictures(self) -> list[Image.Image]:
        """All pictures in order."""
        return [part for turn in self.turns for part in turn.content if isinstance(part, Image.Image)]


def in_words(made: Exercise) -> tuple[str, str]:
    """An exercise in words alone, as its prompt has them: what is given, and what the assistant says of it.

    Where there are pictures, the first step of the thought tells what is in them, and is given. An exercise in which a
    tool is called ends with its first call.
    """
    parts = []
    for turn in made.turns:
        *before, last = [part for part in turn.content if isinstance(part, str)] or [""]
        if turn.role == "assistant":
            told, apart, work = last.partition(";") if made.pictures else ("", "", "")
            return ("".join([*parts, told, apart]), work) if apart else ("".join(parts), last)
        parts += [*before, as_answer(last, "")] if turn.role == "user" else [f"{last}\n"]
    raise ValueError("the assistant says nothing in this exercise")


def write_made(folder: Path, counts: dict[str, int], make: Callable[[str, int], Exercise]) -> None:
    """`counts[split]` exercises, each of a split and its number, as `write_tars` keeps them."""
    write_tars(folder, counts, lambda tar, split, at: add_exercise(tar, f"{split}{at:06d}", make(split, at)))


def add_exercise(tar: tarfile.TarFile, key: str, made: Exercise) -> None:
    """Adds an exercise to a tar as a conversation, its pictures beside it."""
    messages = []
    for turn in made.turns:
        content = []
        for part in turn.content:
            if isinstance(part, str):
                content.append({"type": "text", "text": part})
                continue
            number = sum(one["type"] == "image" for message in messages for one in message["content"])
            number += sum(one["type"] == "image" for one in content)
            content.append({"type": "image", "path": f"{number}.png"})
            add_file(tar, f"{key}.{number}.png", as_png(part))
        messages.append({"role": turn.role, "content": content})
    record = {"messages": messages, "kind": made.kind, "topic": made.topic, "answer": made.answer}
    add_file(tar, f"{key}.json", json.dumps(record).encode())
