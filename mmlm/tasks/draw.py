"""Pictures of texts: drawn from nothing, from another picture, or the best of several."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from decoders.values import check_kind
from encoders.clip import ClipImageEncoder
from encoders.media.arrays import plain_array
from encoders.media.image import load_image
from mmlm.generation.constraints.codes import Place
from mmlm.generation.media import Medium, check_steps, media_spans, picture_tensor, render
from mmlm.generation.options import GenerationOptions, takes_options
from mmlm.generation.request import Progress, Writing, request
from mmlm.generation.result import GenerationResult
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.parts import Codes, Part
from mmlm.prompting.parts import Image as PictureOf
from mmlm.tasks.rows import as_rows, bare

Drawn = Medium | GenerationResult


@takes_options
def draw(
    model: MultimodalNetwork,
    texts: str | list[str],
    num_images: int = 1,
    *,
    rerank: bool = False,
    init_image: Any = None,
    mask: Any = None,
    strength: float | None = None,
    steps: int | None = None,
    guidance_scale: float = 1.0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    batch_size: int = 32,
    details: bool = False,
    progress: Progress | None = None,
) -> Drawn | list[Drawn] | list[Drawn | list[Drawn]]:
    """A picture of what a text says; with `num_images` above 1 a list; several texts give a list of these.

    rerank: of `num_images`, only the one that the frozen CLIP finds most similar to the text.
    init_image: a picture to begin with, its middle square. With a `mask` (a picture or array of the same proportions;
        black, 0 or False where it is kept; or a picture with holes, kept where it is opaque) the rest is drawn anew;
        without one, a share `strength` of its codes (0.5 where None), chosen by `seed`.
    steps: of the diffusion decoder; 0 takes the codec's own decoding; None takes 4 where there is a diffusion decoder.
    guidance_scale: `u + s·(c − u)` in the choice of codes, away from what is drawn without a text; 1 is off.
    seed: of the first text, 1 more for each text after it. batch_size: how many texts are drawn at once.
    details: return a `GenerationResult` in place of each picture, with the picture in its `media`.
    progress: called with "codes" or "decoding", how far it is, and how far it goes.
    ValueError for a model that draws nothing, and for options that contradict each other.
    """
    check_numbers(
        num_images=num_images, steps=steps, guidance_scale=guidance_scale, strength=strength, seed=seed,
        batch_size=batch_size,
    )  # fmt: skip
    encoder = _reranker(model) if rerank else None
    if mask is not None and init_image is None:
        raise ValueError("a mask says what of init_image stays: give that too")
    if strength is not None and (init_image is None or mask is not None):
        raise ValueError("strength is a share of init_image, for where no mask says what is drawn anew: leave it out")
    check_steps(model, "image", steps)
    drawn: list[Drawn | list[Drawn]] = []
    wanted, batch = texts_of(texts)
    every = range(seed, seed + len(wanted))
    kept = () if init_image is None else kept_codes(model, init_image, mask, strength, every)
    for first in range(0, len(wanted), batch_size):
        own = wanted[first : first + batch_size]
        seeds = range(seed + first, seed + first + len(own))
        options = sampled(num_images, temperature, top_k, top_p, seeds[0])
        fixed = kept[first : first + batch_size]
        written = written_codes(model, "image", own, options, guidance_scale, progress, fixed=fixed)
        for text, results, one in zip(own, written, seeds, strict=True):
            results = rendered(model, results, steps, one, progress)
            if encoder is not None:
                results = [results[best(encoder, [result.media[0] for result in results], text)]]
            found: list[Drawn] = [result if details else medium_of(result) for result in results]
            drawn.append(found[0] if len(found) == 1 else found)
    return drawn if batch else drawn[0]


NUMBERS: dict[str, tuple[Any, float, float]] = {
    "num_images": (int, 1, 65_536),
    "steps": (int | None, 0, 10_000),
    "guidance_scale": (float, -1e6, 1e6),
    "strength": (float | None, 0, 1),
    "max_seconds": (float, 0, float("inf")),
    "seed": (int, -(2**63), 2**63 - 1),
    "batch_size": (int, 1, 65_536),
}
"""Of each option of `draw` and `speak` its kind, its least and its greatest value."""


def check_numbers(**given: Any) -> None:
    """TypeError for an option that is no number, or not a whole one where it must be; ValueError beyond its range."""
    for name, value in given.items():
        kind, least, most = NUMBERS[name]
        check_kind(name, value, kind)
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
        if value is not None and value > most:
            raise ValueError(f"{name} must be at most {most}, not {value}")


def written_codes(
    model: MultimodalNetwork,
    modality: Literal["image", "audio"],
    texts: Sequence[str],
    options: GenerationOptions,
    guidance_scale: float = 1.0,
    progress: Progress | None = None,
    *,
    fixed: Sequence[Mapping[Place, int]] = (),
    max_seconds: float = 4.0,
) -> list[list[GenerationResult]]:
    """The codes of what texts say, `options.num_return_sequences` times: one picture or sound in each result.

    The first text is drawn from `options.seed`, each other from the next number, so that it is what it is alone, to the
    rounding of sums. fixed: codes that are given, for each text.
    """
    seeds = range(options.seed or 0, (options.seed or 0) + len(texts))
    made = [writing_of(model, modality, one, guidance_scale, fixed=fixed, max_seconds=max_seconds) for one in texts]
    prompts, writing = [prompt for prompt, _ in made], made[0][1]
    generators = [torch.Generator(model.device).manual_seed(seed) for seed in seeds]
    return request(model, prompts, options, writing).results(generators, progress)


def writing_of(
    model: MultimodalNetwork,
    modality: Literal["image", "audio"],
    text: str,
    guidance_scale: float = 1.0,
    *,
    fixed: Sequence[Mapping[Place, int]] = (),
    max_seconds: float = 4.0,
) -> tuple[list[Part], Writing]:
    """The prompt for one picture or sound of a text, and what may be written after it."""
    prompt = model.template.writing_prompt(modality, text_of(text))
    without = model.template.writing_prompt(modality, "")
    return prompt, Writing(modality, media_spans(model, modality, max_seconds), fixed, guidance_scale, without)


def rendered(
    model: MultimodalNetwork,
    results: Sequence[GenerationResult],
    steps: int | None,
    seed: int,
    progress: Progress | None = None,
) -> list[GenerationResult]:
    """Results of `written_codes` with media in place of their codes."""

    def preview(step: int, of: int, media: list[Medium]) -> None:
        if progress is not None:
            progress("decoding", step, of)

    codes = [part for result in results for part in result.parts if isinstance(part, Codes)]
    media = render(model, codes, steps, seed, None if progress is None else preview)
    return [replace(result, parts=(medium,)) for result, medium in zip(results, media, strict=True)]


def medium_of(result: GenerationResult) -> Medium:
    """The one picture or sound of a result."""
    (medium,) = result.media
    assert not isinstance(medium, Codes), "its codes have been rendered"
    return medium


def sampled(count: int, temperature: float, top_k: int | None, top_p: float | None, seed: int) -> GenerationOptions:
    """Options for codes. They are sampled: the most likely codes make an average of all pictures."""
    return GenerationOptions(
        do_sample=True, num_return_sequences=count, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )


def texts_of(texts: str | list[str]) -> tuple[list[str], bool]:
    """What is to be drawn or said, and whether several were given; ValueError where one has no word."""
    rows, batch = as_rows(texts=texts)
    return [text_of(text) for (text,) in rows], batch


def text_of(text: str) -> str:
    """The text without the spaces around it; ValueError where there is none."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"what is to be drawn or said must be a text of at least one word, not {text!r}")
    return text.strip()


