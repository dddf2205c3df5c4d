"""DPO, a reward model, GRPO and PPO on nano, each beside a control: `python -m recipes.align.proof`.

DPO: captions of training scenes, preferred to the same words with one attribute wrong; the control's preferences are
drawn by lot. Judged, on scenes with a colour-shape pair that training never shows, by whether the right caption is the
likelier one, by nano's own captions (`recipes/nano/judge.py`, which no training saw), and by its plain loss.
A reward model of the same pairs, judged by how often it tells the better caption of the other scenes.
Signals: a question that nano does not know, "signal?", is to be answered by the colour of the one thing in the picture;
by DPO, with another colour as the worse answer, and by GRPO and PPO, with exact match as the reward. In the controls
the lot decides which colour is the better one, and what an answer earns. Judged by greedy answers about other pictures.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import mmlm
from mmlm.data import RecordSet
from mmlm.training.align import align
from mmlm.training.alignment.config import GrpoConfig, PpoConfig, PreferenceConfig, RewardConfig, RolloutConfig
from mmlm.training.alignment.rewards import Written
from recipes.align.scenes import caption_pairs, signals
from recipes.nano.judge import judge_caption
from recipes.nano.scenes import Scene, training_scene, unseen_pair

DPO = dict(steps=40, batch_size=8, learning_rate=1e-4, eval_every=1000, save_every=1000)
REWARD = dict(steps=800, batch_size=8, learning_rate=3e-4, eval_every=1000, save_every=1000)
SIGNALS = {
    "DPO": (PreferenceConfig(), dict(steps=60, batch_size=8)),
    "GRPO": (
        GrpoConfig(generations=16, max_new_tokens=4, rewards={"exact_match": 1.0}),
        dict(steps=100, batch_size=4),
    ),
    "PPO": (
        PpoConfig(max_new_tokens=4, beta=0.01, rewards={"exact_match": 1.0}),
        dict(steps=120, batch_size=32),
    ),
}


def by_lot(written: Sequence[Written]) -> list[float]:
    """A reward that has nothing to do with what was written."""
    keys = (f"{number} {one.record.key} {one.result.log_probs}" for number, one in enumerate(written))
    return [float(random.Random(key).random() < 0.5) for key in keys]


def captions_right(model: mmlm.MultimodalLM, records: RecordSet, scenes: Sequence[Scene]) -> float:
    """The share of the model's own captions in which nothing is wrong or missing."""
    written = [str(text) for text in model.caption([record.image for record in records], max_new_tokens=96)]
    return sum(judge_caption(text, scene).correct for text, scene in zip(written, scenes, strict=True)) / len(scenes)


def last_figures(folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """The first and the last figures of what was held out."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    held = [line for line in lines if any(name.startswith("held_out") for name in line)]
    return held[0], held[-1]


def prefer(output: Path, seed: int, count: int) -> None:
    """DPO and its control, a row of the table each."""
    held, scenes = caption_pairs(count // 2, unseen_pair, seed + 1000)
    print("| DPO on captions | right one likelier | own captions right | nats a token |\n| --- | --- | --- | --- |")
    for name, lot in (("preferences", False), ("by lot", True)):
        data, _ = caption_pairs(count, training_scene, seed, lot)
        model, place = mmlm.load("nano"), output / f"dpo-{name.replace(' ', '-')}-{seed}"
        before = captions_right(model, held, scenes)
        align(model, data, PreferenceConfig(), held_out=held, output=place, seed=seed, progress=False, **DPO)
        first, last = last_figures(place)
        rows = {"before": (first, before), f"after, {name}": (last, captions_right(model, held, scenes))}
        for title, (figures, right) in list(rows.items())[lot:]:
            accuracy, nats = figures["held_out_accuracy"], figures["held_out_nats"]
            print(f"| {title} | {accuracy:.1%} | {right:.1%} | {nats:.3f} |", flush=True)


def judge(output: Path, seed: int, count: int) -> None:
    """A reward model of such pairs of captions, eight times as many, and its control."""
    held, _ = caption_pairs(count // 2, unseen_pair, seed + 1000)
    print("| reward model on captions | better one told |\n| --- | --- |")
    for name, lot in (("preferences", False), ("by lot", True)):
        data, _ = caption_pairs(8 * count, training_scene, seed, lot)
        place = output / f"reward-{name.replace(' ', '-')}-{seed}"
        align(mmlm.load("nano"), data, RewardConfig(), held_out=held, output=place, seed=seed, progress=False, **REWARD)
        first, last = last_figures(place)
        for title, figures in [("before", first), (f"after, {name}", last)][lot:]:
            print(f"| {title} | {figures['held_out_accuracy']:.1%} |", flush=True)


def signal(name: str, output: Path, seed: int, count: int) -> None:
    """An objective on signals, and its control."""
    held = signals(200, seed + 1000)
    print('| "signal?" | before | after | after, by lot |\n| --- | --- | --- | --- |')
    (objective, settings), found = SIGNALS[name], []
    for lot in (False, True):
        model = mmlm.load("nano")
        if not found:
            found.append(exact(model, held))
        place = output / f"{name}{'-by-lot' * lot}-{seed}"
        rewards = None
        if lot and isinstance(objective, RolloutConfig):
            objective, rewards = replace(objective, rewards={}), {"lot": by_lot}
        settings = {"learning_rate": 3e-4, "save_every": 1000, **settings}
        data = signals(count, seed, lot and rewards is None)
        align(model, data, objective, rewards=rewards, output=place, seed=seed, progress=False, **settings)
        found.append(exact(model, held))
    print(f"| {name} | {' | '.join(f'{own:.1%}' for own in found)} |", flush=True)


def exact(model: mmlm.MultimodalLM, records: RecordSet) -> float:
    """The share of greedy answers that are those of the records."""
    asked = [record.qa[0] for record in records]
    said = model.answer([record.image for record in records], [question for question, _ in asked], max_new_tokens=4)
    return sum(str(own).strip() == answer for own, (_, answer) in zip(said, asked, strict=True)) / len(asked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/align"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=400, help="that are learned from")
    parser.add_argument("--only", choices=("captions", "judge", *SIGNALS))
    args = parser.parse_args()
    for name, work in {"captions": prefer, "judge": judge, **{name: partial(signal, name) for name in SIGNALS}}.items():
        if args.only in (None, name):
            work(args.output, args.seed, args.scenes)


if __name__ == "__main__":
    main()
