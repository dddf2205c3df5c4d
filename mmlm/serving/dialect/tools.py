"""Tools of a request: what it offers and demands, and the calls of an answer in the forms of the dialect."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmlm.generation.answer_text import AnswerText
from mmlm.generation.result import GenerationResult
from mmlm.generation.text import cut_at
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.messages import Message
from mmlm.prompting.parts import Markup, Part
from mmlm.prompting.thinking import Opening, begins_thinking, marks_of, opened, switched
from mmlm.reasoning.tools.form import decoding
from mmlm.reasoning.tools.holding import Calls, HeldCalls, check_schema
from mmlm.reasoning.tools.offer import Offer, offered, opening, read, tool_prompt
from mmlm.reasoning.tools.reading import CallReader, Written
from mmlm.serving.errors import ApiError
from mmlm.tasks.chat import Mode, heard, template_of

CHOICES = ("none", "auto", "required")


@dataclass(frozen=True)
class Demand:
    """What a request offers and demands.

    offer: of its tools. held: what calls are held to while they are written; None where they cannot be. required:
    whether the answer must be a call; named: of which tool. most: calls of an answer.
    """

    offer: Offer
    held: Calls | None
    required: bool = False
    named: str | None = None
    most: int | None = None

    def prompt(
        self, model: MultimodalNetwork, turns: Sequence[Message], mode: Mode, language: str | None,
        keywords: Mapping[str, Any] | None, thinking: bool = False,
    ) -> list[Part]:  # fmt: skip
        """The prompt of a conversation, with the tools, and with the beginning of a call that is required.

        thinking: whether a thought is to come first, where the tokenizer knows marks and no call is required.
        """
        shown, tokenizer = (
            [heard(model, turn, mode, language, template_of(model)) for turn in turns],
            model.processor.tokenizer,
        )
        marks = marks_of(tokenizer) if thinking and not self.required else None
        prompt = tool_prompt(tokenizer, shown, self.offer, switched(tokenizer, marks is not None, keywords))
        if not self.required:
            return prompt if marks is None else opened(prompt, marks)
        thought = [Markup("\n</think>\n\n")] if begins_thinking(prompt) else []  # which is left out
        return [*prompt, *thought, *opening(self.offer, self.named)]

    def constraint(self, prompt: Sequence[Any]) -> HeldCalls | None:
        """The state of each answer behind a prompt, which holds its calls."""
        if self.held is None:
            return None
        return self.held.begin(_thinks_unasked(prompt), begun=self.required, name=self.named)


def demanded(
    model: MultimodalNetwork, turns: Sequence[Message], tools: Any, choice: Any, parallel: bool | None
) -> Demand | None:
    """What a request demands; None where nothing is offered and nothing was called before.

    ApiError for tools of another form, for an unknown choice, and for calls that this model cannot be held to.
    """
    tokenizer = model.processor.tokenizer
    named = _named(choice)
    try:
        offer = offered(tokenizer, tools or [])
    except (ValueError, TypeError) as error:
        raise ApiError(400, str(error), "tools", "invalid_value") from None
    if choice is not None and not offer.tools and (named is not None or choice == "required"):
        raise ApiError(400, "tool_choice is for requests with tools", "tool_choice", "invalid_value")
    if named is not None and named not in offer.names:
        there = ", ".join(offer.names)
        message = f"tool_choice: there is no tool {named[:60]!r}; there are {there}"
        raise ApiError(400, message, "tool_choice", "invalid_value")
    required = named is not None or choice == "required"
    if required and offer.form is None:
        message = "tool_choice: this model's calls have a form of their own, so that none can be required; send auto"
        raise ApiError(400, message, "tool_choice", "invalid_value")
    if choice == "none" or not offer.tools:
        if not any(turn.role == "tool" or turn.tool_calls for turn in turns):
            return None
        offer = Offer(offer.way, (), None, offer.several)
    held = Calls.of(model, offer)
    _check_strict(tools or [], held)
    if named is None and required and len(offer.names) == 1:
        named = offer.names[0]
    most = 1 if required or parallel is False or not offer.several else None
    return Demand(offer, held, required, named, most)


def _check_strict(tools: Sequence[Mapping[str, Any]], held: Calls | None) -> None:
    """ApiError where calls of a strict tool cannot be held to its schema; those of others are as far as they can be."""
    for function in (tool["function"] for tool in tools):
        strict, name = function.get("strict"), function["name"]
        if not isinstance(strict, bool | None):
            raise ApiError(400, f"tools: strict of {name} is true or false", "tools", "invalid_value")
        if strict and held is None:
            message = f"tools: strict of {name}: this model's calls cannot be held to a schema; leave strict out"
            raise ApiError(400, message, "tools", "invalid_value")
        if strict:
            try:
                check_schema(function.get("parameters") or {"type": "object"}, name)
            except ValueError as error:
                raise ApiError(400, f"tools: {error}; leave strict out", "tools", "invalid_value") from None


def _thinks_unasked(prompt: Sequence[Any]) -> bool:
    return begins_thinking(prompt) and not isinstance(prompt[-1], Opening)


def _named(choice: Any) -> str | None:
    """The name of a tool that must be called."""
    if choice is None or choice in CHOICES:
        return None
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        form = '{"type": "function", "function": {"name": …}}'
        message = f"tool_choice is one of {', '.join(CHOICES)}, or {form}"
        raise ApiError(400, message, "tool_choice", "invalid_value")
    return name


class ToolAnswers:
    """Answers that may hold calls.

    decode: ids of an answer → its text, with the marks of calls.
    """

    def __init__(self, model: MultimodalNetwork, demand: Demand, prompt: Sequence[Any]) -> None:
        self.demand = demand
        self.thinking = _thinks_unasked(prompt)
        self.tokenizer = model.processor.tokenizer
        self.prompt = model.processor.encode(prompt).input_ids if demand.offer.form is None else []
        self.decode: Callable[[Sequence[int]], str] = decoding(model.processor, demand.offer.form)
        self.stop_ids = frozenset(model.language_model.stop_ids)

    def message(self, result: GenerationResult, stop: Sequence[str]) -> tuple[dict[str, Any], str]:
        """The message of a whole answer, and why it ended."""
        row, written = ToolRow(self), result.token_ids[result.usage.thinking_tokens :]
        ids = [token for token in written if token not in self.stop_ids]
        text = cut_at(self.decode(ids), stop)[0]
        deltas = row.push(text) + row.rest()
        content = "".join(delta.get("content", "") for delta in deltas)
        calls: list[dict[str, Any]] = []
        for part in (part for delta in deltas for part in delta.get("tool_calls", ())):
            if "id" in part:
                calls.append({key: part[key] for key in ("id", "type", "function")})
            else:
                calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
        message = {"role": "assistant", "content": content or (None if calls else ""), "refusal": None}
        return message | ({"tool_calls": calls} if calls else {}), row.reason(result)


class ToolRow:
    """One answer: pieces of its text → the deltas of the dialect. Joined, those are the whole message."""

    def __init__(self, answers: ToolAnswers) -> None:
        self._answers, self._demand = answers, answers.demand
        self._answer = AnswerText(answers.thinking)
        self._whole = ""  # of a text that is read at its end
        self._called = 0
        form, demand = self._demand.offer.form, self._demand
        self._reader = None
        if form is not None and demand.offer.way != "react":
            self._reader = CallReader(form, demand.offer.names, begun=demand.required, name=demand.named)

    def push(self, piece: str) -> list[dict[str, Any]]:
        """What one more piece of the text settles."""
        piece = self._answer.push(piece)
        if self._reader is not None:
            return self._deltas(self._reader.push(piece))
        self._whole += piece
        return []

    def rest(self) -> list[dict[str, Any]]:
        """What is left when no more comes."""
        piece = self._answer.rest()
        if self._reader is not None:
            return self._deltas(self._reader.push(piece) + self._reader.rest())
        begun = {"begun": self._demand.required, "name": self._demand.named}
        prompt, tokenizer = self._answers.prompt, self._answers.tokenizer
        content, calls = read(self._demand.offer, tokenizer, self._whole + piece, prompt, **begun)
        found = [Written(content)] if content else []
        return self._deltas([*found, *(Written(call.arguments, at, call.name) for at, call in enumerate(calls))])

    def reason(self, result: GenerationResult) -> str:
        """Why the answer ended."""
        return "tool_calls" if self._called and result.finish_reason == "stop" else result.finish_reason

    def _deltas(self, pieces: Sequence[Written]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for piece in pieces:
            if piece.call is None:
                found.append({"content": piece.text})
            elif self._demand.most is None or piece.call < self._demand.most:
                if piece.name is not None:
                    self._called += 1
                    found.append(_call_delta(piece.call, id=_new_id(), type="function", name=piece.name))
                if piece.text:
                    found.append(_call_delta(piece.call, arguments=piece.text))
        return found


def _call_delta(index: int, *, name: str | None = None, arguments: str = "", **first: str) -> dict[str, Any]:
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    return {"tool_calls": [{"index": index, **first, "function": function}]}


def _new_id() -> str:
    """Nine letters and digits, as some chat templates demand."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))
