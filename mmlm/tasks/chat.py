"""Conversations: the next answer to messages of text, pictures, recordings and videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Unpack, get_args

from encoders.media.sound import load_audio
from mmlm.generation.options import GenerationKeywords, takes_options
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.messages import Message, as_messages
from mmlm.prompting.parts import Part, Sound
from mmlm.prompting.templates import CHAT, PromptTemplate
from mmlm.prompting.thinking import MARK, ThinkingMarks
from mmlm.tasks.rows import Answers, answers_of
from mmlm.tasks.thinking import thinking_chat, thinking_prompt
from mmlm.tasks.transcribe import transcribe
from mmlm.tasks.votes import generated

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
    votes: int | None = None,
    details: bool = False,
    batch_size: int = 32,
    **options: Unpack[GenerationKeywords],
) -> Answers:
    """The answer to a conversation; several conversations give a list. If an answer has been begun, it goes on.

    messages: as transformers and OpenAI have them, see `mmlm.prompting.as_messages`.
    mode: "transcript" has Whisper write down what recordings say, which needs no trained adapters; "features" lets the
        trained adapters hear them; "both" does both. language: what is spoken; None detects it.
    chat_template_kwargs: for the chat template. Its own switch of thinking is set by `thinking`, unless it is here.
    allow_url: fetch media from http(s) addresses.
    votes: how many samples vote; the answer given most often wins, see `mmlm.tasks.votes.voted`.
    details: return a `GenerationResult` in place of each text; its `finish_reason` "length" tells that it was cut off.
    Where `max_new_tokens` is not given, an answer has up to 512 tokens, as far as there are positions for them.
    A tokenizer without a chat template is asked with `model.template`. ValueError where nothing is said.
    """
    found, batch = _conversations(messages)
    thinking = options.get("thinking", False)
    prompts = [
        chat_prompt(
            model, one, mode=mode, language=language, chat_template_kwargs=chat_template_kwargs, allow_url=allow_url,
            thinking=thinking, thinking_marks=options.get("thinking_marks"),
        )
        for one in found
    ]  # fmt: skip
    if "max_new_tokens" not in options:
        options["max_new_tokens"] = room(model, prompts, thinking)
    return answers_of(generated(model, prompts, votes, batch_size=batch_size, **options), batch, details)


@takes_options
def chat_prompt(
    model: MultimodalNetwork,
    messages: Any,
    *,
    mode: Mode = "transcript",
    language: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    allow_url: bool = False,
    thinking: bool | int = False,
    thinking_marks: ThinkingMarks | None = None,
) -> list[Part]:
    """The prompt of one conversation, for `generate` and `stream`; arguments and errors are those of `chat`.

    thinking: as `generate` or `stream` gets it.
    """
    check_mode(mode)
    turns = as_messages(messages, allow_url=allow_url)
    template = template_of(model)
    turns = [heard(model, turn, mode, language, template) for turn in turns]
    if template is CHAT:
        return thinking_chat(model.processor.tokenizer, turns, chat_template_kwargs, thinking, thinking_marks)
    if chat_template_kwargs:
        raise ValueError("chat_template_kwargs: the tokenizer has no chat template that could use them")
    return thinking_prompt(model, template.conversation(turns), thinking, thinking_marks)


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


def room(model: MultimodalNetwork, prompts: Sequence[Sequence[Any]], thinking: bool | int = False) -> int:
    """How many tokens an answer may have, by the positions that the longest prompt leaves; at least 1.

    A thought comes first with its own tokens; where it has no number of them, it gets half of the positions.
    """
    positions = model.language_model.max_length
    if positions is None:
        return MAX_NEW_TOKENS
    left = positions - max(len(model.processor.encode(prompt).input_ids) for prompt in prompts)
    if thinking is True:
        left //= 2
    elif thinking is not False:
        left -= thinking + MARK
    return max(1, min(MAX_NEW_TOKENS, left))


def _conversations(messages: Any) -> tuple[list[Any], bool]:
    """Conversations, and whether several were given."""
    if isinstance(messages, Iterator):
        messages = list(messages)
    if isinstance(messages, (list, tuple)) and messages and all(isinstance(one, (list, tuple)) for one in messages):
        return list(messages), True
    return [messages], False
