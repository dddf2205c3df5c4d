"""Answers to recordings, and to questions about them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from encoders.media.sound import load_audio
from mmlm.prompting.parts import Image, Part, Sound
from mmlm.prompting.templates import CHAT, chat_prompt

if TYPE_CHECKING:
    from mmlm.model.network import MultimodalNetwork
from mmlm.tasks.generate import generate
from mmlm.tasks.rows import _rows, _stripped
from mmlm.tasks.transcribe import transcribe

Mode = Literal["transcript", "features", "both"]


EXAMPLES = (
    ("what is the opposite of hot?", "cold"),
    ("how many legs does a dog have?", "four"),
    ("which animal says meow?", "a cat"),
)
"""Questions and answers for the `examples` of `ask`, from which a language model that only continues text takes what is
wanted of it."""


def ask(
    model: "MultimodalNetwork",
    recordings: Any,
    question: Any = None,
    image: Any = None,
    *,
    mode: Mode = "transcript",
    transcript: Any = None,
    examples: Sequence[tuple[str, str]] = (),
    chat: bool | None = None,
    language: str | None = None,
    **options: Any,
) -> Any:
    """The answer to a recording: to what it asks, or, with a `question`, to that about it; `image` is what it is about.

    Lists of recordings, questions or pictures give a list. A recording is anything `encoders.media.open_audio` reads.
    mode: "transcript" writes down what is said and has the language model answer that: no adapter is needed, unless for
        the picture; "features" lets the trained adapters listen, words and all else; "both" does both.
    transcript: what is said, where it is known already: text or `Transcript`.
    examples: (question, answer) texts that show a plain language model what is wanted, such as `EXAMPLES`.
    chat: use the tokenizer's chat template; None does so where there is one and text alone is asked, since adapters
        learn from `model.template`.
    language: what is spoken; None detects it.
    ValueError where there is nothing to answer: nobody speaks, and no question is given.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode is one of {', '.join(get_args(Mode))}, not {mode!r}")
    rows, batch = _rows(recordings=recordings, questions=question, pictures=image, transcripts=transcript)
    tokenizer = model.processor.tokenizer
    if chat is None:
        chat = mode == "transcript" and image is None and bool(getattr(tokenizer, "chat_template", None))
    prompts = []
    for recording, asked, picture, said in rows:
        if mode != "transcript" and hasattr(recording, "read"):
            recording = load_audio(recording)  # a stream is read once, and both ways hear it
        if said is None and mode != "features":
            said = transcribe(model, recording, language=language)
        text = None if mode == "features" else getattr(said, "text", said)
        if text is not None and not text.strip() and asked is None:
            raise ValueError("nothing is said in the recording, so there is no question to answer: give one")
        media: list[Part] = [] if picture is None else [Image(picture)]
        media += [] if mode == "transcript" else [Sound(recording)]
        parts = (CHAT if chat else model.template).spoken_prompt(media, text, asked)
        shots = [f"{model.template.spoken_prompt([], q)[0]}{a}\n" for q, a in examples]
        prompts.append(chat_prompt(tokenizer, [*shots, *parts]) if chat else [*shots, *parts])
    if examples:
        options = {**options, "stop": (*options.get("stop", ()), "\n")}
    return _stripped(generate(model, prompts, **options), batch)
