"""Conversations → prompts: what was said, between the markup of a tokenizer's chat template.

The template never sees what was said: it gets a place for each text and each medium. So nothing that a user types, that
a recording says or that a tool returns can become markup, and one rendering serves all conversations of a form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from mmlm.prompting.chat_template import PLACE, EndlessTemplateError, answered, plain, rendered
from mmlm.prompting.messages import Message, as_messages
from mmlm.prompting.parts import END_OF_CHUNK, Image, Learned, Markup, Part, Sound
from mmlm.prompting.thinking import after_thinking
from mmlm.prompting.token_ids import token_ids
from mmlm.prompting.tool_schemas import shown_tools

_PLACES = re.compile(f"{PLACE}([0-9]+){PLACE}")


def chat_prompt(
    tokenizer: Any,
    messages: Any,
    keywords: Mapping[str, Any] | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
) -> list[Part]:
    """The parts of a conversation, `as_messages`, up to where the answer begins.

    If the last message is the assistant's, the answer goes on from it. Of earlier answers the thinking is left out.
    keywords: of the chat template, such as {"enable_thinking": False}; values are what JSON can hold.
    tools: functions that may be called, as OpenAI's API has them. What their schemas say is text as well.
    ValueError where the template fails, does not end, or leaves out or repeats something that was said.
    """
    turns = as_messages(messages)
    goes_on = turns[-1].role == "assistant"
    if goes_on and not turns[-1].content:
        raise ValueError("the last message is the assistant's and says nothing to go on from: leave it out")
    shown, described = shown_tools(tools)
    checked = _checked(keywords) | ({"tools": shown} if shown else {})
    text, said = _rendered(tokenizer, turns, not goes_on, checked, described)
    if goes_on:
        text = _up_to_the_last(text, turns[-1].content[-1])
    pieces = _PLACES.split(text)
    parts: list[Part] = [Markup(pieces[0])]  # also where it is empty: the template alone says how a text begins
    for number, before, after in zip(pieces[1::2], pieces[:-1:2], pieces[2::2], strict=True):
        parts.append(_written(said[int(number)].part, before, after))
        if after:
            parts.append(Markup(after))
    return parts


def taught(tokenizer: Any, messages: Any) -> list[Part]:
    """The parts of a whole conversation, `as_messages`, by the tokenizer's chat template; the answers are `Learned`.

    With an answer is learned what the template writes between the end of a prompt and an answer, such as a space, and
    the mark that ends the turn. Where there is no such mark, the last answer ends in END_OF_CHUNK. Of earlier answers
    the thinking is left out.
    ValueError as of `chat_prompt`.
    """
    turns = as_messages(messages)
    text, said = _rendered(tokenizer, turns, False, {})
    end, lead = turn_end(tokenizer), _lead(tokenizer)
    mark = None if end is None else tokenizer.convert_ids_to_tokens(end)
    pieces = _PLACES.split(text)
    parts: list[Part] = [Markup(pieces[0])]
    for number, before, after in zip(pieces[1::2], pieces[:-1:2], pieces[2::2], strict=True):
        one = said[int(number)]
        written = _written(one.part, before, after)
        if one.role != "assistant" or not isinstance(written, str):
            parts += [written, Markup(after)]
            continue
        opening: tuple[Markup, ...] = ()
        last = parts[-1]
        if lead and isinstance(last, Markup) and last.text.endswith(lead):
            parts[-1], opening = Markup(last.text.removesuffix(lead)), (Markup(lead),)
        ends = after.partition(mark) if mark else ("", "", after)
        closing = (Markup(ends[0] + ends[1]),) if ends[1] and not ends[0].strip() else ()
        if not closing and one is said[len(said) - 1]:
            parts.append(Learned((*opening, written, END_OF_CHUNK)))
            break
        parts += [Learned((*opening, written, *closing)), Markup(ends[2] if closing else after)]
    return [part for index, part in enumerate(parts) if not index or part != Markup("")]


def _lead(tokenizer: Any) -> str:
    """What the template writes between the end of a prompt and an answer, which a model has to write itself."""
    try:
        before = rendered(tokenizer, plain(2), False).partition(f"{PLACE}1{PLACE}")[0]
        prompt = rendered(tokenizer, plain(1), True)
    except EndlessTemplateError:
        raise
    except Exception:  # a template may refuse anything
        return ""
    return before.removeprefix(prompt) if before.startswith(prompt) else ""


class _Said(NamedTuple):
    """Something that a message says."""

    role: str
    part: str | Image | Sound


def _rendered(
    tokenizer: Any,
    turns: Sequence[Message],
    generation: bool,
    keywords: Mapping[str, Any],
    described: Mapping[int, str] = MappingProxyType({}),
) -> tuple[str, dict[int, _Said]]:
    """A conversation by the chat template, with places in it, and what is said in these places.

    described: texts of the schemas of tools by their places, which the template may leave out or repeat. It may also
    leave out what an assistant says beside its calls, as published templates do.
    ValueError where the template writes a place that is not of this conversation, or not each of them once.
    """
    said: list[str | Image | Sound] = []
    roles: list[str] = []
    shown = []
    beside_calls: set[int] = set()
    for turn in turns:
        count = len(said)
        shown.append(_shown(turn, said, last=turn is turns[-1]))
        roles += [turn.role] * (len(said) - count)
        if turn.tool_calls:
            beside_calls.update(int(number) for number in _PLACES.findall(shown[-1]["content"]))
    text = rendered(tokenizer, shown, generation, keywords)
    found = [int(number) for number in _PLACES.findall(text)]
    if any(number >= len(said) and number not in described for number in found):
        raise ValueError("the tokenizer's chat template writes a place for what nobody said")
    if wrong := [
        number for number in range(len(said))
        if (count := found.count(number)) != 1 and (count or number not in beside_calls)
    ]:  # fmt: skip
        what = "leaves out" if wrong[0] not in found else "repeats"
        raise ValueError(f"the tokenizer's chat template {what} what a message says: {_named(turns, said, wrong[0])}")
    places = {number: _Said(role, part) for number, (role, part) in enumerate(zip(roles, said, strict=True))}
    return text, places | {number: _Said("system", text) for number, text in described.items()}


def _shown(turn: Message, said: list[str | Image | Sound], last: bool) -> dict[str, Any]:
    """A message as the template gets it: with places in it, whose contents are added to `said`."""
    content: list[str | Image | Sound] = []
    for one in turn.content:  # texts that follow each other are lines, as in other programs
        if isinstance(one, str) and content and isinstance(content[-1], str):
            content[-1] += "\n" + one
        else:
            content.append(one)
    if turn.role == "assistant" and not last:
        content = [_without_thinking(one) if isinstance(one, str) else one for one in content]
    message: dict[str, Any] = {"role": turn.role, "content": "".join(_place(one, said) for one in content)}
    if turn.tool_calls:
        message["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": _places(dict(call.arguments), said)}}
            | ({} if call.id is None else {"id": call.id})
            for call in turn.tool_calls
        ]
    names = {"name": turn.name, "tool_call_id": turn.tool_call_id}
    return message | {key: value for key, value in names.items() if value is not None}


def _without_thinking(text: str) -> str:
    answer = after_thinking(text)
    return text if answer == text else answer.lstrip("\n")


def _place(one: str | Image | Sound, said: list[str | Image | Sound]) -> str:
    """A place; around it the white space of a text, which the template may cut off."""
    bare = one.strip() if isinstance(one, str) else one
    if not bare:
        return str(one)
    place = f"{PLACE}{len(said)}{PLACE}"
    said.append(bare)
    if not isinstance(one, str):
        return place
    start = len(one) - len(one.lstrip())
    return one[:start] + place + one[start + len(one.strip()) :]


def _places(value: Any, said: list[str | Image | Sound]) -> Any:
    """Arguments of a call with places for their texts, keys too."""
    if isinstance(value, Mapping):
        return {_place(str(key), said): _places(own, said) for key, own in value.items()}
    if isinstance(value, (list, tuple)):
        return [_places(own, said) for own in value]
    return _place(value, said) if isinstance(value, str) else value


def _written(one: str | Image | Sound, before: str, after: str) -> str | Image | Sound:
    """A text between quotes is part of JSON that the template wrote, so it is escaped as JSON has it."""
    if isinstance(one, str) and before.endswith('"') and after.startswith('"'):
        return json.dumps(one, ensure_ascii=False)[1:-1]
    return one


def _up_to_the_last(text: str, last: str | Image | Sound) -> str:
    """A rendering up to the end of its last place, and the white space after it that the template left there."""
    *_, place = _PLACES.finditer(text)
    space = last[len(last.rstrip()) :] if isinstance(last, str) else ""
    return text[: place.end()] + (space if text.startswith(space, place.end()) else "")


def _named(turns: Sequence[Message], said: Sequence[Any], number: int) -> str:
    role = next((turn.role for turn in turns if said[number] in turn.content), None)
    what = repr(said[number][:60]) if isinstance(said[number], str) else "a picture or a recording"
    return what if role is None else f"{what}, of the {role}"


def _checked(keywords: Mapping[str, Any] | None) -> dict[str, Any]:
    """Keywords of a template; ValueError for those that are not the template's, or that JSON cannot hold."""
    if not isinstance(keywords, Mapping | None):
        raise TypeError(f"chat_template_kwargs is a dictionary, not {type(keywords).__name__}")
    found = dict(keywords or {})
    if taken := sorted(found.keys() & {"messages", "add_generation_prompt", "chat_template", "conversations"}):
        raise ValueError(f"chat_template_kwargs: {taken[0]} is not yours to set")
    if "tools" in found:
        raise ValueError("chat_template_kwargs: tools are given as tools=, so that what they say stays text")
    try:
        json.dumps(found, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"chat_template_kwargs: {error}") from error
    return found


def turn_end(tokenizer: Any) -> int | None:
    """The id of the control token that a chat template writes after an answer; None where it writes none.

    It may be no end of the tokenizer's own: Qwen's base models end in `<|endoftext|>`, their chats in `<|im_end|>`.
    ValueError for a chat template that does not end.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    text = answered(tokenizer)
    if text is None or PLACE not in text:
        return None
    ids = token_ids(tokenizer, text.rpartition(PLACE)[2].lstrip())
    control = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    return ids[0] if ids and ids[0] in control else None
