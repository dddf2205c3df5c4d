"""Thin verbs over the decode loop: generate, stream, caption, answer, transcribe, ask."""

from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from encoders.sound import load_audio
from mmlm.generation import Decoder, GenerationOptions, beam_search, sampler, stream_tokens
from mmlm.packing import use_packed
from mmlm.prompt import CHAT, Image, Part, Sound, chat_prompt, demonstrations

if TYPE_CHECKING:
    from mmlm.model import MultimodalLM

Mode = Literal["transcript", "features", "both"]
EXAMPLES = (
    ("what is the opposite of hot?", "cold"),
    ("how many legs does a dog have?", "four"),
    ("which animal says meow?", "a cat"),
)
"""Questions and answers for the `examples` of `ask`, from which a language model that only continues text takes what is
wanted of it."""


def generate(
    model: "MultimodalLM", prompt: Any, batch_size: int = 32, generation_mode: str = "text", **options: Any
) -> Any:
    """Text that follows `prompt`, a list of parts; a list of such lists gives a list, decoded in batches.

    Options are the fields of `GenerationOptions`. With `num_return_sequences` above 1 each prompt gives a list.
    generation_mode: "image", "audio", or "any" for text with either in it, as the model goes: then what follows is a
    list of text, pictures and `Audio` in turn, and the options are those of `mmlm.drawing.generate_media`.
    """
    if generation_mode != "text":
        from mmlm.drawing import generate_media

        return generate_media(model, prompt, generation_mode, **options)
    options = GenerationOptions(**options)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    single = not _is_batch(prompt)
    prompts = [prompt] if single else list(prompt)
    texts, generator = [], sampler(options, model.device)  # one for all batches: each draws what the last left
    for start in range(0, len(prompts), batch_size):
        texts += _generate_batch(model, prompts[start : start + batch_size], options, generator)
    if options.num_return_sequences == 1:
        texts = [row[0] for row in texts]
    return texts[0] if single else texts


def stream(model: "MultimodalLM", prompt: Sequence[Any], **options: Any) -> Iterator[str]:
    """Pieces of the text that follows one prompt, as they are written; joined, they are what `generate` gives."""
    options = GenerationOptions(**options)
    if options.num_beams > 1 or options.num_return_sequences > 1:
        raise ValueError("a stream is one text: use neither beams nor num_return_sequences")
    if _is_batch(prompt):
        raise ValueError("a stream takes one prompt, not a batch")
    # Everything that can be wrong is found here, at the call, and not at the first piece.
    return _pieces(model, _decoder(model, [prompt], options), options)


def _pieces(model: "MultimodalLM", decoder: Decoder, options: GenerationOptions) -> Iterator[str]:
    stop_ids = _stop_ids(model, options)
    ids: list[int] = []
    written = ""
    for tokens in stream_tokens(decoder, options, stop_ids, sampler(options, model.device)):
        token = int(tokens[0])
        if token in stop_ids:
            break
        ids.append(token)
        text = model.processor.decode(ids)
        cut, stopped = _cut(text, options.stop)
        # A character may still be incomplete, and an ending may be the start of a stop string: hold those back.
        safe = cut if stopped else text[: len(text) - _held_back(text, options.stop)]
        if len(safe) > len(written):
            yield safe[len(written) :]
            written = safe
        if stopped:
            return
    rest = _cut(model.processor.decode(ids), options.stop)[0]
    if len(rest) > len(written):
        yield rest[len(written) :]


def caption(model: "MultimodalLM", images: Any, examples: Sequence[tuple[Any, str]] = (), **options: Any) -> Any:
    """A caption of a picture (path, bytes, PIL, array), or of each of a list.

    `examples` are (picture, caption) demonstrations for few-shot prompts, most similar last.
    """
    shots = demonstrations([(model.template.caption_prompt(image), text) for image, text in examples])
    batch = isinstance(images, (list, tuple))
    prompts = [[*shots, *model.template.caption_prompt(image)] for image in (images if batch else [images])]
    return _stripped(generate(model, prompts, **options), batch)


def answer(
    model: "MultimodalLM", images: Any, questions: Any, examples: Sequence[tuple[Any, str, str]] = (), **options: Any
) -> Any:
    """The answer to a question about a picture; lists of pictures and questions (or one of either) give a list.

    `examples` are (picture, question, answer) demonstrations.
    """
    shots = demonstrations([(model.template.question_prompt(image, q), text) for image, q, text in examples])
    listed = [list(values) if isinstance(values, tuple) else values for values in (images, questions)]
    pairs, batch = _rows(pictures=listed[0], questions=listed[1])
    prompts = [[*shots, *model.template.question_prompt(image, question)] for image, question in pairs]
    return _stripped(generate(model, prompts, **options), batch)


def transcribe(model: "MultimodalLM", recordings: Any, **options: Any) -> Any:
    """What is said in a recording, as Whisper writes it down: a `Transcript`; a list of recordings gives a list.

    `options` and errors are those of `encoders.transcriber.Transcriber.stream`.
    """
    if isinstance(recordings, list):
        return [transcribe(model, recording, **options) for recording in recordings]
    with use_packed():
        return model.transcriber.transcribe(recordings, **options)


