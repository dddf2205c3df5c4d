"""The tables of docs/nano.md about drawing, printed: pictures for unseen scenes, read back from their pixels.

    python -m recipes.nano.drawing                       # the shipped weights; some minutes on a CPU
    python -m recipes.nano.drawing --sheet drawn.png     # and a sheet of scenes and emoji drawn

A picture is right when `recipes/nano/sight.py` finds in it every thing of the scene with its place, size, colour and
shape, nothing else, and the right background. A wrong text is that of the next scene.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import mmlm
from mmlm.data import read_records
from mmlm.drawing import picture_tensor
from mmlm.writing import as_media
from recipes.nano import data
from recipes.nano.evaluate import TITLES, rolled, row, share, title
from recipes.nano.judge import judge_caption
from recipes.nano.scenes import SIDE, Scene
from recipes.nano.sight import read_scene
from recipes.nano.wording import NUMBERS, listed

BEST_OF = 4
TEMPERATURE, GUIDANCE = 0.7, 2.0


def evaluate(model, sets: Path | None, scenes: dict[str, int], seed: int = 0) -> None:
    """Print all tables."""
    for split, count in scenes.items():
        evaluate_scenes(model, split, count, seed)
    evaluate_codec(model, sets, seed)


def evaluate_scenes(model, split: str, count: int, seed: int) -> None:
    pictures, records = zip(*(data.scene_example(split, index, seed) for index in range(count)), strict=True)
    scenes = [Scene.from_dict(record["scene"]) for record in records]
    texts = [listed(scene) for scene in scenes]
    title(f"{TITLES[split]}, drawn ({count})", "text")
    drawn = [draw(model, text, index) for index, text in enumerate(texts)]
    first = [several[0] for several in drawn]
    own, other = read_right(first, scenes), read_right(rolled(first), scenes)
    row("drawn with every attribute right", count, share(own), None, share(other))
    for things in (1, 2, 3, 4):
        chosen = [index for index, scene in enumerate(scenes) if len(scene.things) == things]
        right, wrong = (share(column[index] for index in chosen) for column in (own, other))
        row(f"drawn: {NUMBERS[things]} thing{'s' * (things > 1)}", len(chosen), right, None, wrong)
    best = [several[mmlm.drawing.best(model, several, text)] for several, text in zip(drawn, texts, strict=True)]
    row(f"best of {BEST_OF} by CLIP", count, share(read_right(best, scenes)), None, None)
    told = model.caption(first)
    said, missaid = (
        share(judge_caption(text, scene).correct for text, scene in zip(captions, scenes, strict=True))
        for captions in (told, rolled(told))
    )
    row("drawn, then described with every attribute right", count, said, None, missaid)
    row("real pictures read right by the judge", count, share(read_right(pictures, scenes)), None, None)
    for name, steps in (("the codec's own decoding", 0), ("the diffusion decoder's", 4)):
        if steps == 0 or "image" in model.decoders:
            found = share(read_right(coded(model, pictures, steps), scenes))
            row(f"real pictures through their codes, {name}", count, found, None, None)


def read_right(pictures: Sequence[Image.Image], scenes: Sequence[Scene]) -> list[bool]:
    """Which pictures show their scenes, all of them and nothing else."""
    return [read_scene(picture) == scene for picture, scene in zip(pictures, scenes, strict=True)]


def draw(model, text: str, seed: int) -> list[Image.Image]:
    """Several pictures of a text, as the tables' figures have them drawn."""
    return model.draw(text, BEST_OF, seed=seed, temperature=TEMPERATURE, guidance_scale=GUIDANCE)


@torch.no_grad()
def coded(model, pictures: Sequence[Image.Image], steps: int) -> list[Image.Image]:
    """Pictures as their codes give them back."""
    found: list[Any] = []
    for start in range(0, len(pictures), 50):
        batch = torch.cat([picture_tensor(picture, SIDE) for picture in pictures[start : start + 50]])
        codes = model.codecs["image"].encode(batch).codes
        made = model.decoders["image"].decode(codes, steps) if steps else model.codecs["image"].decode(codes)
        found += as_media(model, "image", made)
    return found


@torch.no_grad()
def evaluate_codec(model, sets: Path | None, seed: int, count: int = 500) -> None:
    """How much of the codebook held-out pictures use."""
    pictures = [data.scene_example("dev", index, seed)[0] for index in range(count)]
    if sets is not None:
        pictures += [record.decode() for record in read_records(sets / "emoji/dev-*.tar")]
    codec = model.codecs["image"]
    encoded = codec.encode(torch.cat([picture_tensor(picture, SIDE) for picture in pictures]))
    usage, perplexity = float(encoded.usage), float(encoded.perplexity)
    many = len(pictures)
    print(f"\nOf {codec.codebook_size} codes {many} held-out pictures use {usage:.1%}, perplexity {perplexity:.0f}.")


def sheet(model, sets: Path | None, path: Path, seed: int = 0) -> None:
    """Eight scenes and, from names never seen, eight emoji, each as it was drawn first."""
    texts = [listed(Scene.from_dict(data.scene_example("dev", index, seed)[1]["scene"])) for index in range(8)]
    if sets is not None:
        texts += [record.captions[0] for record in list(read_records(sets / "emoji/dev-*.tar"))[:8]]
    drawn = [draw(model, text, index)[0] for index, text in enumerate(texts)]
    mmlm.contact_sheet(drawn, texts, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--scenes", type=int, default=300, help="of unseen layouts, and half as many of unseen pairs")
    parser.add_argument("--sheet", type=Path, help="a PNG of drawings, in place of the tables")
    arguments = parser.parse_args()
    sets = Path(os.environ.get("MMLM_DATA", "../shared/data"))
    sets = sets if (sets / "emoji").is_dir() else None
    model = mmlm.load(arguments.model)
    if arguments.sheet is not None:
        sheet(model, sets, arguments.sheet)
    else:
        evaluate(model, sets, {"dev": arguments.scenes, "unseen": arguments.scenes // 2})


if __name__ == "__main__":
    main()
