"""Pictures of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from encoders.media.image import load_image
from mmlm.generation.options import GenerationOptions
from mmlm.generation.writing import Progress, check_steps, generate_parts, render

if TYPE_CHECKING:
    from mmlm.model.network import MultimodalNetwork


def draw(
    model: MultimodalNetwork,
    texts: str | list[str],
    num_images: int = 1,
    *,
    rerank: bool = False,
    init_image: Any = None,
    mask: Any = None,
    strength: float = 0.5,
    steps: int | None = None,
    guidance_scale: float = 1.0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Any:
    """A picture of what a text says; with `num_images` above 1 a list; a list of texts gives a list of these.

    rerank: of `num_images`, the one that the frozen CLIP finds nearest to the text, alone.
    init_image: a picture to begin with, its middle square. With a `mask` (a picture or array of the same proportions,
        black or False where it is kept) the rest is drawn anew; without one, a share `strength` of its codes, drawn by
        `seed`.
    steps: of the diffusion decoder; 0 takes the codec's own decoding, None 4 where there is one.
    guidance_scale: `u + s·(c − u)` in the choice of codes, away from what is drawn without a text; 1 is off.
    """
    if num_images < 1:
        raise ValueError(f"num_images must be at least 1, not {num_images}")
    if isinstance(texts, list):
        own = dict(rerank=rerank, init_image=init_image, mask=mask, strength=strength, steps=steps)
        own |= dict(guidance_scale=guidance_scale, temperature=temperature, top_k=top_k, top_p=top_p, progress=progress)
        return [draw(model, text, num_images, seed=seed + index, **own) for index, text in enumerate(texts)]
    if rerank and ("image" not in model.encoders or not hasattr(model.encoders["image"], "embed_texts")):
        raise ValueError("rerank needs an image encoder that embeds texts as well: a CLIP")
    if mask is not None and init_image is None:
        raise ValueError("a mask says what of init_image stays: give that too")
    check_steps(model, "image", steps)
    fixed = None if init_image is None else kept_codes(model, init_image, mask, strength, seed)
    parts = generate_parts(
        model,
        model.template.writing_prompt("image", text_of(texts)),
        "image",
        options=sampled(num_images, temperature, top_k, top_p, seed),
        guidance_scale=guidance_scale,
        without=model.template.writing_prompt("image", ""),
        fixed=fixed,
        progress=progress,
    )
    preview = progress and (lambda step, of, media: progress("decoding", step, of))
    pictures = render(model, [row[0] for row in parts], steps, seed, preview)
    if rerank:
        return pictures[best(model, pictures, texts)]
    return pictures[0] if num_images == 1 else pictures


def sampled(count: int, temperature: float, top_k: int | None, top_p: float | None, seed: int) -> GenerationOptions:
    """Options of codes: sampled, which pictures need to be more than their average."""
    return GenerationOptions(
        do_sample=True, num_return_sequences=count, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )


def text_of(text: str) -> str:
    """The text, if there is one."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"what is to be drawn or said is a text, not {text!r}")
    return text.strip()


def kept_codes(
    model: MultimodalNetwork, picture: Any, mask: Any, strength: float, seed: int
) -> dict[tuple[int, int], int]:
    """Codes of a picture that stay, by (codebook, step): those whose pixels all lie where the mask is 0."""
    codec = model.codecs["image"] if "image" in model.codecs else None
    if codec is None:
        raise ValueError("the model draws no pictures: assemble it with an image codec")
    codes = codec.encode(picture_tensor(picture, codec.size).to(model.device)).codes[0].flatten(1)  # [K, h·w]
    steps = codes.shape[1]
    if mask is None:
        if not 0 <= strength <= 1:
            raise ValueError(f"strength is a share, 0 to 1, not {strength}")
        order = torch.randperm(steps, generator=torch.Generator().manual_seed(seed))
        kept = order[round(strength * steps) :].tolist()
    else:
        if getattr(mask, "dtype", None) in (np.dtype(bool), torch.bool):
            mask = np.asarray(mask).astype(np.uint8) * 255
        black = load_image(mask).convert("L").point(lambda value: 255 * (value > 127))
        square = ImageOps.fit(black, (codec.size, codec.size), Image.Resampling.BOX)  # as the picture is cut
        pixels = torch.from_numpy(np.asarray(square, dtype=np.float32).copy())
        anew = F.adaptive_max_pool2d(pixels[None], codec.grid)[0].flatten()
        kept = (anew == 0).nonzero().flatten().tolist()
    return {(book, step): int(codes[book, step]) for book in range(codes.shape[0]) for step in kept}


def picture_tensor(picture: Any, size: int) -> Tensor:
    """A picture, its middle square, as a codec takes it: [1, 3, size, size] in 0..1."""
    pixels = np.array(ImageOps.fit(load_image(picture), (size, size)))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


@torch.no_grad()
def best(model: MultimodalNetwork, pictures: Sequence[Any], text: str) -> int:
    """Which picture the frozen CLIP finds nearest to a text."""
    eyes = model.encoders["image"]
    seen = eyes.embed_images(torch.stack([eyes.preprocess(picture) for picture in pictures]))
    return int((seen @ eyes.embed_texts([text]).T).argmax())
