"""The best and the worst items of a suite as one page to look at, with nothing that it would have to fetch."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from mmlm.evaluation.cases import Place
from mmlm.evaluation.judge import Figure, Item, Judgement

SHOWN = 12  # of the best, and of the worst
SIDE = 320  # pixels, at most, of a picture
SECONDS = 30  # of a recording
RATE = 16_000
STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --soft: #66666b; --paper: #fafaf8; --card: #fff; --line: #deded9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececee; --soft: #a0a0a6; --paper: #161618; --card: #212124; --line: #38383c; }
}
body { font: 16px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 76rem;
  margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p.note, dt, figcaption, td.soft { color: var(--soft); }
table { border-collapse: collapse; } td, th { text-align: left; padding: .2rem 1.2rem .2rem 0; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.items { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
.item { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem;
  overflow-wrap: anywhere; }
.pictures { display: flex; gap: .5rem; } figure { margin: 0; flex: 1; min-width: 0; }
img { width: 100%; height: 12rem; object-fit: contain; } audio { width: 100%; }
dd.soft { font-size: .8rem; }
dl { margin: .5rem 0 0; } dt { font-size: .8rem; margin-top: .4rem; } dd { margin: 0; } dd.said { font-weight: 600; }
ul { margin: 0; padding-left: 1.1rem; }
"""


def page(judgement: Judgement, title: str) -> str:
    """HTML with all figures, and the items that are best and worst by the first of them.

    Pictures and the first 30 s of recordings are in the page itself; one that cannot be read is named in its place.
    """
    first = judgement.figures[0]
    ranked = ranking(judgement.items, first)
    count = min(SHOWN, (len(ranked) + 1) // 2)
    best, worst = ranked[:count], ranked[len(ranked) - min(SHOWN, len(ranked) - count) :][::-1]
    parts = [
        "<!doctype html>", '<html lang="en">', '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src \'unsafe-inline\'; '
        'img-src data:; media-src data:">',
        f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>",
        f"<h1>{escape(title)}</h1>", *_figures(judgement),
        f"<h2>Best by {escape(first.name)}</h2>", *_items(best),
        f"<h2>Worst by {escape(first.name)}</h2>", *_items(worst),
    ]  # fmt: skip
    return "\n".join([*parts, "</html>", ""])


def ranking(items: Sequence[Item], by: Figure) -> list[Item]:
    """The items that have a score by a figure, best first; those of equal scores in their order."""
    scored = [item for item in items if math.isfinite(item.scores[by.name])]
    sign = 1 if by.lower_is_better else -1
    return sorted(scored, key=lambda item: sign * item.scores[by.name])


def _figures(judgement: Judgement) -> Iterator[str]:
    yield f"<p>{judgement.used} of {judgement.expected} expected items were used.</p>"
    yield "<table><tr><th>metric</th><th>value</th><th>95% interval</th></tr>"
    for figure in judgement.figures:
        name = escape(figure.name) + (' <span class="note">(lower is better)</span>' if figure.lower_is_better else "")
        interval = f"{figure.low:.3f} to {figure.high:.3f}"
        yield f'<tr><td>{name}</td><td class="number">{figure.value:.3f}</td><td class="soft">{interval}</td></tr>'
    yield "</table>"
    yield from (f'<p class="note">{escape(note)}</p>' for note in judgement.notes)
    if judgement.left_out:
        key, reason = next(iter(judgement.left_out.items()))
        yield f'<p class="note">{len(judgement.left_out)} left out; first {escape(str(key))}: {escape(reason)}</p>'


def _items(items: Sequence[Item]) -> Iterator[str]:
    yield '<div class="items">'
    for item in items:
        yield '<div class="item">'
        pictures = [(item.case.picture, "with this caption" if item.made else ""), (item.made, "drawn")]
        if shown := [_picture(place, what) for place, what in pictures if place is not None]:
            yield f'<div class="pictures">{"".join(shown)}</div>'
        if item.case.sound is not None:
            yield _sound(item.case.sound)
        yield "<dl>"
        if item.case.question is not None:
            yield f"<dt>question</dt><dd>{escape(item.case.question)}</dd>"
        if item.made is None:
            yield f'<dt>predicted</dt><dd class="said">{escape(item.predicted) or "(nothing)"}</dd>'
        texts = [item.predicted] if item.made else list(dict.fromkeys(item.case.expected))  # each once
        wanted = [escape(text) for text in texts]
        listed = wanted[0] if len(wanted) == 1 else f"<ul>{''.join(f'<li>{text}</li>' for text in wanted)}</ul>"
        yield f"<dt>{'caption' if item.made else 'expected'}</dt><dd>{listed}</dd>"
        scores = ", ".join(f"{name} {value:.3f}" for name, value in item.scores.items() if math.isfinite(value))
        yield f"<dt>{escape(str(item.case.key))}</dt><dd class='soft'>{escape(scores)}</dd></dl></div>"
    yield "</div>"


def _picture(place: Place, what: str) -> str:
    from encoders.media.image import load_image

    try:
        picture: Any = load_image(_bytes(place))
    except (OSError, ValueError) as error:
        return f"<p>{escape(str(error))}</p>"
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=85)
    caption = f"<figcaption>{what}</figcaption>" if what else ""
    return f'<figure><img alt="" src="data:image/jpeg;base64,{_base64(file.getvalue())}">{caption}</figure>'


def _sound(place: Place) -> str:
    import soundfile

    from encoders.media.sound import load_audio

    try:
        waveform = load_audio(_bytes(place), sample_rate=RATE).waveform[: SECONDS * RATE]
    except (OSError, ValueError) as error:
        return f"<p>{escape(str(error))}</p>"
    file = io.BytesIO()
    soundfile.write(file, waveform.clip(-1, 1), RATE, format="FLAC", subtype="PCM_16")
    return f'<audio controls src="data:audio/flac;base64,{_base64(file.getvalue())}"></audio>'


def _bytes(place: Place) -> bytes:
    return place if isinstance(place, bytes) else place.read()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
