"""Pictures for the demos, drawn on the spot: a few coloured shapes, in layouts kept out of nano's training."""

import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # recipes/ lies beside demos/ and is not installed

from recipes.nano.judge import judge_caption  # noqa: E402
from recipes.nano.questions import Question, questions  # noqa: E402
from recipes.nano.scenes import Scene, draw, sample_scene, training_scene, unseen_layout  # noqa: E402
from recipes.nano.wording import describe  # noqa: E402


@dataclass(frozen=True)
class Sample:
    """A picture, the scene it shows, and one question about it."""

    image: Image.Image
    scene: Scene
    question: Question


def held_out_samples(count: int, seed: int) -> list[Sample]:
    """`count` pictures in layouts that training never draws."""
    samples = []
    for index in range(count):
        rng = random.Random(f"demo {seed} {index}")
        scene = sample_scene(rng, unseen_layout)
        samples.append(Sample(draw(scene, rng), scene, rng.choice(questions(scene, rng))))
    return samples


def is_right(caption: str, scene: Scene) -> bool:
    """Whether the caption names everything in the scene with count, size, colour and shape, and nothing else."""
    return judge_caption(caption, scene).correct


def write_pairs(folder: Path, count: int, seed: int, *, held_out: bool) -> Path:
    """A folder of `count` pictures of one shape each, each captioned like "small red circle", with a metadata.jsonl."""
    wanted: Callable[[Scene], bool] = unseen_layout if held_out else training_scene
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(count):
        rng = random.Random(f"pairs {seed} {held_out} {index}")
        scene = sample_scene(rng, lambda scene: len(scene.things) == 1 and wanted(scene))
        name = f"{index:05d}.png"
        draw(scene, rng).save(folder / name)
        lines.append(json.dumps({"file_name": name, "text": describe(scene.things[0].kind).noun()}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder
