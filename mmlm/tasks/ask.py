"""Answers to recordings, and to questions about them: transcribe and then answer, or listen, or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

from decoders.values import check_kind
from encoders.media.image import load_image
from encoders.media.sound import load_audio
from encoders.media.source import is_path
from encoders.media.video import is_video
from mmlm.generation.options import GenerationKeywords, takes_options
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.messages import Message, Role, as_messages
from mmlm.prompting.parts import END_OF_CHUNK, Image, Media, Sound
from mmlm.prompting.templates import CHAT
from mmlm.tasks.chat import Mode, heard
from mmlm.tasks.rows import Answers, answers_of, as_rows, bare
from mmlm.tasks.sources import Asked, grounded, looked_up, with_sources
from mmlm.tasks.thinking import as_shown, thinking_chat, thinking_prompt, thought_shown
from mmlm.tasks.transcribe import transcribe
from mmlm.tasks.votes import generated, settings_of

if TYPE_CHECKING:
    from mmlm.retrieval.index import Index
    from mmlm.retrieval.lookup import Finder

EXAMPLES = (
    ("what is the opposite of hot?", "cold"),
    ("how many legs does a dog have?", "four"),
    ("which animal says meow?", "a cat"),
)
"""Questions and answers for the `examples` of `ask`: they show a language model that only continues text what is
wanted."""

ROLES: tuple[Role, Role] = ("user", "assistant")


@takes_options
def ask(
    model: MultimodalNetwork,
    recordings: Any = None,
    question: Any = None,
    image: Any = None,
    *,
    messages: Any = (),
    mode: Mode = "transcript",
    transcript: Any = None,
    examples: Sequence[tuple[str, ...]] = (),
    chat: bool | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    language: str | None = None,
    index: Index | Finder | None = None,
    votes: int | None = None,
    details: bool = False,
    batch_size: int = 32,
    **options: Unpack[GenerationKeywords],
) -> Answers:
    """The answer to the question asked in a recording, or to a `question` about it; `image` is what it is about.

    Lists of recordings, questions or pictures give a list. A recording is anything `encoders.media.open_audio` reads.
    messages: a conversation that went before, as `chat` takes it; by itself, its last message is answered.
    mode: "transcript" has Whisper write down what is said and the language model answer that, which needs no trained
        adapters, except for the picture; "features" lets the trained adapters hear the recording itself; "both" does
        both.
    transcript: what is said, where it is known already: text or a `Transcript`.
    examples: (question, answer) texts that show what is wanted (`EXAMPLES`); (question, thought, answer) to think.
    chat: use the tokenizer's chat template; None does so where there is one and messages are given, or the prompt is
        text alone, since adapters are trained on prompts of `model.template`. Then examples are earlier turns.
    chat_template_kwargs: for the chat template. Its own switch of thinking is set by `thinking`, unless it is here.
    language: what is spoken; None detects it.
    index: an `mmlm.Index` in which the question is looked up first (or a `Lookup` of it, or a `Recitation` of a model).
        What is found stands in the prompt, numbered; the result's `citations` are the numbers that the answer names.
    votes: how many samples vote; the answer given most often wins, see `mmlm.tasks.votes.voted`.
    details: return a `GenerationResult` in place of each text, with the `sources` and `citations` of an index.
    ValueError where there is nothing to answer: nobody speaks, and no question is given.
    """
    shown = as_shown(examples, "(question, answer)", options)
    settings = settings_of(options, votes)
    rows, batch = as_rows(recordings=recordings, questions=question, pictures=image, transcripts=transcript)
    if not rows:
        return []
    before = [] if messages is None or isinstance(messages, (list, tuple)) and not messages else as_messages(messages)
    alone = recordings is question is image is transcript is None
    if alone and (shown or not before):
        raise ValueError("there is nothing to answer: give a recording, its transcript, a question or messages")
    if index is not None and alone:
        raise ValueError("an index is asked for one question: give it beside the messages, as question or a recording")
    fits = bool(before) or (mode == "transcript" and image is None)
    chat = _by_chat_template(model, chat, fits, chat_template_kwargs)
    _check(rows)  # before an hour of sound is written down
    before = [heard(model, turn, mode, language, CHAT if chat else model.template) for turn in before]
    last = [] if alone else [_prompt(model, *row, mode=mode, chat=chat, language=language) for row in rows]
    frame = _Frame(model, chat, before, shown, chat_template_kwargs, options)
    found = [] if index is None else looked_up(model, index, last, frame.prompt, chat, options)
    prompts = [frame.prompt(parts) for parts in grounded(found, last, chat) or [None]]
    options["stop"] = (*settings.stop_strings, *(["\n"] if shown and not chat else []))
    results = generated(model, prompts, votes, batch_size=batch_size, **options)
    return answers_of(with_sources(results, found), batch, details)


def _check(rows: Sequence[tuple[Any, ...]]) -> None:
    """TypeError for a question that is no text; MediaError for the file of a picture that cannot be read."""
    for _, question, picture, _ in rows:
        check_kind("question", question, str | None)
        picture = bare(picture, Image)
        if picture is not None and is_path(picture) and not is_video(picture):
            load_image(picture)


def _by_chat_template(
    model: MultimodalNetwork, chat: bool | None, fits: bool, keywords: Mapping[str, Any] | None
) -> bool:
    """Whether a prompt is made by the tokenizer's chat template: as asked for, or where it has one and that `fits`.

    ValueError where it is asked for, and there is none; and for keywords of a template that is not used.
    """
    has_one = bool(getattr(model.processor.tokenizer, "chat_template", None))
    if chat and not has_one:
        raise ValueError("the tokenizer has no chat template: leave out chat=True, or set tokenizer.chat_template")
    chat = has_one and fits if chat is None else chat
    if keywords and not chat:
        remedy = "pass chat=True" if has_one else "the tokenizer has none, so leave them out"
        raise ValueError(f"chat_template_kwargs: this prompt is not made by a chat template; {remedy}")
    return chat


@dataclass(frozen=True)
class _Frame:
    """What stands before a question: a conversation, and examples. options: of the generation, which may think."""

    model: MultimodalNetwork
    chat: bool
    before: list[Message]
    shown: list[tuple[Any, ...]]
    keywords: Mapping[str, Any] | None
    options: GenerationKeywords

    def prompt(self, parts: Sequence[Any] | None) -> list[Any]:
        """The whole prompt of a question; None where the conversation ends in it."""
        thinking, marks = self.options.get("thinking", False), self.options.get("thinking_marks")
        if not self.chat:
            shots = [part for question, *said in self.shown for part in self._shot(question, *said)]
            own, more = self.model.template.conversation(self.before), [*shots, *(parts or ())]
            if more and self.before and self.before[-1].role == "assistant":
                own.append(END_OF_CHUNK)  # an answer that nothing follows goes on
            own += more
            return thinking_prompt(self.model, own, thinking, marks)
        pairs = [(question, answer) for question, *_, answer in self.shown]  # templates leave out earlier thoughts
        turns = [Message(role, (text,)) for pair in pairs for role, text in zip(ROLES, pair, strict=True)]
        asked = [] if parts is None else [Message("user", tuple(parts))]
        conversation = [*self.before, *turns, *asked]
        return thinking_chat(self.model.processor.tokenizer, conversation, self.keywords, thinking, marks)

    def _shot(self, question: str, *said: str) -> list[Any]:
        """An example by the model's own template, in a line of its own."""
        prompt = self.model.template.spoken_prompt([], question)
        thinking, marks = self.options.get("thinking", False), self.options.get("thinking_marks")
        if thinking is False:
            return [f"{prompt[0]}{said[0]}\n"]
        *parts, _ = thought_shown(thinking_prompt(self.model, prompt, thinking, marks), *said)
        return [*parts, "\n"]


def _prompt(
    model: MultimodalNetwork,
    recording: Any,
    question: str | None,
    picture: Any,
    said: Any,
    mode: Mode,
    chat: bool,
    language: str | None,
) -> Asked:
    """What asks about one recording."""
    recording, picture = bare(recording, Sound), bare(picture, Image)
    if mode != "transcript" and hasattr(recording, "read"):
        recording = load_audio(recording)  # a stream is read once, and both ways hear it
    if said is None and mode != "features" and recording is not None:
        said = transcribe(model, recording, language=language)
    text = None if mode == "features" else getattr(said, "text", said)
    check_kind("transcript", text, str | None)
    if question is None and text is None and recording is None:
        raise ValueError("there is nothing to answer: give a recording, its transcript, or a question")
    if text is not None and not text.strip() and question is None:
        raise ValueError("nothing is said in the recording, so there is no question to answer: give one")
    media: list[Media] = [] if picture is None else [Image(picture)]
    if mode != "transcript" and recording is not None:
        media.append(Sound(recording))
    parts = (CHAT if chat else model.template).spoken_prompt(media, text, question)
    return Asked(parts, text if question is None else question, picture)
