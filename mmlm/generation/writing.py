"""Pictures and sound written between the words: a constrained, guided decode loop, and what becomes of its codes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from encoders.media.sound import Audio
from mmlm.generation.constraints.codes import CodeWriter
from mmlm.generation.decoder import Decoder
from mmlm.generation.options import GenerationOptions, sampler
from mmlm.prompting.code_layout import CodeSpan
from mmlm.prompting.parts import Codes

if TYPE_CHECKING:
    from PIL import Image

    from mmlm.model.network import MultimodalNetwork

GenerationMode = Literal["image", "audio", "any"]
Progress = Callable[[str, int, int], None]
"""Called with what is going on ("codes" or "decoding"), how far it is, and how far it goes."""

MOST_MEDIA = 4  # that one text may hold in mode "any"
RENDERED_AT_ONCE = 16


@dataclass
class RowWriter:
    """One row of a batch: what it has written, and what may come next.

    mode "image" or "audio": one such and nothing else; "any": text, with media wherever the model begins one.
    """

    mode: GenerationMode
    spans: Mapping[str, CodeSpan]
    text: range  # the language model's own ids and `<|endofchunk|>`
    stops: frozenset[int]
    max_text: int
    fixed: Mapping[tuple[int, int], int]
    room: int  # ids that may still be written in all
    ids: list[int] = dataclasses.field(default_factory=list)
    inside: CodeWriter | None = None
    done: bool = False
    media: int = 0
    words: int = 0

    def allowed(self) -> tuple[range, ...]:
        """Ids that may come next."""
        if self.inside is not None:
            return self.inside.allowed()
        if self.mode in ("image", "audio"):
            begin = self.spans[self.mode].begin
            return (range(begin, begin + 1),)
        fitting = [span for span in self.spans.values() if self.media < MOST_MEDIA and _longest(span) <= self.room]
        return (self.text, *(range(span.begin, span.begin + 1) for span in fitting))

    def write(self, token: int) -> None:
        """Goes on by one id."""
        self.room -= 1
        if self.inside is not None:
            self.inside.write(token)
            if self.inside.done:
                self.inside, self.done = None, self.mode != "any"
        else:
            opened = next((span for span in self.spans.values() if span.begin == token), None)
            if opened is not None:
                self.inside, self.media = CodeWriter(opened, self.fixed), self.media + 1
            elif token in self.stops:
                self.done = True
                return
            else:
                self.words += 1
        self.ids.append(token)
        if self.inside is None and (self.words >= self.max_text or self.room == 0):
            self.done = True


@torch.no_grad()
def write(
    decoder: Decoder,
    rows: Sequence[RowWriter],
    options: GenerationOptions,
    generator: torch.Generator | None,
    guidance_scale: float = 1.0,
    progress: Progress | None = None,
    total: int = 0,
) -> None:
    """Lets each row write until it is done. With guidance the decoder holds the rows twice, last without their prompts.

    Inside media logits are `u + scale · (c − u)`, c with the prompt and u without; both halves go on alike.
    """
    guided = guidance_scale != 1.0
    logits = decoder.prefill()
    copies = len(rows) // (logits.shape[0] // (2 if guided else 1))
    decoder.repeat(copies)
    logits = logits.repeat_interleave(copies, dim=0)
    processors, masks = options.processors(), {}
    for step in itertools.count(1):
        if guided:
            own, free = logits.chunk(2)
            inside = torch.tensor([row.inside is not None for row in rows], device=logits.device).unsqueeze(1)
            logits = torch.where(inside, free + guidance_scale * (own - free), own)
        allowed = [row.allowed() if not row.done else (range(1),) for row in rows]
        for ranges in set(allowed) - masks.keys():
            masks[ranges] = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
            for ids in ranges:
                masks[ranges][ids.start : ids.stop] = False
        logits = logits.masked_fill(torch.stack([masks[ranges] for ranges in allowed]), -torch.inf)
        if processors:
            logits = processors(decoder.ids[: len(rows), : decoder.length], logits)
        if generator is None:
            tokens = logits.argmax(-1)
        else:
            tokens = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            if not row.done:
                row.write(token)
        if progress is not None:
            progress("codes", min(step, total), total)
        if all(row.done for row in rows):
            return
        logits = decoder.step(torch.cat([tokens, tokens]) if guided else tokens)


@torch.no_grad()
def generate_parts(
    model: MultimodalNetwork,
    prompt: Sequence[Any],
    mode: GenerationMode,
    *,
    options: GenerationOptions,
    guidance_scale: float = 1.0,
    without: Sequence[Any] | None = None,
    fixed: Mapping[tuple[int, int], int] | None = None,
    max_seconds: float = 4.0,
    progress: Progress | None = None,
) -> list[list[str | Codes]]:
    """What follows one prompt, `options.num_return_sequences` times, as text and codes in turn.

    without: the prompt that guidance leads away from, needed with `guidance_scale` other than 1. fixed: codes that are
    given, by (codebook, step). A medium that was begun is always finished; `max_new_tokens` counts the text.
    """
    spans = _spans(model, mode, max_seconds)
    if options.num_beams > 1:
        raise ValueError("codes are sampled, or the likeliest taken: leave num_beams at 1")
    if guidance_scale != 1.0 and without is None:
        raise ValueError("guidance needs the prompt that it leads away from: pass without=")
    if options.stop:
        raise ValueError("stop strings are for text alone: leave stop empty")
    prompts = [prompt] if guidance_scale == 1.0 else [prompt, without]
    examples = [model.processor.encode(own) for own in prompts]
    batch = model.processor.collate(examples, padding_side="left")
    batch.labels = None
    batch = batch.to(model.device)
    room = longest = max(_longest(span) for span in spans.values())
    if mode == "any":  # as many media as there are positions for, at most so many
        room = options.max_new_tokens + MOST_MEDIA * longest
        if (positions := model.language_model.max_length) is not None:
            room = max(1, min(room, positions - batch.input_ids.shape[1]))
    model.language_model.check_length(batch.input_ids.shape[1] + room)
    context = model.media_context(batch, [example.media for example in examples])
    decoder = Decoder(model.language_model, context, batch, room, codes=True)
    vocabulary = model.language_model.vocabulary
    stops = frozenset([*model.language_model.stop_ids, *options.stop_token_ids])
    text = range(vocabulary.end_of_chunk_id + 1)
    rows = [
        RowWriter(mode, spans, text, stops, options.max_new_tokens, fixed or {}, room)
        for _ in range(options.num_return_sequences)
    ]
    write(decoder, rows, options, sampler(options, model.device), guidance_scale, progress, room)
    return [_parts(model, row.ids) for row in rows]


def _spans(model: MultimodalNetwork, mode: GenerationMode, max_seconds: float) -> dict[str, CodeSpan]:
    """The media that may be written in a mode; sound at most so long."""
    if mode not in ("image", "audio", "any"):
        raise ValueError(f'generation_mode is "text", "image", "audio" or "any", not {mode!r}')
    spans = model.language_model.vocabulary.spans
    wanted = spans if mode == "any" else {name: span for name, span in spans.items() if name == mode}
    if not wanted:
        what = "neither pictures nor sound" if mode == "any" else {"image": "no pictures", "audio": "no sound"}[mode]
        raise ValueError(f"the model writes {what}: assemble it with a codec, and train it on codes")
    if "audio" in wanted:
        if max_seconds <= 0:
            raise ValueError(f"max_seconds must be above 0, not {max_seconds}")
        span = wanted["audio"]
        steps = max(1, min(span.layout.max_steps, round(max_seconds * model.codecs["audio"].frame_rate)))
        wanted = {**wanted, "audio": CodeSpan(dataclasses.replace(span.layout, max_steps=steps), span.begin)}
    return wanted


def _longest(span: CodeSpan) -> int:
    grid = span.layout.grid
    return 2 + span.layout.num_codebooks * (grid[0] * grid[1] if grid else span.layout.max_steps)


def _parts(model: MultimodalNetwork, ids: list[int]) -> list[str | Codes]:
    """Text and codes in turn, empty texts left out."""
    found: list[str | Codes] = []
    words: list[int] = []
    spans = model.language_model.vocabulary.spans
    begins = {span.begin: span for span in spans.values()}
    place = 0
    while place < len(ids):
        span = begins.get(ids[place])
        if span is None:
            words.append(ids[place])
            place += 1
            continue
        if words and (text := model.processor.decode(words)):
            found.append(text)
        words = []
        end = ids.index(span.end, place) + 1
        found.append(Codes(span.layout.modality, span.to_codes(ids[place:end])))
        place = end
    if words and (text := model.processor.decode(words)):
        found.append(text)
    return found


@torch.no_grad()
def render(
    model: MultimodalNetwork,
    codes: Sequence[Codes],
    steps: int | None = None,
    seed: int = 0,
    preview: Callable[[int, int, list[Any]], None] | None = None,
) -> list[Image.Image | Audio]:
    """Media of codes of one modality: by the diffusion decoder in so many steps, or, with `steps=0`, by the codec.

    steps None: 4 where there is a diffusion decoder, else 0. Sounds may differ in length.
    """
    if not codes:
        return []
    modality = codes[0].modality
    check_steps(model, modality, steps)
    if steps is None:
        steps = 4 if modality in model.decoders else 0
    at_once = RENDERED_AT_ONCE if modality == "image" else 1
    found: list[Image.Image | Audio] = []
    for first in range(0, len(codes), at_once):
        group = codes[first : first + at_once]
        batch = torch.stack([one.codes for one in group]).to(model.device)
        if steps == 0:
            media = model.codecs[modality].decode(batch)
        else:
            shown = preview and (lambda step, of, media: preview(step, of, as_media(model, modality, media)))
            media = model.decoders[modality].decode(batch, steps, seed + first, callback=shown)
        found += as_media(model, modality, media)
    return found


def check_steps(model: MultimodalNetwork, modality: str, steps: int | None) -> None:
    """ValueError for a number of steps that `render` cannot take, told before anything is written."""
    if steps is not None and steps < 0:
        raise ValueError(f"steps must be at least 0, not {steps}")
    if steps and modality not in model.decoders:
        raise ValueError(f"the model has no diffusion decoder for {modality}: take its codec's own decoding, steps=0")


def as_media(model: MultimodalNetwork, modality: str, media: Tensor) -> list[Image.Image | Audio]:
    """Tensors of a codec [B, C, *size] as pictures or recordings."""
    if modality == "audio":
        return [Audio(row[0].float().cpu().numpy(), model.codecs["audio"].sample_rate) for row in media]
    return as_pictures(media)


def as_pictures(pixels: Tensor) -> list[Image.Image]:
    """Pixels [B, 3, H, W] in 0..1 as pictures."""
    from PIL import Image

    rows = (pixels.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(row) for row in rows]
