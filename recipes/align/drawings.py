"""DPO on nano's drawings, which nano itself has judged, beside a control by lot: `python -m recipes.align.drawings`.

nano draws each of some scenes several times, and captions what it has drawn. A drawing whose caption tells the scene to
the last attribute is preferred to one of the same scene whose caption does not. Half of the scenes are of training;
half have one of five colour-shape pairs that no picture has ever shown it, so that drawings of these are its own alone.
Only what writes codes trains: captions and answers stay as they are. Judged by the judge of pixels
(`recipes/nano/sight.py`), which labelled nothing, on other layouts, on other scenes with these five pairs, and on
scenes with five pairs that were neither shown nor practised. The control's preferences are drawn by lot.
"""

from __future__ import annotations

import argparse
import io
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

import mmlm
from mmlm.data import Record, RecordSet
from mmlm.training.align import align
from mmlm.training.alignment.config import PreferenceConfig
from recipes.nano.drawing import TEMPERATURE, read_right
from recipes.nano.judge import judge_caption
from recipes.nano.scenes import UNSEEN_PAIRS, Scene, sample_scene, training_scene, unseen_layout
from recipes.nano.wording import listed

PRACTISED = frozenset(sorted(UNSEEN_PAIRS)[::2])
DRAWN, DRAWN_AT = 4, 0.3  # drawings of a scene that are judged, and their temperature
OBJECTIVE = PreferenceConfig(beta=0.1, sft=0.1)
SETTINGS = dict(batch_size=8, learning_rate=1e-4, save_every=1000, eval_every=100_000, log_every=5, keep_best=False)


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


def preferences(model: mmlm.MultimodalLM, scenes: Sequence[Scene], seed: int) -> RecordSet:
    """Drawings of scenes that nano reads rightly, each preferred to one that it does not."""
    records = []
    drawn = model.draw([listed(scene) for scene in scenes], DRAWN, seed=seed, temperature=DRAWN_AT)
    told = map(str, model.caption([picture for several in drawn for picture in several], max_new_tokens=96))
    for number, (scene, several) in enumerate(zip(scenes, drawn, strict=True)):
        seen = [judge_caption(next(told), scene).correct for _ in several]
        right, wrong = ([as_png(own) for own, good in zip(several, seen, strict=True) if good is kind]
                        for kind in (True, False))  # fmt: skip
        for index, (better, worse) in enumerate(zip(right, wrong, strict=False)):
            records.append(Record(f"{number}-{index}", better, (listed(scene),), rejected=worse))
    return RecordSet(tuple(records))


def as_png(picture: Image.Image) -> bytes:
    """A picture as a file."""
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def by_lot(records: RecordSet, seed: int) -> RecordSet:
    """The same pairs; which is preferred is drawn by lot."""

    def drawn(record: Record) -> Record:
        swapped = random.Random(f"{seed} lot {record.key}").random() < 0.5
        return replace(record, source=record.rejected, rejected=record.source) if swapped else record

    return RecordSet(tuple(map(drawn, records.records)))


def drawn_right(model: mmlm.MultimodalLM, scenes: Sequence[Scene]) -> float:
    """The share of scenes whose first drawing is right to the last attribute."""
    drawn = model.draw([listed(scene) for scene in scenes], seed=0, temperature=TEMPERATURE)
    return sum(read_right(drawn, scenes)) / len(scenes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--output", type=Path, default=Path("runs/align/drawings"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=1200, help="that are drawn and judged")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--judged", type=int, default=200, help="scenes of each kind that judge")
    args = parser.parse_args()
    judged = {name: scenes_of(accept, args.judged, args.seed + 1000) for name, accept in JUDGED.items()}
    print(f"| drawn right | {' | '.join(judged)} |\n| --- |{' --- |' * len(judged)}", flush=True)

    def row(title: str, model: mmlm.MultimodalLM) -> None:
        print(f"| {title} | {' | '.join(f'{drawn_right(model, own):.1%}' for own in judged.values())} |", flush=True)

    model = mmlm.load(args.model)
    row("before", model)
    practised = [scenes_of(own, args.scenes // 2, args.seed) for own in (training_scene, JUDGED["practised pairs"])]
    data = preferences(model, [scene for pair in zip(*practised, strict=True) for scene in pair], args.seed)
    for name, records in (("preferences", data), ("by lot", by_lot(data, args.seed))):
        model, place = mmlm.load(args.model), args.output / f"{name.replace(' ', '-')}-{args.seed}"
        align(model, records, OBJECTIVE, output=place, seed=args.seed, steps=args.steps, progress=False, **SETTINGS)
        row(f"after {args.steps} steps, {len(records)} pairs, {name}", model)


if __name__ == "__main__":
    main()
