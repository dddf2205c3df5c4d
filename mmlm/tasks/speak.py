"""Texts said aloud."""

from __future__ import annotations

from mmlm.generation.media import check_steps
from mmlm.generation.options import takes_options
from mmlm.generation.request import Progress
from mmlm.model.network import MultimodalNetwork
from mmlm.tasks.draw import Drawn, check_numbers, medium_of, rendered, sampled, texts_of, written_codes


@takes_options
def speak(
    model: MultimodalNetwork,
    texts: str | list[str],
    *,
    steps: int | None = None,
    guidance_scale: float = 1.0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    max_seconds: float = 4.0,
    seed: int = 0,
    batch_size: int = 32,
    details: bool = False,
    progress: Progress | None = None,
) -> Drawn | list[Drawn]:
    """A text as speech, an `Audio`; several give a list. Options are those of `draw`; `max_seconds` is the longest."""
    check_numbers(steps=steps, guidance_scale=guidance_scale, max_seconds=max_seconds, seed=seed, batch_size=batch_size)
    check_steps(model, "audio", steps)
    spoken: list[Drawn] = []
    wanted, batch = texts_of(texts)
    for first in range(0, len(wanted), batch_size):
        own, options = wanted[first : first + batch_size], sampled(1, temperature, top_k, top_p, seed + first)
        written = written_codes(model, "audio", own, options, guidance_scale, progress, max_seconds=max_seconds)
        for number, codes in enumerate(written, seed + first):
            (result,) = rendered(model, codes, steps, number, progress)
            spoken.append(result if details else medium_of(result))
    return spoken if batch else spoken[0]
