"""How tools are offered to a language model: by its chat template, in words, or as ReAct."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mmlm.prompting.conversation import chat_prompt
from mmlm.prompting.messages import Message, ToolCall
from mmlm.prompting.parts import Image, Markup, Part, Sound
from mmlm.prompting.tool_schemas import as_schemas
from mmlm.reasoning.tools.form import REACT, WORDED, CallForm, form_of, takes_several, takes_tools
from mmlm.reasoning.tools.reading import RawCall, calls_of, read_calls

Way = Literal["template", "words", "react"]

IN_WORDS = """\
You can call functions. To call one, write nothing but a line of this form:
{form}
Its result is then given to you. When you know the answer, write it in plain text.
The functions are:
{functions}"""

IN_REACT = """\
Answer the question. These functions can be called:
{functions}

Use this form:
Question: the question
Thought: what to do next
Action: one of {names}
Action Input: its arguments, a JSON object
Observation: what it gave
Thought: I know the answer.
Final Answer: the answer

"""
FINAL = "Final Answer:"


@dataclass(frozen=True)
class Offer:
    """Tools, and how a model is told of them and calls them.

    way: "template": the chat template writes tools, calls and results; "words": a chat template that does not, so they
        stand in messages; "react": no chat template.
    tools: their schemas, as OpenAI's API has them. form: of a call; None where only the tokenizer's own
        `response_template` can read it. several: whether the template writes several calls of one message.
    """

    way: Way
    tools: Sequence[Mapping[str, Any]]
    form: CallForm | None
    several: bool = True

    @property
    def names(self) -> list[str]:
        """The names of the tools."""
        return [tool["function"]["name"] for tool in self.tools]

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end what the model writes."""
        return ("Observation:", "\nQuestion:") if self.way == "react" else ()

    def parameters(self, name: str) -> Mapping[str, Any] | None:
        """The schema of a tool's arguments; None where there is no such tool."""
        return next((one["function"]["parameters"] for one in self.tools if one["function"]["name"] == name), None)


def offered(tokenizer: Any, tools: Sequence[Mapping[str, Any]]) -> Offer:
    """How these tools are offered to the model of a tokenizer: found out by its template, never by a name."""
    schemas = as_schemas(list(tools))
    if not getattr(tokenizer, "chat_template", None):
        return Offer("react", schemas, REACT)
    if takes_tools(tokenizer):
        form = form_of(tokenizer)
        if form is not None or getattr(tokenizer, "response_template", None) is not None:
            return Offer("template", schemas, form, takes_several(tokenizer))
    return Offer("words", schemas, WORDED)


def tool_prompt(
    tokenizer: Any, turns: Sequence[Message], offer: Offer, keywords: Mapping[str, Any] | None = None
) -> list[Part]:
    """The parts of a conversation with tools, up to where the model goes on."""
    if offer.way == "template":
        return chat_prompt(tokenizer, turns, keywords, offer.tools)
    if offer.way == "words":
        return chat_prompt(tokenizer, _in_words(turns, offer), keywords)
    if keywords:
        raise ValueError("chat_template_kwargs: the tokenizer has no chat template that could use them")
    return _in_react(turns, offer)


def opening(offer: Offer, name: str | None = None) -> list[Part]:
    """What a prompt goes on with where a call is required: of any tool, or of the one of a name.

    ValueError where the form of calls cannot be written ahead.
    """
    if offer.form is None:
        raise ValueError("this model's calls have a form of their own, so that none can be required of it")
    text = offer.form.opening + (name + offer.form.between if name is not None else "")
    return [Markup(text)] if offer.way == "template" else [text.rstrip() if name is None else text]


def read(
    offer: Offer, tokenizer: Any, text: str, prompt: Sequence[int] = (), *, begun: bool = False, name: str | None = None
) -> tuple[str, list[RawCall]]:
    """What a model has written, without its thinking: its answer, and the calls.

    prompt: the ids before the text, for a tokenizer that has a `response_template`. begun, name: whether the prompt
    ends in the `opening` of a call, and of which tool.
    """
    if offer.form is not None:
        answer, calls = read_calls(offer.form, text, offer.names, begun=begun, name=name)
        return (_final(answer) if offer.way == "react" and not calls else answer), calls
    message = tokenizer.parse_response(text, prefix=list(prompt), tools=[dict(tool) for tool in offer.tools])
    answer = message.get("content") or ""
    calls = [call for given in message.get("tool_calls") or [] for call in calls_of(json.dumps(given, default=str))]
    return answer.strip(), calls


def _final(text: str) -> str:
    before, final, answer = text.partition(FINAL)
    return answer.strip() if final else before.strip()


def _listed(offer: Offer) -> str:
    return "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in offer.tools)


def _in_words(turns: Sequence[Message], offer: Offer) -> list[Message]:
    """Messages that hold what a template without tools cannot write: the offer, calls as text, results as messages."""
    offered = IN_WORDS.format(form=WORDED.written("NAME", "{…}"), functions=_listed(offer))
    found: list[Message] = []
    names: dict[str | None, str] = {}
    for turn in turns:
        content = list(turn.content)
        names |= {call.id: call.name for call in turn.tool_calls}
        if turn.tool_calls:
            calls = [WORDED.written(call.name, _json(call)) for call in turn.tool_calls]
            turn = Message("assistant", (*content, *calls))
        elif turn.role == "tool":
            name = turn.name or names.get(turn.tool_call_id)
            content = [f"Result of {name}:" if name else "Result:", *content]
            if found and found[-1].role == "user":  # turns alternate in many templates
                found[-1] = replace(found[-1], content=(*found[-1].content, *content))
                continue
            turn = Message("user", tuple(content))
        found.append(turn)
    if not offer.tools:
        return found
    place = next((at for at, turn in enumerate(found) if turn.role in ("system", "user")), None)
    if place is None:
        return [Message("user", (offered,)), *found]
    found[place] = replace(found[place], content=(offered + "\n", *found[place].content))
    return found


def _in_react(turns: Sequence[Message], offer: Offer) -> list[Part]:
    """A conversation as questions, thoughts, actions and observations."""
    parts: list[Part] = []
    told = IN_REACT.format(functions=_listed(offer), names=", ".join(offer.names)) if offer.tools else ""
    system = [part for turn in turns if turn.role == "system" for part in turn.content]
    lines: list[str | Image | Sound] = [*(f"{part}\n" if isinstance(part, str) else part for part in system), told]
    turns = [turn for turn in turns if turn.role != "system"]
    for turn in turns:
        texts = "\n".join(part for part in turn.content if isinstance(part, str))
        media = [part for part in turn.content if not isinstance(part, str)]
        if turn.role == "user":
            lines += [*media, f"Question: {texts}\nThought:"]
        elif turn.role == "tool":
            lines += [" ", *media, f"{texts}\nThought:"]
        elif turn.tool_calls:
            calls = [REACT.written(call.name, _json(call)) for call in turn.tool_calls]
            lines += [*media, f" {texts.strip()}\n" if texts.strip() else "\n", "\n".join(calls)]
        else:
            lines += [*media, f" {FINAL} {texts.strip()}" + ("\n\n" if turn is not turns[-1] else "")]
    for line in lines:  # as one text, which is tokenized together
        if isinstance(line, str) and parts and isinstance(parts[-1], str):
            parts[-1] += line
        else:
            parts.append(line)
    return parts


def _json(call: ToolCall) -> str:
    return json.dumps(dict(call.arguments), ensure_ascii=False)
