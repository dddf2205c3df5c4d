"""A contact sheet: a grid of pictures with their sounds and texts under them, as one PNG."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    from encoders.media.sound import Audio

CELL = 256  # pixels, the side of a picture's square
MARGIN = 14
FONT_SIZE = 17
LINE_HEIGHT = 23
WAVE_HEIGHT = 56
BACKGROUND, INK, WAVE = (250, 250, 248), (28, 28, 30), (60, 110, 170)


def contact_sheet(
    images: Sequence[Any],
    texts: Sequence[str],
    path: str | Path,
    *,
    columns: int = 4,
    sounds: Sequence[Audio | None] | None = None,
) -> Path:
    """Draw `images` (anything that `encoders.media.load_image` takes) with `texts` under them, as a PNG at `path`.

    A picture is scaled up or down to fit a square of 256 pixels. Texts are wrapped; a newline starts a new line.
    sounds: a recording or None for each picture. Its waveform is drawn between picture and text; full scale fills the
    height. The same pictures, sounds and texts give the same pixels. Returns the path.
    ValueError where the lists differ in length or are empty.
    """
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    from encoders.media.image import load_image

    if len(images) != len(texts):
        raise ValueError(f"{len(images)} pictures and {len(texts)} texts: give one text per picture")
    if sounds is not None and len(sounds) != len(images):
        raise ValueError(f"{len(images)} pictures and {len(sounds)} sounds: give a sound or None for each picture")
    if not images or columns < 1:
        raise ValueError("a contact sheet needs at least one picture and one column")

    font = ImageFont.load_default(FONT_SIZE)
    wrapped = [wrap(text, font, CELL) for text in texts]
    columns = min(columns, len(images))
    rows = [range(start, min(start + columns, len(images))) for start in range(0, len(images), columns)]
    waves = [WAVE_HEIGHT if sounds and any(sounds[i] is not None for i in row) else 0 for row in rows]
    heights = [
        CELL + wave + 8 + LINE_HEIGHT * max(len(wrapped[i]) for i in row) + MARGIN
        for row, wave in zip(rows, waves, strict=True)
    ]
    sheet = Image.new("RGB", (columns * (CELL + MARGIN) + MARGIN, sum(heights) + MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(sheet)

    top = MARGIN
    for row, wave, height in zip(rows, waves, heights, strict=True):
        for column, index in enumerate(row):
            left = MARGIN + column * (CELL + MARGIN)
            picture = ImageOps.contain(load_image(images[index]), (CELL, CELL), Image.Resampling.BICUBIC)
            sheet.paste(picture, (left + (CELL - picture.width) // 2, top + (CELL - picture.height) // 2))
            if sounds and (sound := sounds[index]) is not None:
                _draw_wave(draw, sound, left, top + CELL + wave // 2)
            for number, line in enumerate(wrapped[index]):
                draw.text((left, top + CELL + wave + 8 + number * LINE_HEIGHT), line, fill=INK, font=font)
        top += height

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    sheet.save(unfinished, format="PNG")
    os.replace(unfinished, path)
    return path


def _draw_wave(draw: ImageDraw, sound: Audio, left: int, middle: int) -> None:
    """A column of pixels for each 256th of the recording, from its lowest to its highest value."""
    import numpy as np

    reach = WAVE_HEIGHT // 2 - 4
    for column, part in enumerate(np.array_split(sound.waveform, CELL)):
        low, high = (float(part.min()), float(part.max())) if len(part) else (0.0, 0.0)
        top, bottom = (middle - round(reach * min(1.0, max(-1.0, value))) for value in (high, low))
        draw.line([(left + column, top), (left + column, bottom)], fill=WAVE)


def wrap(text: str, font: FreeTypeFont | ImageFont, width: int) -> list[str]:
    """Break `text` into lines of at most `width` pixels. A word is broken only where it alone is wider."""
    # Pillow's own font draws only Latin letters without accents.
    text = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    lines = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for word in paragraph.split():
            joined = f"{line} {word}" if line else word
            if font.getlength(joined) <= width:
                line = joined
                continue
            if line:
                lines.append(line)
            while font.getlength(word) > width:
                cut = next(n for n in range(len(word), 0, -1) if n == 1 or font.getlength(word[:n]) <= width)
                lines.append(word[:cut])
                word = word[cut:]
            line = word
        lines.append(line)
    return lines
