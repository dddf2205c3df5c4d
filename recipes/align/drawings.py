"""GRPO on nano's drawings, rewarded by what nano sees in them, and a control: `python -m recipes.align.drawings`.

nano draws each of some scenes several times, and captions what it has drawn. A drawing whose caption tells the scene to
the last attribute earns 1. Half of the scenes are of training; half have one of five colour-shape pairs that no picture
has ever shown it, so that drawings of these are its own alone. Only what writes codes trains: captions and answers stay
as they are. Judged by the judge of pixels (`recipes/nano/sight.py`), which gave no reward, on other layouts, on other
scenes with these five pairs, and on scenes with five pairs that were neither shown nor practised.
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
from recipes.nano.scenes import UNSEEN_PAIRS, Scene, sample_scene, training_scene, unseen_layout
from recipes.nano.wording import listed

PRACTISED = frozenset(sorted(UNSEEN_PAIRS)[::2])
OBJECTIVE = GrpoConfig(writes="image", generations=8, temperature=0.5)
SETTINGS = dict(batch_size=8, learning_rate=1e-4, save_every=20, eval_every=10_000, log_every=5, keep_best=False)


def with_pair(pairs: frozenset[tuple[str, str]]) -> Callable[[Scene], bool]:
    """Scenes with one of some unseen pairs, and with no other unseen pair."""

    def accept(scene: Scene) -> bool:
        shown = {(thing.kind.colour, thing.kind.shape) for thing in scene.things} & UNSEEN_PAIRS
        return bool(shown) and shown <= pairs

    return accept


JUDGED = {
    "unseen layouts": unseen_layout,
    "practised pairs": with_pair(PRACTISED),
    "unpractised pairs": with_pair(UNSEEN_PAIRS - PRACTISED),
}


def scenes_of(accept: Callable[[Scene], bool], count: int, seed: int) -> list[Scene]:
    """Scenes of a kind."""
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
    """The reward of drawings of scenes, by a model's captions of them: 1 where nothing is wrong, else 0."""
    named = {listed(scene): scene for scene in scenes}

    def judge(written: Sequence[Written]) -> list[float | None]:
        captions = model.caption([one.result.media[0] for one in written], max_new_tokens=96, batch_size=64)
        pairs = zip(captions, written, strict=True)
        return [float(judge_caption(str(text), named[one.text.answer]).correct) for text, one in pairs]

    return judge


def drawn_right(model: mmlm.MultimodalLM, scenes: Sequence[Scene]) -> float:
    """The share of scenes whose first drawing is right to the last attribute."""
    drawn = model.draw([listed(scene) for scene in scenes], seed=0, temperature=TEMPERATURE)
    return sum(read_right(drawn, scenes)) / len(scenes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="a preset or a folder")
    parser.add_argument("--output", type=Path, default=Path("runs/align/drawings"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--judged", type=int, default=200, help="scenes of each kind that judge")
    parser.add_argument("--only", choices=("captions", "lot"))
    args = parser.parse_args()
    judged = {name: scenes_of(accept, args.judged, args.seed + 1000) for name, accept in JUDGED.items()}
    half = args.steps * SETTINGS["batch_size"] // 2
    kinds = [scenes_of(accept, half, args.seed) for accept in (training_scene, JUDGED["practised pairs"])]
    scenes = [scene for pair in zip(*kinds, strict=True) for scene in pair]
    print(f"| drawn right | {' | '.join(judged)} |\n| --- |{' --- |' * len(judged)}", flush=True)

    def row(title: str, model: mmlm.MultimodalLM) -> None:
        print(f"| {title} | {' | '.join(f'{drawn_right(model, own):.1%}' for own in judged.values())} |", flush=True)

    row("before", mmlm.load(args.model))
    eyes = mmlm.load(args.model, codecs=None)
    for name, reward in (("captions", told_by(eyes, scenes)), ("lot", by_lot)):
        if args.only in (None, name):
            model, place = mmlm.load(args.model), args.output / f"{name}-{args.seed}"
            settings = {**SETTINGS, "seed": args.seed, "steps": args.steps, "progress": False}
            align(model, prompts(scenes), OBJECTIVE, rewards={name: reward}, output=place, **settings)
            row(f"after, rewarded by {name}", model)


if __name__ == "__main__":
    main()
