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
from encoders.clip import ClipImageEncoder
from mmlm.data import read_records
from mmlm.generation.media import as_pictures, picture_tensor
from mmlm.generation.result import GenerationResult
from mmlm.tasks.draw import best as best_of
from mmlm.tasks.draw import medium_of, rendered, sampled, written_codes
from mmlm.training.objectives.codec import quality
from recipes.nano import data
from recipes.nano.edges import edge_width
from recipes.nano.evaluate import TITLES, rolled, row, share, title
from recipes.nano.judge import judge_caption
from recipes.nano.scenes import SIDE, Scene
from recipes.nano.sight import read_scene
from recipes.nano.wording import NUMBERS, listed

BEST_OF = 4
TEMPERATURE = 0.1
TOP = 5  # names
STEPS = (0, 1, 2, 4, 8)


def evaluate(model: mmlm.MultimodalLM, sets: Path | None, scenes: dict[str, int], seed: int = 0) -> None:
    """Print all tables."""
    for split, count in scenes.items():
        evaluate_scenes(model, split, count, seed)
    if sets is not None:
        evaluate_emoji(model, sets, sum(scenes.values()))
    evaluate_codec(model.codecs["image"], sets, seed)


def evaluate_scenes(model: mmlm.MultimodalLM, split: str, count: int, seed: int) -> None:
    codec, decoder = pencil(model)
    pictures, scenes = examples(split, count, seed, side_of(codec))
    texts = [listed(scene) for scene in scenes]
    title(f"{TITLES[split]}, drawn ({count})", "text")
    written = written_codes(model, "image", texts, sampled(BEST_OF, TEMPERATURE, None, None, seed))
    drawn = shown(model, written)
    first = [several[0] for several in drawn]
    own, other = read_right(first, scenes), read_right(rolled(first), scenes)
    row("drawn with every attribute right", count, share(own), None, share(other))
    for things in sorted({len(scene.things) for scene in scenes}):
        chosen = [index for index, scene in enumerate(scenes) if len(scene.things) == things]
        right, wrong = (share(column[index] for index in chosen) for column in (own, other))
        row(f"drawn: {NUMBERS[things]} thing{'s' * (things > 1)}", len(chosen), right, None, wrong)
    plain = [several[0] for several in shown(model, written, steps=0)]
    if decoder is not None:
        row("the same codes by the codec's own decoding", count, share(read_right(plain, scenes)), None, None)
    clip = model.encoders["image"]
    best = [several[best_of(clip, several, text)] for several, text in zip(drawn, texts, strict=True)]
    row(f"best of {BEST_OF} by CLIP", count, share(read_right(best, scenes)), None, None)
    told = model.caption(first)
    said, missaid = (
        share(judge_caption(text, scene).correct for text, scene in zip(captions, scenes, strict=True))
        for captions in (told, rolled(told))
    )
    row("drawn, then described with every attribute right", count, said, None, missaid)
    for name, renders in renderers(decoder).items():
        found = share(read_right(as_pictures(coded(codec, stacked(pictures, side_of(codec)), renders)), scenes))
        row(f"real pictures through their codes, {name}", count, found, None, None)
    everything = [picture for several in drawn for picture in several]
    usage, _ = used(codec.encode(stacked(everything, side_of(codec))))
    print(f"\nThe {len(everything)} drawn pictures, encoded again, use {usage} of the codebooks.")
    neat, _ = examples(split, count, seed, side_of(codec), loose=0.0)
    widths = {"real ones": neat, "drawn ones": first, "the codec's own decoding of these": plain}
    told = ", ".join(f"of {name} {edge_width(own):.2f}" for name, own in widths.items())
    print(f"Width of edges in pixels, neat scenes: {told}.")


