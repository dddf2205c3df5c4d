"""GRPO on what nano draws, by what nano sees in it: `python -m recipes.align.drawings --seed 0`.

Texts of training scenes are drawn, several times each. What earns is how much of the text nano's own caption of the
drawing names, and nothing else (`recipes/nano/judge.py`); in the control a lot decides. Judged by pixels
(`recipes/nano/sight.py`), which earned nothing: texts of layouts that training never draws, and of colour-shape pairs
that no picture in training has; and by sight of drawings at the temperature of docs/nano.md.
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
from recipes.nano.judge import Judgement, judge_caption
from recipes.nano.scenes import Scene, sample_scene, training_scene, unseen_layout, unseen_pair
from recipes.nano.wording import listed

GRPO = dict(batch_size=8, learning_rate=1e-4, eval_every=10**6, save_every=50)
TITLES: dict[str, Callable[[Scene], bool]] = {"unseen layouts": unseen_layout, "unseen pairs": unseen_pair}


def drawings(
    output: Path, seed: int, scenes: int, steps: int, count: int, generations: int, temperature: float
) -> None:
    """A row of the table each: nano as it is, after GRPO, and after rewards by lot."""
    held = {title: some_scenes(count, accept, seed + 1000) for title, accept in TITLES.items()}
    asked = some_scenes(scenes, training_scene, seed)
    data = RecordSet(
        tuple(
            Record(f"scene {index}", picture_of(scene, random.Random(index)), (listed(scene),))
            for index, scene in enumerate(asked)
        )
    )
    objective = GrpoConfig(writes="image", generations=generations, temperature=temperature)
    print(f"| GRPO on drawings | {' | '.join(held)} |\n| --- |{' --- |' * len(held)}")
    for name, reward in ((None, None), ("GRPO", seen(mmlm.load("nano"), asked)), ("GRPO, by lot", by_lot)):
        model = mmlm.load("nano")
        if name is not None and reward is not None:
            place = output / f"drawings{'-by-lot' * (reward is by_lot)}-{seed}"
            align(model, data, objective, rewards={"seen": reward}, output=place, seed=seed, steps=steps, **GRPO)
        found = [f"{right(model, own):.1%}" for own in held.values()]
        print(f"| {name or 'before'} | {' | '.join(found)} |", flush=True)


def some_scenes(count: int, accept: Callable[[Scene], bool], seed: int) -> list[Scene]:
    return [sample_scene(random.Random(f"{seed} drawn {index}"), accept) for index in range(count)]


def seen(model: mmlm.MultimodalLM, scenes: Sequence[Scene]) -> Reward:
    """How much of its text a model that does not learn sees in a drawing, from 0 to 1."""
    asked = {listed(scene): scene for scene in scenes}

    def judge(written: Sequence[Written]) -> list[float]:
        said = model.caption([one.result.media[0] for one in written], batch_size=32)
        scenes = [asked[one.text.answer] for one in written]
        return [worth(judge_caption(str(own), scene), scene) for own, scene in zip(said, scenes, strict=True)]

    return judge


def worth(judgement: Judgement, scene: Scene) -> float:
    """Half of it for the share of things that are right, among all that were seen or should have been; half for all."""
    if not judgement.understood:
        return 0.0
    named = len(scene.things) - len(judgement.missing)
    return 0.5 * named / (len(scene.things) + len(judgement.wrong)) + 0.5 * judgement.correct


def right(model: mmlm.MultimodalLM, scenes: Sequence[Scene]) -> float:
    """The share of scenes that are drawn with every attribute right, by their pixels."""
    drawn = [model.draw(listed(scene), seed=index, temperature=TEMPERATURE) for index, scene in enumerate(scenes)]
    return sum(read_right(drawn, scenes)) / len(scenes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/align"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=2000, help="whose texts are drawn")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--count", type=int, default=200, help="scenes of each kind that judge")
    parser.add_argument("--generations", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=0.5)
    args = parser.parse_args()
    drawings(args.output, args.seed, args.scenes, args.steps, args.count, args.generations, args.temperature)


if __name__ == "__main__":
    main()
