"""What nano does in several steps: a thought, a call of a tool, a scene as JSON, and an answer that cites a note.

python demos/think.py
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmlm import MultimodalLM

OUTPUT = Path("runs/demo/thoughts.png")


def main() -> None:
    start = time.perf_counter()
    import mmlm

    model = mmlm.load("nano")
    images, texts = zip(*(show(model) for show in (think, call, write_json)), strict=True)
    mmlm.contact_sheet(list(images), list(texts), OUTPUT)
    cite(model)
    print(f"Thought, called, wrote and looked up in {time.perf_counter() - start:.1f} s: {OUTPUT}")


def think(model: MultimodalLM) -> tuple:
    """A question about a relation, answered at once and after a thought."""
    image, question, right = asked("thinking", "relation")
    at_once = model.answer(image, question)
    result = model.answer(image, question, thinking=True, details=True)
    return image, told(
        question,
        f"at once: {verdict(at_once, right)}",
        f"thought: {result.thinking}",
        f"then: {verdict(result.answer, right)}",
    )


def call(model: MultimodalLM) -> tuple:
    """A sum about a picture, by a calculator."""
    import mmlm
    from mmlm.reasoning.tools.calculator import calculator

    image, question, right = asked("arithmetic", "price")
    conversation = [{"role": "user", "content": [mmlm.Image(image), question]}]
    found = model.solve(conversation, tools=[calculator()], thinking=True, max_new_tokens=60)
    calls = [str(own).replace("→", "=") for turn in found.turns for own in turn.calls]
    return image, told(question, *calls, verdict(found.answer, right))


def write_json(model: MultimodalLM) -> tuple:
    """A scene as JSON, held to a schema."""
    import json

    from recipes.nano.exercises import SCENE_SCHEMA

    image, question, right = asked("json", "json")
    result = model.answer(image, question, json_schema=SCENE_SCHEMA, details=True, max_new_tokens=160)
    scene = json.loads(right)
    judged = "right" if result.parsed == scene else f"wrong, the scene is {json.dumps(scene)}"
    return image, told(question, json.dumps(result.parsed), f"({judged})")


def cite(model: MultimodalLM) -> None:
    """A question that one note of several answers, which is named."""
    import mmlm

    notes = (
        "the small red circle is called Bo.",
        "the large blue star is called Mia.",
        "the green ring is made of wax.",
    )
    question = "what is the large blue star called?"
    with tempfile.TemporaryDirectory() as folder:
        index = mmlm.Index(Path(folder) / "notes.index", model)
        for number, note in enumerate(notes):
            index.add_text(note, name=f"note {number}")
        result = model.answer(question, index=index, thinking=True, details=True)
        cited = [result.sources[number - 1].quote for number in result.citations.cited]
    told(question, f"{verdict(result.answer, 'Mia')}, from the note: {' '.join(cited) or 'none'}")


def asked(kind: str, topic: str) -> tuple:
    """A picture in a layout that training never draws, a question about it, and the right answer."""
    import pictures  # noqa: F401 - finds recipes/

    from recipes.nano.exercises import exercise

    made = (exercise("dev", index, 7, kind) for index in range(1000))
    chosen = next(one for one in made if one.topic == topic)
    user = next(turn for turn in chosen.turns if turn.role == "user")
    image, question = user.content
    return image, question, chosen.answer


def verdict(answer: str, right: str) -> str:
    return f"{answer} ({'right' if answer.partition(' [')[0] == right else f'wrong: {right}'})"


def told(question: str, *lines: str) -> str:
    """Prints a question with what came of it; the same as one text."""
    print("\n".join([f"  {question}", *(f"      {line}" for line in lines)]))
    return "\n".join([question, *lines])


if __name__ == "__main__":
    main()
