"""What nano learns from: drawn scenes as WebDataset tars, the cleanly licensed sets, and the texts of both."""

from __future__ import annotations

import io
import json
import logging
import os
import random
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from recipes.nano.questions import questions
from recipes.nano.scenes import (
    GRID,
    SHAPES,
    SIDE,
    Scene,
    any_colour,
    box,
    crowded_scene,
    draw,
    sample_scene,
    training_scene,
    unseen_layout,
    unseen_pair,
)
from recipes.nano.wording import caption, listed, phrases, placed_caption, thing_by_thing
from recipes.pretrain.examples import Region

log = logging.getLogger(__name__)

SHARD = 5000  # scenes, or exercises, a tar
CAPTIONS_A_SCENE = 4
QUESTIONS_A_SCENE = 5
QUESTIONS_A_DOCUMENT = 6
SPLITS: dict[str, Callable[[Scene], bool]] = {
    "train": training_scene,
    "dev": unseen_layout,
    "unseen": unseen_pair,
}
PICTURE_SETS = ("easy_vqa", "nlvr", "emoji")
# Words only: nano has no ears yet, but the language model is frozen for good and should know these words then.
TEXT_SETS = ("coffee_orders", "speechocean", "ljspeech_mini", "esc10")


def write_scenes(
    folder: Path, counts: dict[str, int], seed: int, settled: bool = False, loose: float = 1.0, side: int = SIDE
) -> None:
    """Draw `counts[split]` scenes of each split, as `write_tars` keeps them.

    `settled`: the same pictures and questions, and every caption in the one wording that is to be written. `loose`,
    `side`: as in `recipes.nano.scenes.draw`.
    """

    def add(tar: tarfile.TarFile, split: str, index: int) -> None:
        picture, record = scene_example(split, index, seed, loose, side)
        if settled:
            record["captions"] = [listed(Scene.from_dict(record["scene"]))]
        add_file(tar, f"{split}{index:06d}.png", as_png(picture))
        add_file(tar, f"{split}{index:06d}.json", json.dumps(record).encode())

    write_tars(folder, counts, add)


def write_tars(folder: Path, counts: dict[str, int], add: Callable[[tarfile.TarFile, str, int], None]) -> None:
    """`counts[split]` items of each split in `folder/SPLIT-000000.tar` and on; finished tars are kept.

    add: puts one item, given its split and number, into a tar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in counts.items():
        for shard, start in enumerate(range(0, count, SHARD)):
            path = folder / f"{split}-{shard:06d}.tar"
            if path.exists():
                continue
            partial = path.with_suffix(".partial")
            with tarfile.open(partial, "w") as tar:
                for index in tqdm(range(start, min(start + SHARD, count)), desc=path.name, mininterval=2):
                    add(tar, split, index)
            os.replace(partial, path)


def scene_example(split: str, index: int, seed: int, loose: float = 1.0, side: int = SIDE) -> tuple[Image.Image, dict]:
    """Picture `index` of a split, and its record: captions, questions with answers, the scene itself to judge by.

    All captions but one go thing by thing, so that this is what greedy decoding begins; by kinds, or by a relation, is
    how a caption may also go on.
    """
    rng = random.Random(f"{seed} {split} {index}")
    scene = sample_scene(rng, SPLITS[split])
    picture = draw(scene, rng, loose=loose, side=side)
    asked = questions(scene, rng)
    chosen = rng.sample(asked, min(QUESTIONS_A_SCENE, len(asked)))
    return picture, {
        "task": "scene",
        "captions": [*(thing_by_thing(scene, rng) for _ in range(CAPTIONS_A_SCENE - 1)), caption(scene, rng)],
        "qa": [{"question": q.question, "answers": [q.answer], "topic": q.topic} for q in chosen],
        "scene": scene.to_dict(),
    }


def as_png(picture: Image.Image) -> bytes:
    """A picture as a file."""
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def read_tars(folder: Path, split: str) -> Iterator[tuple[bytes | None, dict]]:
    """(sound or picture, encoded, record) of every example in `folder/SPLIT-*.tar`; None where there is neither."""
    for path in sorted(folder.glob(f"{split}-*.tar")):
        with tarfile.open(path) as tar:
            parts: dict[str, bytes] = {}
            key = None
            for member in tar:
                stem, _, suffix = member.name.partition(".")
                if stem != key and parts:
                    yield _example(parts)
                    parts = {}
                key = stem
                parts[suffix] = tar.extractfile(member).read()
            if parts:
                yield _example(parts)


def _example(parts: dict[str, bytes]) -> tuple[bytes | None, dict]:
    return parts.get("flac") or parts.get("png") or parts.get("jpg"), json.loads(parts["json"])


def sets_folder() -> Path | None:
    """Where the paired sets lie: the environment's MMLM_DATA, else ../shared/data; None, with a warning, if absent."""
    folder = Path(os.environ.get("MMLM_DATA", "../shared/data"))
    if (folder / "easy_vqa").is_dir():
        return folder
    log.warning("no paired sets in %s (set MMLM_DATA to their folder): training on drawn scenes alone", folder)
    return None


