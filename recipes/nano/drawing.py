"""The tables of docs/nano.md about drawing, printed: pictures for unseen scenes, read back from their pixels.

    python -m recipes.nano.drawing                       # the shipped weights; some minutes on a CPU
    python -m recipes.nano.drawing --sheet drawn.png     # and a sheet of scenes and emoji drawn
    python -m recipes.nano.drawing --codec mmlm/nano/image_codec     # a codec alone

A picture is right when `recipes/nano/sight.py` finds in it every thing of the scene with its place, size, colour and
shape, nothing else, and the right background. A wrong text is that of the next scene.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import mmlm
from decoders.codecs.base import Encoding, MediaCodec
from decoders.codecs.checkpoint import load_codec
from decoders.codecs.raw import PaletteCodec
from decoders.diffusion.decoder import DiffusionDecoder
from mmlm.data import read_records
from mmlm.generation.media import as_pictures, picture_tensor
from mmlm.tasks.draw import best as best_of
from mmlm.training.objectives.codec import quality
from recipes.nano import data
from recipes.nano.evaluate import TITLES, rolled, row, share, title
from recipes.nano.judge import judge_caption
from recipes.nano.scenes import SIDE, Scene
from recipes.nano.sight import read_scene
from recipes.nano.wording import NUMBERS, listed

BEST_OF = 4
TEMPERATURE = 0.1


def evaluate(model: mmlm.MultimodalLM, sets: Path | None, scenes: dict[str, int], seed: int = 0) -> None:
    """Print all tables."""
    for split, count in scenes.items():
        evaluate_scenes(model, split, count, seed)
    evaluate_codec(model.codecs["image"], sets, seed)


def evaluate_scenes(model: mmlm.MultimodalLM, split: str, count: int, seed: int) -> None:
    pictures, records = zip(*(data.scene_example(split, index, seed) for index in range(count)), strict=True)
    scenes = [Scene.from_dict(record["scene"]) for record in records]
    texts = [listed(scene) for scene in scenes]
    title(f"{TITLES[split]}, drawn ({count})", "text")
    drawn = draw(model, texts)
    first = [several[0] for several in drawn]
    own, other = read_right(first, scenes), read_right(rolled(first), scenes)
    row("drawn with every attribute right", count, share(own), None, share(other))
    for things in sorted({len(scene.things) for scene in scenes}):
        chosen = [index for index, scene in enumerate(scenes) if len(scene.things) == things]
        right, wrong = (share(column[index] for index in chosen) for column in (own, other))
        row(f"drawn: {NUMBERS[things]} thing{'s' * (things > 1)}", len(chosen), right, None, wrong)
    clip = model.encoders["image"]
    best = [several[best_of(clip, several, text)] for several, text in zip(drawn, texts, strict=True)]
    row(f"best of {BEST_OF} by CLIP", count, share(read_right(best, scenes)), None, None)
    told = model.caption(first)
    said, missaid = (
        share(judge_caption(text, scene).correct for text, scene in zip(captions, scenes, strict=True))
        for captions in (told, rolled(told))
    )
    row("drawn, then described with every attribute right", count, said, None, missaid)
    codec, decoder = model.codecs["image"], dict(model.decoders.items()).get("image")
    renderers = {"the codec's own decoding": None} | ({"the diffusion decoder's": decoder} if decoder else {})
    for name, renders in renderers.items():
        found = share(read_right(as_pictures(coded(codec, stacked(pictures), renders)), scenes))
        row(f"real pictures through their codes, {name}", count, found, None, None)
    everything = [picture for several in drawn for picture in several]
    usage, _ = used(codec.encode(stacked(everything)))
    print(f"\nThe {len(everything)} drawn pictures, encoded again, use {usage} of the codebooks.")


def read_right(pictures: Sequence[Image.Image], scenes: Sequence[Scene]) -> list[bool]:
    """Which pictures show their scenes, all of them and nothing else."""
    return [read_scene(picture) == scene for picture, scene in zip(pictures, scenes, strict=True)]


def draw(model: mmlm.MultimodalLM, texts: list[str]) -> list[list[Image.Image]]:
    """Several pictures of each text, as the tables' figures have them drawn."""
    return model.draw(texts, BEST_OF, seed=0, temperature=TEMPERATURE)


@torch.no_grad()
def coded(codec: MediaCodec, pictures: Tensor, decoder: DiffusionDecoder | None = None) -> Tensor:
    """Pictures [N, 3, H, W] as their codes give them back, by the codec or by its diffusion decoder."""
    found = []
    for batch in pictures.split(50):
        codes = codec.encode(batch).codes
        found.append(codec.decode(codes) if decoder is None else decoder.decode(codes))
    return torch.cat(found)


