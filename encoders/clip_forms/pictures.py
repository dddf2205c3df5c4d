"""The preprocessing of transformers' image processors, in the steps of open_clip's transforms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from open_clip.transform import PreprocessCfg, image_transform_v2
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from encoders.model_files import read_settings
from encoders.sizes import RefusedError

INTERPOLATION = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's numbers
MOST_RESIZE = 4  # sides of the model's pictures: no more is resized to before they are cropped
CLIP_DEFAULTS = {
    "size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": 224,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip
SIGLIP_DEFAULTS = {
    "size": {"height": 224, "width": 224}, "do_center_crop": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
}  # fmt: skip


def picture_settings(source: str) -> dict[str, Any]:
    """What a folder or hub id says of its image processor; FileNotFoundError where it says nothing."""
    settings = read_settings(source, "preprocessor_config.json")
    if settings is None:  # processors that were saved whole
        settings = (read_settings(source, "processor_config.json") or {}).get("image_processor")
    if settings is None:
        raise FileNotFoundError("it has no preprocessor_config.json, which says how its pictures are prepared")
    return settings


def transform_of(given: Mapping[str, Any], defaults: Mapping[str, Any], image_size: tuple[int, int]) -> Any:
    """The transform of an image processor's settings, PIL RGB → [3, H, W], and them as open_clip names them.

    image_size: height and width that the model takes. `RefusedError` for settings that do not lead there, or that leave
    out the resizing or the scale of 0..1.
    """
    settings = {**defaults, **given}
    resize, crop = _edges(settings["size"]), settings["do_center_crop"]
    final = _edges(settings["crop_size"], square=True) if crop else resize
    mean, std = tuple(settings["image_mean"]), tuple(settings["image_std"])
    if not settings.get("do_normalize", True):
        mean, std = (0.0,) * 3, (1.0,) * 3
    interpolation = INTERPOLATION.get(settings.get("resample", 3))
    largest = max(resize) if isinstance(resize, tuple) else resize
    for fault, wrong in {
        "resizes nothing": not settings.get("do_resize", True),
        "does not bring pictures to 0..1": abs(255 * settings.get("rescale_factor", 1 / 255) - 1) > 1e-3
        or not settings.get("do_rescale", True),
        f"makes pictures of {final}, and the model takes {image_size}": final != image_size,
        f"resizes to {resize} first": not 0 < largest <= MOST_RESIZE * max(image_size),
        "names no interpolation of Pillow": interpolation is None,
        "has a mean or deviation that is none": not _colours(mean) or not _colours(std) or min(std) <= 0,
    }.items():
        if wrong:
            raise RefusedError(f"its preprocessing {fault}: {str(dict(given))[:300]}")
    mode = "squash" if isinstance(resize, tuple) else "shortest"
    first = [Resize(resize, InterpolationMode(interpolation)), *([CenterCrop(final)] if crop else [])]
    described = {"size": final, "mean": mean, "std": std, "interpolation": interpolation, "resize_mode": mode}
    upstream: Any = image_transform_v2(PreprocessCfg(mean=mean, std=std), is_train=False)
    return Compose([*first, *upstream.transforms[-3:]]), described  # RGB, tensor, scale


def _edges(size: Any, square: bool = False) -> int | tuple[int, int]:
    """A size in any of transformers' ways: of the shortest edge, or height and width."""
    if isinstance(size, Mapping):
        return size["shortest_edge"] if "shortest_edge" in size else (size["height"], size["width"])
    return (size, size) if square else size


def _colours(values: Any) -> bool:
    return len(values) == 3 and all(math.isfinite(value) for value in values)
