"""An answer with tools: the model writes, its calls are made, and it goes on from what they gave."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

from mmlm.generation.constraints.together import Together
from mmlm.generation.options import GenerationKeywords, GenerationOptions, takes_options
from mmlm.generation.result import GenerationResult
from mmlm.generation.text import cut_at
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.messages import Message, as_messages
from mmlm.prompting.parts import Image, Part, Sound
from mmlm.prompting.thinking import after_thinking, begins_thinking, switched
from mmlm.reasoning.exchange import Ended, Exchange, Limits, Turn
from mmlm.reasoning.tools.calling import Called, called, refused
from mmlm.reasoning.tools.form import decoding
from mmlm.reasoning.tools.holding import Calls
from mmlm.reasoning.tools.offer import Offer, offered, read, tool_prompt
from mmlm.reasoning.tools.reading import RawCall
from mmlm.reasoning.tools.tool import Tool, as_tools
from mmlm.tasks.chat import MAX_NEW_TOKENS, Mode, beside_thought, heard, template_of
from mmlm.tasks.generate import generate
from mmlm.tasks.positions import positions_of
from mmlm.tasks.rows import one_result


@takes_options
def solve(
    model: MultimodalNetwork,
    messages: Any,
    *,
    tools: Iterable[Tool | Callable[..., Any]],
    limits: Limits = Limits(),
    on_call: Callable[[Called], None] | None = None,
    mode: Mode = "transcript",
    language: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    allow_url: bool = False,
    **options: Unpack[GenerationKeywords],
) -> Exchange:
    """The answer to a conversation, for which the model may call tools; all that was said and called is in the result.

    messages: a question, or a conversation as `chat` takes it. Its pictures and recordings, and those that tools give,
        are what the tools `zoom` and `listen` look into.
    tools: functions with type hints and docstrings, and `mmlm.reasoning.Tool`. They are offered by the chat template
        where it has a form for tools, in words where it has none, and as ReAct to models without a chat template.
    limits: of turns, seconds, calls and characters. on_call: called with each call once it has been made.
    mode, language, chat_template_kwargs, allow_url: as of `chat`. Other options are those of each text; where
    `max_new_tokens` is not given, it has up to 512 tokens, as far as there are positions for them.
    Calls are held to the schemas of their tools while they are written, where the model's form of calls can be. Then
    `no_repeat_ngram_size` and `bad_words_ids` are refused, which could forbid what a call needs.
    What a tool raises, an unknown tool and arguments that do not fit its schema are told to the model, which goes on.
    ValueError and TypeError for tools or messages of another form, before anything is computed.
    """
    settings = GenerationOptions.of(options)
    if settings.num_return_sequences != 1:
        raise ValueError("an exchange with tools is one: leave num_return_sequences at 1")
    if not isinstance(limits, Limits):
        raise TypeError(f"limits is an mmlm.reasoning.Limits, not {type(limits).__name__}")
    given = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    turns, own = as_messages(given, allow_url=allow_url), as_tools(tools)
    if own and settings.form is not None:
        raise ValueError(
            "choices, regex and json_schema hold the whole text, where no call of a tool could stand: leave one out"
        )
    if turns[-1].role == "assistant":
        raise ValueError("the last message is the assistant's: give a question, or the result of a call")
    offer = offered(model.processor.tokenizer, [tool.schema for tool in own])
    held = _held(model, offer, options)
    talk = _Conversation(model, mode, language)
    for turn in turns:
        talk.add(turn)
    return _run(talk, offer, held, own, limits, on_call or (lambda call: None), chat_template_kwargs, options)


def _run(
    talk: _Conversation,
    offer: Offer,
    held: Calls | None,
    tools: Sequence[Tool],
    limits: Limits,
    on_call: Callable[[Called], None],
    keywords: Mapping[str, Any] | None,
    options: GenerationKeywords,
) -> Exchange:
    """Lets the model write and makes its calls, until it answers or a limit is met."""
    begun, turns = time.monotonic(), list[Turn]()
    ended: Ended | None = None
    answer = ""
    while ended is None:
        since = time.monotonic()
        tokenizer = talk.model.processor.tokenizer
        thinking = options.get("thinking", False)
        prompt = tool_prompt(tokenizer, talk.shown, offer, switched(tokenizer, thinking is not False, keywords))
        most = talk.room(prompt, options.get("max_new_tokens", MAX_NEW_TOKENS), thinking)
        if most < 1 and turns:
            ended = "length"
            break
        result, text, raw = written(talk.model, prompt, offer, {**options, "max_new_tokens": max(1, most)}, held)
        calls: list[Called] = []
        for place, one in enumerate(raw):
            number, left = sum(len(turn.calls) for turn in turns) + place, begun + limits.seconds - time.monotonic()
            if place >= limits.calls:
                calls.append(refused(one, f"no more than {limits.calls} calls are made at once", number))
            elif left <= 0:
                calls.append(refused(one, f"no call is begun after {limits.seconds:g} s", number))
            else:
                calls.append(called(one, tools, talk.media(), number, left, limits.characters))
        answer = "" if raw else text
        talk.add(Message("assistant", (text,) if text else (), tuple(one.call for one in calls)))
        for place, one in enumerate(calls):
            calls[place] = talk.add_result(one)
            on_call(calls[place])
        turns.append(Turn(text, tuple(calls), result, time.monotonic() - since))
        if not raw:
            ended = "answer" if result.finish_reason == "stop" else "length"
        elif time.monotonic() >= begun + limits.seconds:
            ended = "seconds"
        elif len(turns) >= limits.turns:
            ended = "turns"
    return Exchange(answer, ended, tuple(talk.given), tuple(turns), time.monotonic() - begun)


def written(
    model: MultimodalNetwork,
    prompt: Sequence[Part],
    offer: Offer,
    options: Mapping[str, Any],
    held: Calls | None = None,
) -> tuple[GenerationResult, str, list[RawCall]]:
    """What the model writes behind a prompt: the result, its text without thinking and calls, and the calls, which are
    `held` to their tools.
    """
    settings = GenerationOptions.of(options)
    stop, own = (*settings.stop_strings, *offer.stop), None
    if held is not None:
        own = held.begin(begins_thinking(prompt) and not settings.is_thinking)
    keywords: dict[str, Any] = {**options, "stop": stop, "constraint": Together.of(settings.constraint, own)}
    result = one_result(generate(model, list(prompt), **keywords))
    ends = set(model.language_model.stop_ids)
    thought = result.usage.thinking_tokens
    ids = [token for token in result.token_ids[thought:] if token not in ends]
    text = cut_at(decoding(model.processor, offer.form)(ids), stop)[0]
    begins = model.processor.encode(prompt).input_ids
    said = after_thinking(text, begins_thinking(prompt) and not thought)
    answer, calls = read(offer, model.processor.tokenizer, said, begins)
    return result, answer, calls[:1] if not offer.several else calls


def _held(model: MultimodalNetwork, offer: Offer, options: Mapping[str, Any]) -> Calls | None:
    """What calls are held to. ValueError beside options that could forbid what a call needs.

    `min_new_tokens` forbids the end of a text alone, which a call does not need.
    """
    held = Calls.of(model, offer)
    for name in ("no_repeat_ngram_size", "bad_words_ids"):
        if held is not None and options.get(name):
            raise ValueError(f"{name} could forbid what a call of a tool needs: leave it out with tools")
    return held


@dataclass
class _Conversation:
    """Messages as they were given and grew, and as the model is shown them: recordings heard, media encoded once."""

    model: MultimodalNetwork
    mode: Mode
    language: str | None
    given: list[Message] = field(default_factory=list)
    shown: list[Message] = field(default_factory=list)

    def add(self, turn: Message) -> None:
        seen = heard(self.model, turn, self.mode, self.language, template_of(self.model))
        content = tuple(
            replace(part, source=self.model.encode_media([part])[0]) if isinstance(part, (Image, Sound)) else part
            for part in seen.content
        )
        self.given.append(turn)
        self.shown.append(replace(seen, content=content))

    def add_result(self, one: Called) -> Called:
        """Adds what a call gave; where the model cannot see or hear it, that is told in its place."""
        message = Message("tool", one.parts, (), one.call.name, one.call.id)
        try:
            self.add(message)
        except (ValueError, TypeError) as error:
            one = one.failed(error)
            self.add(replace(message, content=one.parts))
        return one

    def media(self) -> list[Image | Sound]:
        return [part for turn in self.given for part in turn.content if isinstance(part, (Image, Sound))]

    def room(self, prompt: Sequence[Part], most: int, thinking: bool | int) -> int:
        """How many of an answer's tokens `most` there are positions for behind a prompt and a thought; 0 or less where
        these are too long.
        """
        positions = self.model.language_model.max_length
        if positions is None:
            return most
        try:
            return min(most, beside_thought(positions - positions_of(self.model, prompt), thinking))
        except ValueError:  # longer than the positions; the first time, the generation says so
            return 0
