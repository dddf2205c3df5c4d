"""Texts said aloud."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmlm.generation.writing import Progress, check_steps, generate_parts, render

if TYPE_CHECKING:
    from mmlm.model.network import MultimodalNetwork
from mmlm.tasks.draw import sampled, text_of


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
    progress: Progress | None = None,
) -> Any:
    """A text as speech, `Audio`; a list gives a list. Options are those of `draw`; `max_seconds` is its longest."""
    if isinstance(texts, list):
        own = dict(steps=steps, guidance_scale=guidance_scale, temperature=temperature, top_k=top_k, top_p=top_p)
        own |= dict(max_seconds=max_seconds, progress=progress)
        return [speak(model, text, seed=seed + index, **own) for index, text in enumerate(texts)]
    check_steps(model, "audio", steps)
    parts = generate_parts(
        model,
        model.template.writing_prompt("audio", text_of(texts)),
        "audio",
        options=sampled(1, temperature, top_k, top_p, seed),
        guidance_scale=guidance_scale,
        without=model.template.writing_prompt("audio", ""),
        max_seconds=max_seconds,
        progress=progress,
    )
    preview = progress and (lambda step, of, media: progress("decoding", step, of))
    return render(model, [parts[0][0]], steps, seed, preview)[0]
