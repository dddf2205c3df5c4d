"""Text that follows a prompt, at once or piece by piece."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmlm.generation.beams import beam_search
from mmlm.generation.decoder import Decoder
from mmlm.generation.loop import stream_tokens
from mmlm.generation.options import GenerationOptions, sampler
from mmlm.prompting.parts import Part

if TYPE_CHECKING:
    from mmlm.model.network import MultimodalNetwork
from mmlm.tasks.rows import _is_batch


def generate(
    model: "MultimodalNetwork", prompt: Any, batch_size: int = 32, generation_mode: str = "text", **options: Any
) -> Any:
    """Text that follows `prompt`, a list of parts; a list of such lists gives a list, decoded in batches.

    Options are the fields of `GenerationOptions`. With `num_return_sequences` above 1 each prompt gives a list.
    generation_mode: "image", "audio", or "any" for text with either in it, as the model goes: then what follows is a
    list of text, pictures and `Audio` in turn, and the options are those of `mmlm.tasks.mixed.generate_media`.
    """
    if generation_mode != "text":
        from mmlm.tasks.mixed import generate_media

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


def stream(model: "MultimodalNetwork", prompt: Sequence[Any], **options: Any) -> Iterator[str]:
    """Pieces of the text that follows one prompt, as they are written; joined, they are what `generate` gives."""
    options = GenerationOptions(**options)
    if options.num_beams > 1 or options.num_return_sequences > 1:
        raise ValueError("a stream is one text: use neither beams nor num_return_sequences")
    if _is_batch(prompt):
        raise ValueError("a stream takes one prompt, not a batch")
    # Everything that can be wrong is found here, at the call, and not at the first piece.
    return _pieces(model, _decoder(model, [prompt], options), options)


def _pieces(model: "MultimodalNetwork", decoder: Decoder, options: GenerationOptions) -> Iterator[str]:
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


def _decoder(model: "MultimodalNetwork", prompts: Sequence[Sequence[Part]], options: GenerationOptions) -> Decoder:
    examples = [model.processor.encode(prompt if isinstance(prompt, (list, tuple)) else [prompt]) for prompt in prompts]
    batch = model.processor.collate(examples, padding_side="left")
    batch.labels = None
    batch = batch.to(model.device)
    model.language_model.check_length(batch.input_ids.shape[1] + options.max_new_tokens)
    with torch.no_grad():
        context = model.media_context(batch, [example.media for example in examples])
    return Decoder(model.language_model, context, batch, options.max_new_tokens)


def _stop_ids(model: "MultimodalNetwork", options: GenerationOptions) -> list[int]:
    return [*model.language_model.stop_ids, *options.stop_token_ids]


def _generate_batch(
    model: "MultimodalNetwork", prompts: Sequence[Any], options: GenerationOptions, generator: torch.Generator | None
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
    model: "MultimodalNetwork",
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


def _stop_test(model: "MultimodalNetwork", stop: tuple[str, ...], stop_ids: list[int]):
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