def evaluate_codec(codec: MediaCodec, sets: Path | None, seed: int, count: int = 500) -> None:
    """The codec alone, beside palettes of as many colours as one of its codebooks has codes, learned from training.

    Neat scenes are those that are drawn: each thing in the middle of its cell, in exactly its colour.
    """
    examples = [[data.scene_example("dev", index, seed, loose) for index in range(count)] for loose in (1.0, 0.0)]
    scenes = [Scene.from_dict(record["scene"]) for _, record in examples[0]]
    shown, neat = ([picture for picture, _ in own] for own in examples)
    held_out = {"scenes of unseen layouts": stacked(shown), "scenes of unseen layouts, neat": stacked(neat)}
    training = [data.scene_example("train", index, seed)[0] for index in range(count)]
    if sets is not None:
        held_out["emoji dev"] = stacked(record.decode() for record in read_records(sets / "emoji/dev-*.tar"))
        training += [record.decode() for record in read_records(sets / "emoji/train-*.tar")[:count]]
    early = {side: PaletteCodec.learn(stacked(training), codec.codebook_size, SIDE // side, seed) for side in (8, 16)}
    places = codec.grid[0] * codec.grid[1] * codec.num_codebooks
    columns = {f"codec, {places} codes": codec, **{f"palette, {side**2} codes": one for side, one in early.items()}}
    print(f"\n### the image codec: {codec.num_codebooks} codebooks of {codec.codebook_size}\n")
    print(f"| figure | n | {' | '.join(columns)} |\n| --- | --- |{' --- |' * len(columns)}")
    for name, pictures in held_out.items():
        made = [coded(one, pictures) for one in columns.values()]
        told = [f"{quality(codec, one, pictures)['psnr']:.1f} dB" for one in made]
        print(f"| PSNR, {name} | {len(pictures)} | {' | '.join(told)} |")
        if name.startswith("scenes"):
            told = [f"{share(read_right(as_pictures(one), scenes)):.1%}" for one in made]
            print(f"| read right by the judge, {name} | {len(pictures)} | {' | '.join(told)} |")
    encoded = codec.encode(torch.cat(list(held_out.values())))
    usage, perplexity = used(encoded)
    print(f"\nThese pictures use {usage} of the codebooks, perplexity {perplexity}; of the real scenes the judge reads "
          f"{share(read_right([*shown, *neat], scenes * 2)):.1%} right.")  # fmt: skip


def used(encoded: Encoding) -> tuple[str, str]:
    """How much of each codebook codes use, and their perplexity, as text."""
    columns = ((encoded.usage, ".1%"), (encoded.perplexity, ".0f"))
    usage, perplexity = ("/".join(f"{value:{form}}" for value in column.tolist()) for column, form in columns)
    return usage, perplexity


def stacked(pictures: Iterable[Image.Image]) -> Tensor:
    """Pictures as a codec takes them, [N, 3, SIDE, SIDE] in 0..1."""
    return torch.cat([picture_tensor(picture, SIDE) for picture in pictures])


def sheet(model: mmlm.MultimodalLM, sets: Path | None, path: Path, seed: int = 0) -> None:
    """Eight scenes and, from names never seen, eight emoji, each as it was drawn first."""
    texts = [listed(Scene.from_dict(data.scene_example("dev", index, seed)[1]["scene"])) for index in range(8)]
    if sets is not None:
        texts += [record.captions[0] for record in list(read_records(sets / "emoji/dev-*.tar"))[:8]]
    drawn = [several[0] for several in draw(model, texts)]
    mmlm.contact_sheet(drawn, texts, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--scenes", type=int, default=300, help="of unseen layouts, and half as many of unseen pairs")
    parser.add_argument("--codec", type=Path, help="the folder of a codec, to measure it alone")
    parser.add_argument("--sheet", type=Path, help="a PNG of drawings, in place of the tables")
    arguments = parser.parse_args()
    sets = Path(os.environ.get("MMLM_DATA", "../shared/data"))
    sets = sets if (sets / "emoji").is_dir() else None
    if arguments.codec is not None:
        evaluate_codec(load_codec(arguments.codec), sets, seed=0)
        return
    model = mmlm.load(arguments.model)
    if arguments.sheet is not None:
        sheet(model, sets, arguments.sheet)
    else:
        evaluate(model, sets, {"dev": arguments.scenes, "unseen": arguments.scenes // 2})


if __name__ == "__main__":
    main()
