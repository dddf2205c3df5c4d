"""Conversations: the next answer to messages of text, pictures, recordings and videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Unpack, get_args

from encoders.media.sound import load_audio
from mmlm.generation.options import GenerationKeywords, takes_options
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.conversation import chat_prompt as templated
from mmlm.prompting.messages import Message, as_messages
from mmlm.prompting.parts import Part, Sound
from mmlm.prompting.templates import CHAT, PromptTemplate
from mmlm.tasks.generate import generate
from mmlm.tasks.rows import Answers, answers_of
from mmlm.tasks.transcribe import transcribe

if TYPE_CHECKING:
    from encoders.transcription.transcript import Transcript

Mode = Literal["transcript", "features", "both"]
"""How recordings are heard: written down by Whisper, by the trained adapters, or both."""

MAX_NEW_TOKENS = 512  # of an answer, where the language model has the positions for it


@takes_options
def chat(
    model: MultimodalNetwork,
    messages: Any,
    *,
    mode: Mode = "transcript",
    language: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    allow_url: bool = False,
    details: bool = False,
    batch_size: int = 32,
    **options: Unpack[GenerationKeywords],
) -> Answers:
    """The answer to a conversation; several conversations give a list. If an answer has been begun, it goes on.

    messages: as transformers and OpenAI have them, see `mmlm.prompting.as_messages`.
    mode: "transcript" has Whisper write down what recordings say, which needs no trained adapters; "features" lets the
        trained adapters hear them; "both" does both. language: what is spoken; None detects it.
    chat_template_kwargs: for the chat template, such as {"enable_thinking": False}.
    allow_url: fetch media from http(s) addresses.
    details: return a `GenerationResult` in place of each text; its `finish_reason` "length" tells that it was cut off.
    Where `max_new_tokens` is not given, an answer has up to 512 tokens, as far as there are positions for them.
    A tokenizer without a chat template is asked with `model.template`. ValueError where nothing is said.
    """
    found, batch = _conversations(messages)
    prompts = [
        chat_prompt(
            model, one, mode=mode, language=language, chat_template_kwargs=chat_template_kwargs, allow_url=allow_url
        )
        for one in found
    ]
    if "max_new_tokens" not in options:
        options["max_new_tokens"] = room(model, prompts)
    return answers_of(generate(model, prompts, batch_size=batch_size, **options), batch, details)


@takes_options
def chat_prompt(
    model: MultimodalNetwork,
    messages: Any,
    *,
    mode: Mode = "transcript",
    language: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    allow_url: bool = False,
) -> list[Part]:
    """The prompt of one conversation, for `generate` and `stream`; arguments and errors are those of `chat`."""
    check_mode(mode)
    turns = as_messages(messages, allow_url=allow_url)
    template = template_of(model)
    turns = [heard(model, turn, mode, language, template) for turn in turns]
    if template is CHAT:
        return templated(model.processor.tokenizer, turns, chat_template_kwargs)
    if chat_template_kwargs:
        raise ValueError("chat_template_kwargs: the tokenizer has no chat template that could use them")
    return template.conversation(turns)


def template_of(model: MultimodalNetwork) -> PromptTemplate:
    """The wording of a conversation: the chat template's own marks where there is one, else the model's."""
    return CHAT if getattr(model.processor.tokenizer, "chat_template", None) else model.template


def check_mode(mode: str) -> None:
    """ValueError for what is no `Mode`."""
    if mode not in get_args(Mode):
        raise ValueError(f"mode is one of {', '.join(get_args(Mode))}, not {mode!r}")


def heard(
    model: MultimodalNetwork,
    turn: Message,
    mode: Mode,
    language: str | None,
    template: PromptTemplate = CHAT,
    write_down: Callable[[Any], Transcript] | None = None,
) -> Message:
    """A message whose recordings are text, or text as well, as `mode` says.

    Beside other text, `template.transcript` says that it is a transcript; by itself it is what the user says.
    write_down: the transcript of a recording, in place of `transcribe`'s.
    ValueError for a message of recordings in which nothing is said.
    """
    if mode == "features" or not any(isinstance(part, Sound) for part in turn.content):
        return turn
    alone = not any(isinstance(part, str) and part.strip() for part in turn.content)
    content: list[Any] = []
    for part in turn.content:
        if isinstance(part, Sound):
            # A stream is read once, and both ways hear it.
            sound = load_audio(part.source) if hasattr(part.source, "read") else part.source
            transcript: Any = write_down(sound) if write_down else transcribe(model, sound, language=language)
            said = transcript.text.strip()
            content += [Sound(sound)] if mode == "both" else []
            content += [said if alone else template.transcript + said] if said else []
        else:
            content.append(part)
    if not content:
        raise ValueError("nothing is said in the recording, so there is nothing to answer: give a question")
    return replace(turn, content=tuple(content))


def room(model: MultimodalNetwork, prompts: Sequence[Sequence[Any]]) -> int:
    """How many tokens an answer may have, by the positions that the longest prompt leaves; at least 1."""
    positions = model.language_model.max_length
    if positions is None:
        return MAX_NEW_TOKENS
    longest = max(len(model.processor.encode(prompt).input_ids) for prompt in prompts)
    return max(1, min(MAX_NEW_TOKENS, positions - longest))


def _conversations(messages: Any) -> tuple[list[Any], bool]:
    """Conversations, and whether several were given."""
    if isinstance(messages, Iterator):
        messages = list(messages)
    if isinstance(messages, (list, tuple)) and messages and all(isinstance(one, (list, tuple)) for one in messages):
        return list(messages), True
    return [messages], False