@dataclass
class ContrastiveSet:
    """Pictures with texts that tell them apart, and phrases for parts of some of them, for the image encoder."""

    pictures: list[Image.Image] = field(default_factory=list)
    captions: list[list[str]] = field(default_factory=list)
    regions: list[list[Region]] = field(default_factory=list)

    def add(self, image: Image.Image | bytes, texts: list[str], times: int = 1) -> None:
        picture = Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image
        self.pictures += [picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)] * times
        self.captions += [texts] * times
        self.regions += [[]] * times

    def add_scene(self, scene: Scene, rng: random.Random, named_colours: bool = True) -> None:
        """A drawn scene, captioned as a whole, and what fills each cell of the grid; of the empty ones, two."""
        self.pictures.append(draw(scene, rng, None if named_colours else any_colour(scene, rng)))
        count = min(4, len(scene.things))  # of a crowd, what a caption has room for
        parts = [Scene(scene.background, tuple(sorted(rng.sample(scene.things, count)))) for _ in range(4)]
        self.captions.append([placed_caption(part, rng, named_colours) for part in parts])
        cells = {thing.cell: thing.kind for thing in scene.things}
        empty = [cell for cell in range(GRID * GRID) if cell not in cells]
        cells |= dict.fromkeys(rng.sample(empty, min(2, len(empty))))
        self.regions.append([Region(box(cell), phrases(kind, cell, named_colours)) for cell, kind in cells.items()])


def contrastive_set(scenes: int, sets: Path | None, seed: int) -> ContrastiveSet:
    """`scenes` drawn pictures, half of them crowded, a quarter also in any colours, and the sets' training pictures."""
    found = ContrastiveSet()
    for index in range(scenes):
        rng = random.Random(f"{seed} contrastive {index}")
        scene = crowded_scene(rng) if index % 2 else sample_scene(rng, training_scene)
        found.add_scene(scene, rng, named_colours=index % 4 != 3)
    if sets is None:
        return found
    for image, record in read_tars(sets / "easy_vqa", "train"):
        answers = {a["question"]: a["answers"][0] for a in record["qa"]}
        colour = next((a for q, a in answers.items() if q.startswith(("what color", "what is the color"))), None)
        shape = next((a for q, a in answers.items() if q.startswith("what") and a in SHAPES), None)
        texts = [f"a {colour} {shape}"] if colour and shape else [f"a {word}" for word in (colour, shape) if word]
        if texts:
            found.add(image, texts, times=3)
    for image, record in read_tars(sets / "nlvr", "train"):
        if record["label"]:
            found.add(image, [record["sentence"]])
    for image, record in read_tars(sets / "emoji", "train"):
        name = record["captions"][0]
        found.add(image, [name, f"emoji: {name}", ", ".join([name, *record["keywords"][:6]])], times=2)
    return found


def adapter_sources(scenes: Path, sets: Path | None) -> list[str]:
    """Tars for `mmlm.train`; a small set is named several times, to be seen as often in each pass."""
    sources = [f"{scenes}/train-*.tar"]
    if sets is not None:
        for name, times in (("easy_vqa", 8), ("nlvr", 2), ("emoji", 2)):
            sources += [f"{sets / name}/train-*.tar"] * times
    return sources


def drawing_sources(scenes: Path, sets: Path | None, emoji_passes: int = 4) -> tuple[list[str], str]:
    """Pictures with texts to learn drawing from, and held-out ones. emoji_passes: for one over the scenes."""
    sources = [f"{scenes}/train-*.tar"]
    if sets is not None:
        sources += [f"{sets / 'emoji'}/train-*.tar"] * emoji_passes
    return sources, f"{scenes}/dev-*.tar"


def hearing_sources(speech: Path, spoken: Path, sets: Path | None) -> list[str]:
    """The same of recordings: what was said, what was asked, and the sets of real sound."""
    sources = [f"{spoken}/train-*.tar"] * 3 + [f"{speech}/train-00000*.tar"]
    if sets is not None:
        repeated = {"coffee_orders": 20, "esc10": 20, "fsdd": 3, "speechocean": 5, "ljspeech_mini": 5}
        for name, times in repeated.items():
            sources += [f"{sets / name}/train-*.tar"] * times
    return sources


def documents(sets: Path | None, scenes: int, seed: int) -> list[list[str]]:
    """Captions and answered questions as the prompts write them, for the tokenizer and the language model.

    A document holds all that is said of one picture. Its later texts follow from the earlier ones, so the language
    model learns to bring what a sentence asks about to where the answer is written, and to compare. From single texts,
    where every answer is a guess, it would learn nothing of the kind; and it is frozen when the adapters learn.

    Half of the captions name their things in an order of their own: were all in reading order, the next attribute
    could be copied without knowing which place it belongs to.

    The scenes are drawn anew from all layouts and all colour-shape pairs: the language model may read of an orange
    triangle; it is the pictures of training that never show one.
    """
    found = []
    for index in range(scenes):
        rng = random.Random(f"{seed} text {index}")
        scene = sample_scene(rng)
        orders = (scene.things, tuple(rng.sample(scene.things, len(scene.things))))
        own = [as_caption(caption(Scene(scene.background, rng.choice(orders)), rng)) for _ in range(2)]
        own += [as_answer(q.question, q.answer) for q in rng.sample(questions(scene, rng), QUESTIONS_A_DOCUMENT)]
        rng.shuffle(own)
        found.append(own)
    if sets is None:
        return found
    for name in (*PICTURE_SETS, *TEXT_SETS):
        for _, record in read_tars(sets / name, "train"):
            said = [*record.get("captions", []), *([record["text"]] if "text" in record else [])]
            if "keywords" in record:
                said.append(", ".join(record["keywords"]))
            own = [as_caption(text) for text in said]
            own += [as_answer(q["question"], ", ".join(q["answers"])) for q in record.get("qa", [])]
            found += [own] * 5
    return found


def as_caption(text: str) -> str:
    return f"Output:{text}"


def as_answer(question: str, answer: str) -> str:
    return f"Question:{question} Short answer:{answer}"
