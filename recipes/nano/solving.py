"""How nano does an exercise: it thinks where it is asked to, and what it calls is run, until it answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

import mmlm
from mmlm.prompting.parts import END_OF_CHUNK, Markup, Part
from recipes.nano.conversations import Exercise
from recipes.nano.exercises import cut, value
from recipes.nano.marks import CALL, CALLED, MARKS, RESPONDED, RESPONSE, THINK, THOUGHT

LONGEST = 260  # tokens of a turn
TURNS = 3
_CALL = re.compile(re.escape(CALL) + "(.*?)" + re.escape(CALLED), re.DOTALL)
_MARKED = re.compile("(" + "|".join(map(re.escape, MARKS)) + ")")


@dataclass
class Solution:
    """What was written: the answer, the turns as they came, and each call with what it returned."""

    answer: str = ""
    turns: list[str] = field(default_factory=list)
    calls: list[tuple[dict[str, Any], Any]] = field(default_factory=list)


def solve(
    model: mmlm.MultimodalLM,
    exercises: Sequence[Exercise],
    think: bool,
    tools: bool = True,
    batch_size: int = 48,
    told: Callable[[Exercise], Exercise] = lambda exercise: exercise,
) -> list[Solution]:
    """Does exercises by greedy decoding. think: whether thoughts are asked for. tools: whether tools are offered.

    told: the exercise as it is shown, for controls.
    """
    prompts = [asked(model, told(exercise), think, tools) for exercise in exercises]
    solutions = [Solution() for _ in exercises]
    left = list(range(len(exercises)))
    for _ in range(TURNS):
        left.sort(key=lambda index: sum(len(part) for part in prompts[index] if isinstance(part, str)))
        written = model.generate([prompts[index] for index in left], max_new_tokens=LONGEST, batch_size=batch_size)
        going = []
        for index, result in zip(left, written, strict=True):
            text, solution = result.text, solutions[index]
            solution.turns.append(text)
            solution.answer = text.rpartition(THOUGHT)[2].strip()
            call = _CALL.search(text)
            if call is None or not tools:
                continue
            returned = run(call[1], prompts[index])
            solution.calls.append((_arguments(call[1]), returned))
            said = [Markup(piece) if piece in MARKS else piece for piece in _MARKED.split(text) if piece]
            prompts[index] += [*said, END_OF_CHUNK, Markup(RESPONSE), returned, Markup(RESPONDED)]
            prompts[index] += [Markup(THINK)] if think else []
            going.append(index)
        left = going
        if not left:
            break
    return solutions


def asked(model: mmlm.MultimodalLM, exercise: Exercise, think: bool, tools: bool) -> list[Part]:
    """The prompt of an exercise: notes or tools, pictures, the question, and the mark that asks for a thought."""
    parts: list[Any] = []
    for turn in exercise.turns:
        if turn.role == "system" and (tools or exercise.kind not in ("arithmetic", "zoom")):
            parts += [f"{turn.content[0]}\n"]
        if turn.role == "user":
            *before, question = turn.content
            parts += [*before, *model.template.spoken_prompt((), question=str(question))]
        if turn.role == "assistant":
            break
    parts = [mmlm.Image(part) if isinstance(part, Image.Image) else part for part in parts]
    return [*parts, Markup(THINK)] if think else parts


def run(call: str, prompt: Sequence[Any]) -> Any:
    """What the tool returns that is called: a text or a picture; a text that says so where it cannot be run."""
    try:
        arguments = json.loads(call)["arguments"]
        if "expression" in arguments:
            return str(value(arguments["expression"]))
        picture = next(part.source for part in prompt if isinstance(part, mmlm.Image))
        found = cut(picture, arguments["box"])
        return mmlm.Image(found) if min(found.size) > 0 else "error"
    except (ValueError, KeyError, TypeError, IndexError, StopIteration, SystemError):
        return "error"


def _arguments(call: str) -> dict[str, Any]:
    try:
        return json.loads(call)
    except ValueError:
        return {}
