"""A page of what a model will see of data: pictures as its encoder gets them, what is learned, which text sees what."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from encoders.media.sound import load_audio
from encoders.media.video import load_video
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data.check import film_at
from mmlm.data.prompts import example_of
from mmlm.data.records import FileSlice, Record, RecordSet
from mmlm.data.sampling import ExampleStream
from mmlm.model.fusion.visibility import visible_media
from mmlm.prompting.processor import Example

_STYLE = """body{font:15px/1.5 sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;
background:#fafaf8;color:#1c1c1e}
section{border-top:1px solid #ccc;padding:1em 0}figure{display:inline-block;margin:0 1em 1em 0;vertical-align:top}
figcaption{font-size:13px}img{max-height:200px;image-rendering:auto}p{white-space:pre-wrap;overflow-wrap:anywhere}
.learned{background:#ffe9a8}.bad{color:#a00}.mark{color:#667;font-family:monospace;font-size:13px}
sup{background:#3c6eaa;color:#fff;border-radius:3px;padding:0 3px;margin:0 2px;font-size:10px}
sup.blind{background:#999}"""


@dataclass(frozen=True)
class Run:
    """Tokens that follow each other and are alike. sees: numbers, from 1, of the media that they attend to."""

    text: str
    learned: bool
    sees: tuple[int, ...]
    medium: bool = False


def preview_data(
    model: MultimodalLM, records: RecordSet, path: str | os.PathLike[str], *, first: int = 12, seed: int = 0
) -> Path:
    """Writes a page (HTML, with nothing beside it) of the first examples that a run with this seed would see.

    Each has its media as the encoder gets them, numbered, and its tokens: what is learned is marked, and each text
    tells the numbers of the media that it attends to. Media that cannot be decoded say why. Returns the path.
    ValueError where there are no records.
    """
    records = records.check(1.0)
    chosen = ExampleStream(records, min(first, len(records)), seed=seed).step(0)
    sections = [_section(model, records[record], text) for record, text in chosen]
    legend = (
        '<p><span class="learned">Marked</span> text is learned. <sup>1</sup> is the number of a medium that the text '
        'attends to, <sup class="blind">–</sup> stands where it attends to none.</p>'
    )
    page = f"<!doctype html><meta charset=utf-8><title>data</title><style>{_STYLE}</style>{legend}{''.join(sections)}"
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    os.replace(temporary, path)
    return path


def _section(model: MultimodalLM, record: Record, text: int) -> str:
    head = f"<section><h3>{html.escape(record.key)}</h3>"
    try:
        example = example_of(model.processor, model.template, record, record.texts[text])
    except ValueError as error:
        return f'{head}<p class="bad">{html.escape(str(error))}</p></section>'
    figures = "".join(
        _figure(model, number, *record.places[part.source]) for number, part in enumerate(example.media, 1)
    )
    count = sum(label >= 0 for label in example.labels)
    about = f"{len(example.input_ids)} tokens, {count} of them learned"
    runs = "".join(map(_span, runs_of(model, example)))
    return f'{head}{figures}<p>{runs}</p><p class="mark">{about}</p></section>'


def runs_of(model: MultimodalLM, example: Example) -> list[Run]:
    """The tokens of an example in runs, by what is learned and what they see."""
    vocabulary, ids = model.language_model.vocabulary, example.input_ids
    sees = visible_to(ids, list(vocabulary.media_ids), model.fusion.visibility)
    found: list[Run] = []
    number = 0
    for (learned, seen, added), places in groupby(
        range(len(ids)), lambda place: (example.labels[place] >= 0, sees[place], ids[place] in vocabulary)
    ):
        tokens = [ids[place] for place in places]
        if not added:
            text = model.processor.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
            found.append(Run(text, learned, seen))
            continue
        for token in tokens:
            medium = token in vocabulary.media_ids
            number += medium
            name = vocabulary.token(token) if token < vocabulary.code_offset else "<code>"
            found.append(Run(f"{name[:-1]} {number}>" if medium else name, learned, seen, medium))
    return found


def visible_to(ids: Sequence[int], media_ids: Sequence[int], visibility: Any) -> list[tuple[int, ...]]:
    """For each token the numbers, from 1, of the media that it attends to."""
    is_media = torch.isin(torch.tensor([ids]), torch.tensor(media_ids))
    before = torch.nn.functional.pad(is_media[:, :-1], (1, 0))
    times, groups = is_media.cumsum(1), (is_media & ~before).cumsum(1)
    visible: Tensor = visible_media(times, groups, groups[is_media][None], visibility)[0]
    return [tuple((row.nonzero().flatten() + 1).tolist()) for row in visible]


def _span(run: Run) -> str:
    kind = " ".join(name for name, on in (("learned", run.learned), ("mark", run.medium)) if on)
    seen = "" if run.medium else "".join(f"<sup>{number}</sup>" for number in run.sees) or '<sup class="blind">–</sup>'
    return f'<span class="{kind}">{html.escape(run.text)}</span>{seen}'


def _figure(model: MultimodalLM, number: int, modality: str, place: FileSlice | bytes) -> str:
    try:
        pictures = list(_pictures(model, modality, place))
    except (OSError, ValueError) as error:
        return f'<figure class="bad">{number}: {html.escape(str(error))}</figure>'
    shown = "".join(f'<img src="data:image/png;base64,{_png(one)}">' for _, one in pictures)
    notes = ", ".join(note for note, _ in pictures if note)
    return f"<figure>{shown}<figcaption>{number}: {modality} {notes}</figcaption></figure>"


def _pictures(model: MultimodalLM, modality: str, place: FileSlice | bytes) -> Iterator[tuple[str, PILImage.Image]]:
    """What the encoder gets, as pictures with notes: frames of a film, the waveform of a recording."""
    if modality not in model.encoders:
        raise ValueError(f"the model has no {modality} encoder")
    data = place if isinstance(place, bytes) else place.read() if film_at(place) is None else b""
    if modality == "audio":
        sound = load_audio(data)
        yield f"{sound.seconds:.1f} s", _waveform(sound.waveform)
    elif (film := film_at(place)) is not None:
        video = load_video(film)
        for time, frame in zip(video.times, video.frames, strict=True):
            yield f"{time:.1f} s", _as_seen(model.encoders["image"], frame)
    else:
        yield "", _as_seen(model.encoders["image"], data)


def _as_seen(encoder: Any, source: Any) -> PILImage.Image:
    """A picture after the encoder's preprocessing, cropped and scaled, with its colours as they were."""
    values = encoder.preprocess(source)
    norm = next((one for one in getattr(encoder.transform, "transforms", ()) if hasattr(one, "std")), None)
    if norm is not None:
        values = values * torch.tensor(norm.std)[:, None, None] + torch.tensor(norm.mean)[:, None, None]
    pixels = (values.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return PILImage.fromarray(pixels)


def _waveform(samples: np.ndarray, width: int = 300, height: int = 80) -> PILImage.Image:
    pixels = np.full((height, width, 3), 245, np.uint8)
    for column, part in enumerate(np.array_split(samples, width)):
        reach = int(min(1.0, float(np.abs(part).max(initial=0))) * (height / 2 - 1))
        pixels[height // 2 - reach : height // 2 + reach + 1, column] = (60, 110, 170)
    return PILImage.fromarray(pixels)


def _png(picture: PILImage.Image) -> str:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()