def evaluate_emoji(model: mmlm.MultimodalLM, sets: Path, count: int) -> None:
    """Names of the training set, drawn: where their own name is among all of them, by the frozen CLIP."""
    records = list(read_records(sets / "emoji/train-*.tar"))
    names = [record.captions[0] for record in records]
    chosen = range(0, len(names), max(1, len(names) // count))
    codec, decoder = pencil(model)
    real = [records[index].decode() for index in chosen]
    drawn = model.draw([names[index] for index in chosen], seed=0, temperature=TEMPERATURE)
    columns = {"drawn by nano": drawn, "real ones": real}
    for name, renders in renderers(decoder).items():
        columns[f"real ones through their codes, {name}"] = as_pictures(
            coded(codec, stacked(real, side_of(codec)), renders)
        )
    title(f"emoji of the training set, {len(names)} names ({len(real)})", "name")
    for name, pictures in columns.items():
        own, other = (
            share(rank < TOP for rank in ranks(model.encoders["image"], own, [names[index] for index in chosen], names))
            for own in (pictures, rolled(pictures))
        )
        row(f"{name}: own name among the first {TOP}", len(real), own, None, other)


@torch.no_grad()
def ranks(clip: ClipImageEncoder, pictures: Sequence[Image.Image], own: Sequence[str], names: list[str]) -> list[int]:
    """How many of all names the frozen CLIP finds more similar to each picture than the picture's own."""
    texts = clip.embed_texts([f"emoji: {name}" for name in names], cut=True)
    seen = [clip.embed_images(clip.preprocess(picture)[None])[0] for picture in pictures]
    similar = torch.stack(seen) @ texts.T
    right = similar[torch.arange(len(own)), torch.tensor([names.index(name) for name in own])]
    return (similar > right[:, None]).sum(1).tolist()


def pencil(model: mmlm.MultimodalLM) -> tuple[MediaCodec, DiffusionDecoder | None]:
    """What turns codes into pictures: the codec, and the diffusion decoder where there is one."""
    return model.codecs["image"], dict(model.decoders.items()).get("image")


def renderers(decoder: DiffusionDecoder | None) -> dict[str, DiffusionDecoder | None]:
    """The ways from codes to pictures, as `coded` takes them, by their names."""
    return {"the codec's own decoding": None} | ({"the diffusion decoder's": decoder} if decoder else {})


def examples(split: str, count: int, seed: int, side: int, loose: float = 1.0) -> tuple[list[Image.Image], list[Scene]]:
    """Pictures of a split, and the scenes that they show."""
    found = [data.scene_example(split, index, seed, loose, side) for index in range(count)]
    return [picture for picture, _ in found], [Scene.from_dict(record["scene"]) for _, record in found]


def shown(
    model: mmlm.MultimodalLM, written: Sequence[Sequence[GenerationResult]], steps: int | None = None
) -> list[list[Image.Image]]:
    """The pictures of written codes, by `steps` steps of the diffusion decoder; with 0 by the codec."""
    return [
        [medium_of(result) for result in rendered(model, several, steps, seed)] for seed, several in enumerate(written)
    ]


def read_right(pictures: Sequence[Image.Image], scenes: Sequence[Scene]) -> list[bool]:
    """Which pictures show their scenes, all of them and nothing else."""
    return [read_scene(picture) == scene for picture, scene in zip(pictures, scenes, strict=True)]


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
    side = side_of(codec)
    held_out, scenes = {}, []
    for name, loose in (("scenes of unseen layouts", 1.0), ("scenes of unseen layouts, neat", 0.0)):
        pictures, scenes = examples("dev", count, seed, side, loose)
        held_out[name] = stacked(pictures, side)
    training = examples("train", count, seed, side)[0]
    if sets is not None:
        held_out["emoji dev"] = stacked((record.decode() for record in read_records(sets / "emoji/dev-*.tar")), side)
        training += [record.decode() for record in read_records(sets / "emoji/train-*.tar")[:count]]
    early = {
        places: PaletteCodec.learn(stacked(training, side), codec.codebook_size, side // places, seed)
        for places in (8, 16)
    }
    assert codec.grid is not None, "nano's codec is of one size"
    codes = codec.grid[0] * codec.grid[1] * codec.num_codebooks
    columns = {f"codec, {codes} codes": codec, **{f"palette, {n**2} codes": one for n, one in early.items()}}
    print(f"\n### the image codec: {codec.num_codebooks} codebooks of {codec.codebook_size}\n")
    print(f"| figure | n | {' | '.join(columns)} |\n| --- | --- |{' --- |' * len(columns)}")
    for name, pictures in held_out.items():
        made = [coded(one, pictures) for one in columns.values()]
        told = [f"{quality(codec, one, pictures)['psnr']:.1f} dB" for one in made]
        print(f"| PSNR, {name} | {len(pictures)} | {' | '.join(told)} |")
        if name.startswith("scenes"):
            told = [f"{share(read_right(as_pictures(one), scenes)):.1%}" for one in made]
            print(f"| read right by the judge, {name} | {len(pictures)} | {' | '.join(told)} |")
    usage, perplexity = used(codec.encode(torch.cat(list(held_out.values()))))
    real = [picture for loose in (1.0, 0.0) for picture in examples("dev", count, seed, side, loose)[0]]
    print(f"\nThese pictures use {usage} of the codebooks, perplexity {perplexity}; of the real scenes the judge reads "
          f"{share(read_right(real, scenes * 2)):.1%} right.")  # fmt: skip


def used(encoded: Encoding) -> tuple[str, str]:
    """How much of each codebook codes use, and their perplexity, as text."""
    columns = ((encoded.usage, ".1%"), (encoded.perplexity, ".0f"))
    usage, perplexity = ("/".join(f"{value:{form}}" for value in column.tolist()) for column, form in columns)
    return usage, perplexity


def side_of(codec: MediaCodec) -> int:
    """Pixels a side of a codec's pictures."""
    assert codec.size is not None, "nano's codec is of one size"
    return codec.size


def stacked(pictures: Iterable[Image.Image], side: int) -> Tensor:
    """Pictures as a codec takes them, [N, 3, side, side] in 0..1."""
    return torch.cat([picture_tensor(picture, side) for picture in pictures])


def sheet(model: mmlm.MultimodalLM, sets: Path | None, path: Path, seed: int = 0) -> None:
    """Eight scenes and, from names that training had and that it never had, eight emoji each, as drawn first."""
    texts = [listed(scene) for scene in examples("dev", 8, seed, SIDE)[1]]
    for split, step in (("train", 170), ("dev", 11)) if sets is not None else ():
        texts += [record.captions[0] for record in list(read_records(sets / f"emoji/{split}-*.tar"))[::step][:8]]
    mmlm.contact_sheet(model.draw(texts, seed=seed, temperature=TEMPERATURE), texts, path)


def sheet_of_steps(model: mmlm.MultimodalLM, path: Path, seed: int = 0) -> None:
    """Four scenes, each by the codec alone and by 1, 2, 4 and 8 steps of its diffusion decoder, from the same codes."""
    texts = [listed(scene) for scene in examples("dev", 4, seed, SIDE)[1]]
    written = written_codes(model, "image", texts, sampled(1, TEMPERATURE, None, None, seed))
    drawn = {steps: shown(model, written, steps) for steps in STEPS}
    found = [(drawn[steps][index][0], steps) for index in range(len(texts)) for steps in STEPS]
    named = ["the codec alone" if steps == 0 else f"{steps} step{'s' * (steps > 1)}" for _, steps in found]
    mmlm.contact_sheet([picture for picture, _ in found], named, path, columns=len(STEPS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--scenes", type=int, default=300, help="of unseen layouts, and half as many of unseen pairs")
    parser.add_argument("--codec", type=Path, help="the folder of a codec, to measure it alone")
    parser.add_argument("--sheet", type=Path, help="a PNG of drawings, in place of the tables")
    parser.add_argument("--steps-sheet", type=Path, help="a PNG of drawings by 0 to 8 steps of the diffusion decoder")
    arguments = parser.parse_args()
    sets = Path(os.environ.get("MMLM_DATA", "../shared/data"))
    sets = sets if (sets / "emoji").is_dir() else None
    if arguments.codec is not None:
        evaluate_codec(load_codec(arguments.codec), sets, seed=0)
        return
    model = mmlm.load(arguments.model)
    if arguments.sheet is not None:
        sheet(model, sets, arguments.sheet)
    if arguments.steps_sheet is not None:
        sheet_of_steps(model, arguments.steps_sheet)
    if arguments.sheet is None and arguments.steps_sheet is None:
        evaluate(model, sets, {"dev": arguments.scenes, "unseen": arguments.scenes // 2})


if __name__ == "__main__":
    main()