def kept_codes(
    model: MultimodalNetwork, picture: Any, mask: Any, strength: float | None, seeds: Sequence[int]
) -> list[dict[Place, int]]:
    """For each drawing the codes of a picture that stay, by (codebook, step).

    With a mask these are the codes whose pixels all lie where it is 0. Without one, the seed of a drawing draws them.
    ValueError for a model that draws nothing, a `strength` outside 0..1, and a mask that does not fit the picture.
    """
    codec = model.codecs.get("image")
    if codec is None or codec.size is None:
        raise ValueError("the model draws no pictures: load it with its image codec, or assemble it with one")
    picture = load_image(bare(picture, PictureOf))
    codes = codec.encode(picture_tensor(picture, codec.size).to(model.device)).codes[0]  # [K, h, w]
    grid, codes = codes.shape[1:], codes.flatten(1)
    books, steps = codes.shape
    if mask is None:
        share = 0.5 if strength is None else strength
        if not 0 <= share <= 1:
            raise ValueError(f"strength is a share, 0 to 1, not {share}")
        orders = (torch.randperm(steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds)
        kept = [order[round(share * steps) :].tolist() for order in orders]
    else:
        grey = mask_of(mask, picture.size)
        square = ImageOps.fit(grey, (codec.size, codec.size), Image.Resampling.BOX)  # as the picture is cut
        pixels = torch.from_numpy(np.asarray(square, dtype=np.float32).copy())
        anew = F.adaptive_max_pool2d(pixels[None], list(grid))[0].flatten()
        kept = [(anew == 0).nonzero().flatten().tolist()] * len(seeds)
        if not anew.any():
            where = "" if grey.getextrema() == (0, 0) else " in the middle square"
            warnings.warn(f"the mask marks nothing{where}: nothing is drawn anew", stacklevel=2)
    return [{(book, step): int(codes[book, step]) for book in range(books) for step in own} for own in kept]


def mask_of(mask: Any, size: tuple[int, int]) -> Image.Image:
    """A mask of any form → a picture of mode L, 0 where the picture of this `size` (width, height) is kept, else 255.

    Values below 128 keep; where there are only 0 and 1 (or False and True), 0 keeps; of a mask with transparent pixels,
    the others keep.
    ValueError for a mask whose proportions are not the picture's, to within a pixel, and for one that could be read in
    two ways: of dark values without a bright one, or of transparency around one bright colour.
    """
    mask = bare(mask, PictureOf)
    dtype = str(getattr(mask, "dtype", "")).removeprefix("torch.")
    if dtype.startswith(("bool", "int", "uint")):
        values = plain_array(mask, "the mask")
        mask = values.astype(np.uint8) if values.size and values.min() >= 0 and values.max() <= 1 else mask
    seen = load_image(mask, keep_alpha=True)
    width, height = size
    if abs(seen.width * height - seen.height * width) >= max(width, height):
        raise ValueError(
            f"the mask is {seen.width} x {seen.height} and the picture {width} x {height}: a mask has the picture's "
            "proportions"
        )
    grey = seen.convert("RGB").convert("L")
    if seen.mode == "RGBA" and (holes := np.asarray(seen.getchannel("A")) < 128).any():
        return _holes(holes, np.asarray(grey))
    brightest = grey.getextrema()[1]
    assert isinstance(brightest, int), "grey has one channel"
    if 1 < brightest < 128:
        raise ValueError(
            f"the mask's brightest value is {brightest} of 255, and values below 128 keep: nothing would be drawn "
            "anew; give 255, or True, where it is"
        )
    return grey.point([255 * (value > (0 if brightest == 1 else 127)) for value in range(256)])


def _holes(holes: np.ndarray, grey: np.ndarray) -> Image.Image:
    """The mask of a picture with holes [H, W]. Strokes of one colour on nothing may mean the opposite, so say so."""
    opaque = grey[~holes]
    if opaque.size and 0 < opaque.min() == opaque.max():
        raise ValueError(
            "the mask is one colour on a transparent ground, which may mark either: give black where the picture "
            "is kept and white where it is drawn anew, without transparency"
        )
    return Image.fromarray(np.where(holes, np.uint8(255), np.uint8(0)))


def _reranker(model: MultimodalNetwork) -> ClipImageEncoder:
    encoder = model.encoders.get("image")
    if not isinstance(encoder, ClipImageEncoder):
        raise ValueError("rerank needs an image encoder that embeds texts as well: a CLIP")
    return encoder


@torch.no_grad()
def best(encoder: ClipImageEncoder, pictures: Sequence[Any], text: str) -> int:
    """Which picture CLIP finds most similar to a text."""
    seen = encoder.embed_images(torch.stack([encoder.preprocess(picture) for picture in pictures]))
    return int((seen @ encoder.embed_texts([text]).T).argmax())