def ask(
    model: "MultimodalLM",
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

    Lists of recordings, questions or pictures give a list. A recording is anything `encoders.sound.open_audio` reads.
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


def _rows(**columns: Any) -> tuple[list[tuple], bool]:
    """Columns, each a list or one value for all rows, → rows, and whether there was a list at all."""
    lists = {name: value for name, value in columns.items() if isinstance(value, list)}
    lengths = {name: len(value) for name, value in lists.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(" but ".join(f"{length} {name}" for name, length in lengths.items()))
    count = next(iter(lengths.values()), 1)
    whole = [lists.get(name, [value] * count) for name, value in columns.items()]
    return list(zip(*whole, strict=True)), bool(lists)


def _stripped(texts: list[Any], batch: bool) -> Any:
    texts = [[t.strip() for t in text] if isinstance(text, list) else text.strip() for text in texts]
    return texts if batch else texts[0]


def _is_batch(prompt: Any) -> bool:
    """A list of lists of parts is a batch; a string or a list of parts is one prompt."""
    if isinstance(prompt, (list, tuple)):
        nested = [isinstance(part, (list, tuple)) for part in prompt]
        if any(nested) and not all(nested):
            raise TypeError("a batch of prompts is a list of lists of parts; here lists and parts are mixed")
        return any(nested) or not prompt
    if isinstance(prompt, (str, PurePath)):
        return False
    raise TypeError(f"a prompt is a list of parts (text, images), not {type(prompt).__name__}")


def _decoder(model: "MultimodalLM", prompts: Sequence[Sequence[Part]], options: GenerationOptions) -> Decoder:
    examples = [model.processor.encode(prompt if isinstance(prompt, (list, tuple)) else [prompt]) for prompt in prompts]
    batch = model.processor.collate(examples, padding_side="left")
    batch.labels = None
    batch = batch.to(model.device)
    model.language_model.check_length(batch.input_ids.shape[1] + options.max_new_tokens)
    with torch.no_grad():
        context = model.media_context(batch, [example.media for example in examples])
    return Decoder(model.language_model, context, batch, options.max_new_tokens)


def _stop_ids(model: "MultimodalLM", options: GenerationOptions) -> list[int]:
    return [*model.language_model.stop_ids, *options.stop_token_ids]


def _generate_batch(
    model: "MultimodalLM", prompts: Sequence[Any], options: GenerationOptions, generator: torch.Generator | None
) -> list[list[str]]:
    """Texts `[prompt][return sequence]`."""
    stop_ids = _stop_ids(model, options)
    decoder = _decoder(model, prompts, options)
    if options.num_beams > 1:
        stopped = _stop_test(model, options.stop, stop_ids) if options.stop else None
        rows = beam_search(decoder, options, stop_ids, stopped).flatten(0, 1)
    else:
        rows = _decode_rows(model, decoder, options, stop_ids, generator)
    texts = [_cut(model.processor.decode(_until(row, stop_ids)), options.stop)[0] for row in rows.tolist()]
    count = options.num_return_sequences
    return [texts[start : start + count] for start in range(0, len(texts), count)]


def _decode_rows(
    model: "MultimodalLM",
    decoder: Decoder,
    options: GenerationOptions,
    stop_ids: list[int],
    generator: torch.Generator | None,
) -> Tensor:
    """Ids `[rows, t]` of greedy or sampled decoding, which stop strings may end early."""
    steps: list[Tensor] = []
    stopped = _stop_test(model, options.stop, stop_ids) if options.stop else None
    for tokens in stream_tokens(decoder, options, stop_ids, generator):
        steps.append(tokens)
        if stopped is not None and all(stopped(torch.stack(steps, dim=1)).tolist()):
            break
    return torch.stack(steps, dim=1)


def _stop_test(model: "MultimodalLM", stop: tuple[str, ...], stop_ids: list[int]):
    def stopped(ids: Tensor) -> Tensor:
        """New ids `[n, t]` → bool `[n]`: the text holds a stop string, or has ended by a stop token."""
        ends = []
        for row in ids.tolist():
            own = _until(row, stop_ids)
            ends.append(len(own) < len(row) or _cut(model.processor.decode(own), stop)[1])
        return torch.tensor(ends, device=ids.device)

    return stopped


def _until(ids: list[int], stop_ids: list[int]) -> list[int]:
    """Ids before the first stop token."""
    return ids[: next((i for i, token in enumerate(ids) if token in stop_ids), len(ids))]


def _cut(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """Text before the first stop string, and whether there was one."""
    places = [place for place in (text.find(string) for string in stop) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _held_back(text: str, stop: tuple[str, ...]) -> int:
    """Characters at the end that may still change: an incomplete character, or the beginning of a stop string."""
    complete = text.rstrip("\N{REPLACEMENT CHARACTER}")
    starts = [n for string in stop for n in range(1, len(string)) if complete.endswith(string[:n])]
    return len(text) - len(complete) + max(starts, default=0)
