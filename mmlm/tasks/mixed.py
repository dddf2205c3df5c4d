"""Text with pictures and sounds in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import Image

from encoders.media.sound import Audio
from mmlm.generation.options import GenerationOptions
from mmlm.generation.writing import GenerationMode, Progress, check_steps, generate_parts, render

if TYPE_CHECKING:
    from mmlm.model.network import MultimodalNetwork


def generate_media(
    model: MultimodalNetwork,
    prompt: Any,
    mode: GenerationMode = "any",
    *,
    steps: int | None = None,
    max_seconds: float = 4.0,
    progress: Progress | None = None,
    **options: Any,
) -> list[str | Image.Image | Audio]:
    """What follows a prompt, as text, pictures and sound in turn; with `num_return_sequences` above 1 a list of such.

    `options` are fields of `GenerationOptions`; `max_new_tokens` counts the text, and what was begun is finished.
    """
    settings = GenerationOptions(**options)
    for modality in model.codecs if mode == "any" else (mode,):
        check_steps(model, modality, steps)
    parts = prompt if isinstance(prompt, (list, tuple)) else [prompt]
    rows = generate_parts(model, parts, mode, options=settings, max_seconds=max_seconds, progress=progress)
    found = []
    for row in rows:
        media = {
            modality: iter(render(model, [part for part in row if getattr(part, "modality", None) == modality], steps,
                                  settings.seed or 0))
            for modality in ("image", "audio")
        }  # fmt: skip
        found.append([part if isinstance(part, str) else next(media[part.modality]) for part in row])
    return found[0] if settings.num_return_sequences == 1 else found
