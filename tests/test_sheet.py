"""The contact sheet: every picture in its place, every word under it."""

import numpy as np
import pytest
from PIL import Image, ImageFont

from encoders.media.sound import Audio
from mmlm.evaluation.contact_sheet import (
    BACKGROUND,
    CELL,
    FONT_SIZE,
    INK,
    MARGIN,
    WAVE,
    WAVE_HEIGHT,
    contact_sheet,
    wrap,
)

RED, GREEN, BLUE = (200, 0, 0), (0, 150, 0), (0, 0, 220)


def where(sheet: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) of the pixels of one colour."""
    y, x = np.nonzero((sheet == colour).all(axis=-1))
    return x.min(), y.min(), x.max() + 1, y.max() + 1


def test_pictures_and_texts_stand_in_their_cells(tmp_path):
    pictures = [Image.new("RGB", (8, 8), RED), Image.new("RGB", (500, 500), GREEN), Image.new("RGB", (40, 20), BLUE)]
    path = contact_sheet(pictures, ["small", "large " * 30, "wide"], tmp_path / "new" / "sheet.png", columns=2)
    sheet = np.asarray(Image.open(path))
    assert where(sheet, RED) == (MARGIN, MARGIN, MARGIN + CELL, MARGIN + CELL)
    assert where(sheet, GREEN) == (2 * MARGIN + CELL, MARGIN, 2 * MARGIN + 2 * CELL, MARGIN + CELL)
    # The wide one keeps its proportions, and stands in the middle of a cell below the long text of the first row.
    left, top, right, bottom = where(sheet, BLUE)
    assert (left, right - left, bottom - top) == (MARGIN, CELL, CELL // 2)
    above = sheet[MARGIN + CELL : top, CELL + 2 * MARGIN :]
    text_bottom = MARGIN + CELL + np.nonzero((above == INK).all(axis=-1).any(axis=1))[0].max()
    assert MARGIN + CELL + 4 * FONT_SIZE < text_bottom < top
    # Text under the wide picture, and nothing in the empty fourth cell.
    assert (sheet[bottom:, : MARGIN + CELL] == INK).all(axis=-1).any()
    assert (sheet[text_bottom + MARGIN :, 2 * MARGIN + CELL :] == BACKGROUND).all()


def test_a_sound_stands_between_its_picture_and_the_text(tmp_path):
    # Silence, then half of full scale upwards, then all of it downwards; a row without sounds has no room for one.
    quiet, half, full = np.zeros(2000), np.full(2000, 0.5), np.full(2000, -1.0)
    sound = Audio(np.concatenate([quiet, half, full]).astype(np.float32), 8000)
    pictures = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    path = contact_sheet(
        pictures, ["one", "two", "three"], tmp_path / "sheet.png", columns=2, sounds=[None, sound, None]
    )
    sheet = np.asarray(Image.open(path))
    assert where(sheet, WAVE)[0] == 2 * MARGIN + CELL  # under the second picture alone
    wave = (sheet == WAVE).all(axis=-1)[MARGIN + CELL :, 2 * MARGIN + CELL : 2 * MARGIN + 2 * CELL]
    middle, reach = WAVE_HEIGHT // 2, WAVE_HEIGHT // 2 - 4
    assert [np.nonzero(wave[:, column])[0].tolist() for column in (10, 120, 240)] == [
        [middle], [middle - reach // 2], [middle + reach]
    ]  # fmt: skip
    text_top = np.nonzero((sheet[:, : MARGIN + CELL] == INK).all(axis=-1).any(axis=1))[0].min()
    assert text_top > MARGIN + CELL + WAVE_HEIGHT  # texts of a row begin at one height
    assert where(sheet, BLUE)[1] - text_top < 3 * FONT_SIZE + MARGIN


def test_the_same_sheet_twice_and_nothing_left_behind(tmp_path):
    pictures = [np.arange(48, dtype=np.uint8).reshape(4, 4, 3)] * 5
    texts = ["a", "", "two\nlines", "naïve café", "漢字"]
    first, second = (contact_sheet(pictures, texts, tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first == second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize("width", [30, 90, 256])
def test_wrapped_lines_fit_and_keep_every_word(width):
    font = ImageFont.load_default(FONT_SIZE)
    text = "A boy in a striped shirt is jumping\nin front of a water fountain , incomprehensibly"
    lines = wrap(text, font, width)
    assert max(font.getlength(line) for line in lines) <= width
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_newlines_are_kept():
    font = ImageFont.load_default(FONT_SIZE)
    assert wrap("one two\nthree", font, CELL) == ["one two", "three"]
    assert wrap("", font, CELL) == [""]


def test_errors(tmp_path):
    picture = Image.new("RGB", (4, 4))
    with pytest.raises(ValueError, match="2 pictures and 1 texts"):
        contact_sheet([picture, picture], ["one"], tmp_path / "sheet.png")
    with pytest.raises(ValueError, match="1 pictures and 2 sounds"):
        contact_sheet([picture], ["one"], tmp_path / "sheet.png", sounds=[None, None])
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([], [], tmp_path / "sheet.png")
    assert not list(tmp_path.iterdir())
