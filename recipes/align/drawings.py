"""GRPO on nano's drawings, beside a control whose rewards are drawn by lot: `python -m recipes.align.drawings`.

nano draws each of some training scenes several times. A drawing earns the share of its things, and of its background,
that nano itself finds in it when it captions the drawing: what it sees teaches what it draws. Only what writes codes
trains, so that captions and answers stay as they are. Judged on layouts, and on pairs of colour and shape, that
training never draws, by the judge of pixels (`recipes/nano/sight.py`), which gave no reward.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import mmlm
from mmlm.data import Record, RecordSet
from mmlm.training.align import align
from mmlm.training.alignment.config import GrpoConfig
from mmlm.training.alignment.rewards import Reward, Written
from recipes.align.proof import by_lot
from recipes.align.scenes import picture_of
from recipes.nano.drawing import TEMPERATURE, read_right
from recipes.nano.judge import judge_caption
from recipes.nano.scenes import Scene, sample_scene, training_scene, unseen_layout, unseen_pair
from recipes.nano.wording import listed

JUDGED = {"unseen layouts": unseen_layout, "unseen colour-shape pairs": unseen_pair}
OBJECTIVE = GrpoConfig(writes="image", generations=8, temperature=0.7)
SETTINGS = dict(batch_size=8, learning_rate=4e-4, save_every=20, eval_every=10_000, log_every=5, keep_best=False)


def scenes_of(accept: Callable[[Scene], bool], count: int, seed: int) -> list[Scene]:
    """Scenes of a split."""
    return [sample_scene(random.Random(f"{seed} drawings {index}"), accept) for index in range(count)]


def prompts(scenes: Sequence[Scene]) -> RecordSet:
    """Records whose captions are drawn; the pictures beside them are not looked at."""
    return RecordSet(
        tuple(
            Record(f"scene {index}", picture_of(scene, random.Random(index)), (listed(scene),))
            for index, scene in enumerate(scenes)
        )
    )


def told_by(model: mmlm.MultimodalLM, scenes: Sequence[Scene]) -> Reward:
    """The reward of drawings of scenes, by a model's captions of them."""
    named = {listed(scene): scene for scene in scenes}

    def judge(written: Sequence[Written]) -> list[float | None]:
        captions = model.caption([one.result.media[0] for one in written], max_new_tokens=96)
        return [share_right(str(text), named[one.text.answer]) for text, one in zip(captions, written, strict=True)]

    return judge


def share_right(caption: str, scene: Scene) -> float:
    """The share of a scene's things and its background that a caption names, less what it names wrongly; 0 to 1."""
    found, parts = judge_caption(caption, scene), len(scene.things) + 1
    if not found.understood:
        return 0.0
    wrong = max(len(found.wrong), len(found.missing)) + (found.background is not True)
    return max(0.0, 1 - wrong / parts)


def drawn_right(model: mmlm.MultimodalLM, scenes: Sequence[Scene]) -> float:
    """The share of scenes whose first drawing is right to the last attribute."""
    drawn = model.draw([listed(scene) for scene in scenes], seed=0, temperature=TEMPERATURE)
    return sum(read_right(drawn, scenes)) / len(scenes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--output", type=Path, default=Path("runs/align/drawings"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--judged", type=int, default=200, help="scenes of each kind that judge")
    parser.add_argument("--only", choices=("captions", "lot"))
    args = parser.parse_args()
    judged = {name: scenes_of(accept, args.judged, args.seed + 1000) for name, accept in JUDGED.items()}
    scenes = scenes_of(training_scene, args.steps * SETTINGS["batch_size"], args.seed)
    print(f"| drawn right | {' | '.join(judged)} |\n| --- |{' --- |' * len(judged)}", flush=True)

    def row(title: str, model: mmlm.MultimodalLM) -> None:
        print(f"| {title} | {' | '.join(f'{drawn_right(model, own):.1%}' for own in judged.values())} |", flush=True)

    row("before", mmlm.load(args.model))
    eyes = mmlm.load(args.model, codecs=None)
    for name, reward in (("captions", told_by(eyes, scenes)), ("lot", by_lot)):
        if args.only in (None, name):
            model = mmlm.load(args.model)
            place = args.output / f"{name}-{args.seed}"
            settings = {**SETTINGS, "seed": args.seed, "steps": args.steps, "progress": False}
            align(model, prompts(scenes), OBJECTIVE, rewards={name: reward}, output=place, **settings)
            row(f"after, rewarded by {name}", model)


if __name__ == "__main__":
    main()
