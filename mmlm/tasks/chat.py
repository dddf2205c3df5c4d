"""Conversations: the next answer to messages of text, pictures, recordings and videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Unpack

from encoders.media.sound import load_audio
from mmlm.generation.options import GenerationKeywords, takes_options
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.messages import Message, as_messages
from mmlm.prompting.parts import Image, Part, Sound
from mmlm.prompting.sources import Offered
from mmlm.prompting.templates import CHAT, PromptTemplate
from mmlm.prompting.thinking import MARK, ThinkingMarks
from mmlm.tasks.positions import encoded, positions_of
from mmlm.tasks.rows import Answers, answers_of
from mmlm.tasks.sources import Asked, grounded, looked_up, with_sources
from mmlm.tasks.thinking import thinking_chat, thinking_prompt
from mmlm.tasks.transcribe import transcribe
from mmlm.tasks.votes import generated, settings_of

if TYPE_CHECKING:
    from encoders.transcription.transcript import Transcript
    from mmlm.retrieval.index import Index
    from mmlm.retrieval.lookup import Finder

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
    index: Index | Finder | None = None,
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
    index: look up first what an index has about the last message, as `ask` does it. What is found stands before that
        message alone; earlier ones are as they were given.
    votes: how many samples vote; the answer given most often wins, see `mmlm.tasks.votes.voted`.
    details: return a `GenerationResult` in place of each text; its `finish_reason` "length" tells that it was cut off.
    Where `max_new_tokens` is not given, an answer has up to 512 tokens, as far as there are positions for them.
    A tokenizer without a chat template is asked with `model.template`. ValueError where nothing is said.
    """
    settings_of(options, votes)  # before an hour of sound is written down
    found, batch = _conversations(messages)
    prompts, offers = list[list[Part]](), list[Offered]()
    for one in found:
        turns = as_messages(one, allow_url=allow_url)
        picture = next((part.source for part in turns[-1].content if isinstance(part, Image)), None)
        turns = [heard(model, turn, mode, language, template_of(model)) for turn in turns]
        turns = [replace(turn, content=tuple(encoded(model, turn.content))) for turn in turns]
        prompt, offer = turns_prompt(model, turns, chat_template_kwargs, options, index, picture)
        prompts.append(prompt)
        offers += [] if offer is None else [offer]
    if "max_new_tokens" not in options:
        options["max_new_tokens"] = room(model, prompts, options.get("thinking", False))
    results = generated(model, prompts, votes, batch_size=batch_size, **options)
    return answers_of(with_sources(results, offers), batch, details)


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
    found = as_messages(messages, allow_url=allow_url)
    turns = [heard(model, turn, mode, language, template_of(model)) for turn in found]
    options: GenerationKeywords = {"thinking": thinking, "thinking_marks": thinking_marks}
    return turns_prompt(model, turns, chat_template_kwargs, options)[0]


def turns_prompt(
    model: MultimodalNetwork,
    turns: Sequence[Message],
    keywords: Mapping[str, Any] | None,
    options: GenerationKeywords,
    index: Index | Finder | None = None,
    picture: Any = None,
) -> tuple[list[Part], Offered | None]:
    """The prompt of messages that were heard, and what an index offered for the last one; None without an index.

    keywords: of the chat template. options: of the generation. picture: that the last message is about, as `load_image`
    reads it. ValueError for an index where the last message is not the user's, or has no words.
    """
    thinking, marks = options.get("thinking", False), options.get("thinking_marks")
    template = template_of(model)
    if keywords and template is not CHAT:
        raise ValueError("chat_template_kwargs: the tokenizer has no chat template that could use them")
    *before, last = turns

    def prompt_of(parts: Sequence[Any]) -> list[Part]:
        """The whole prompt where the last message's parts are these."""
        if template is CHAT:
            own = [*before, replace(last, content=tuple(parts))]
            return thinking_chat(model.processor.tokenizer, own, keywords, thinking, marks)
        whole, end = template.conversation(turns), template.conversation([last])
        return thinking_prompt(model, [*whole[: len(whole) - len(end)], *parts], thinking, marks)

    parts = [*last.content] if template is CHAT else template.conversation([last])
    if index is None:
        return prompt_of(parts), None
    words = "\n".join(part for part in last.content if isinstance(part, str)).strip()
    if last.role != "user" or not words:
        raise ValueError("an index is asked in words: the last message must be the user's, with words or a recording")
    asked = [Asked(parts, words, picture)]
    found = looked_up(model, index, asked, prompt_of, template is CHAT, options)
    (shown,) = grounded(found, asked, template is CHAT)
    return prompt_of(shown), found[0]


def template_of(model: MultimodalNetwork) -> PromptTemplate:
    """The wording of a conversation: the chat template's own marks where there is one, else the model's."""
    return CHAT if getattr(model.processor.tokenizer, "chat_template", None) else model.template


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
    left = positions - max(positions_of(model, prompt) for prompt in prompts)
    return max(1, min(MAX_NEW_TOKENS, beside_thought(left, thinking)))


def beside_thought(left: int, thinking: bool | int) -> int:
    """How many of the positions that are left an answer may take, behind a thought."""
    if thinking is True:
        return left // 2
    return left if thinking is False else left - thinking - MARK


def _conversations(messages: Any) -> tuple[list[Any], bool]:
    """Conversations, and whether several were given."""
    if isinstance(messages, Iterator):
        messages = list(messages)
    if isinstance(messages, (list, tuple)) and messages and all(isinstance(one, (list, tuple)) for one in messages):
        return list(messages), True
    return [messages], False
