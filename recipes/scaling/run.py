"""Adapters of several sizes by data of several sizes by steps, the law of their losses, and how well it tells ahead.

    python -m recipes.scaling.run                 # 27 runs and a larger one
    python -m recipes.scaling.run --trial         # two sizes, few steps: whether it runs, not what it finds

New adapters between nano's frozen parts, on drawn scenes. The loss is that of held-out scenes, in nats per answer
token. Smaller data are the first pictures of larger ones, and every run has its whole schedule of the learning rate.
Finished runs are kept, and one that stopped goes on. Two laws are fitted: Chinchilla's, over parameters and the
examples that were read, each as good as new; and one that counts pictures and steps by themselves, since pictures are
read several times. The largest run is larger than all others in size, pictures and steps, and no fit sees it: the error
of what the laws say of it stands beside that of the best loss among the runs that were fitted. `study.json` has every
number.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmlm import assemble, train
from mmlm.data import RecordSet, read_records
from mmlm.model.config import FusionConfig, ResamplerConfig
from mmlm.training import TrainConfig
from recipes.nano.data import write_scenes
from recipes.scaling.law import Fit, fit_law
from recipes.scaling.plots import plot_law

ROOT = Path(__file__).resolve().parents[2]
CONFIG = TrainConfig(
    steps=1, batch_size=32, learning_rate=4e-3, optimizer="muon", caption_share=0.3, eval_every=10**6, save_every=200,
    keep=1, keep_best=False, held_out_examples=10**6,
)  # fmt: skip
LAWS = {"chinchilla": ("parameters", "examples"), "repeated": ("parameters", "pictures", "steps")}
"""Laws by the axes that they are over."""
RESAMPLES = 400


@dataclass(frozen=True)
class Run:
    """A run of the grid. width: heads of each gated block; the other sizes grow with it."""

    width: int
    pictures: int
    steps: int

    @property
    def name(self) -> str:
        return f"width{self.width}-pictures{self.pictures}-steps{self.steps}"


@dataclass(frozen=True)
class Study:
    """Which runs there are. The largest is not among the others. held_out: scenes that judge."""

    widths: tuple[int, ...] = (2, 4, 8)
    pictures: tuple[int, ...] = (1500, 3000, 6000)
    steps: tuple[int, ...] = (400, 800, 1600)  # as far as the loss no longer falls as one over the steps
    largest: Run = Run(16, 12000, 3200)
    batch_size: int = 8
    held_out: int = 500

    def runs(self) -> list[Run]:
        """All but the largest, the short ones first."""
        return [Run(width, count, steps) for steps in self.steps for count in self.pictures for width in self.widths]


TRIAL = Study((2, 4), (16, 32), (2, 4), Run(8, 64, 8), batch_size=4, held_out=16)


@dataclass(frozen=True)
class Reached:
    """What a run reached. loss: held out, in nats per answer token. examples: that were read."""

    run: Run
    parameters: int
    examples: int
    loss: float

    def axes(self, names: Sequence[str]) -> list[float]:
        values = {"parameters": self.parameters, "examples": self.examples, **asdict(self.run)}
        return [float(values[name]) for name in names]


def reach(run: Run, study: Study, output: Path, seed: int) -> Reached:
    """Trains new adapters, or reads what a finished run reached."""
    folder = output / "runs" / f"{run.name}-batch{study.batch_size}-seed{seed}"
    done = folder / "reached.json"
    if not done.exists():
        training, held_out = scenes(study, output)
        model = assemble(
            "preset:nano/language_model",
            "preset:nano/image_encoder",
            resampler=ResamplerConfig(depth=0),
            fusion=FusionConfig(heads=run.width, dim_head=32, ff_mult=run.width // 2),
            seed=seed,
        )
        parameters = sum(tensor.numel() for _, tensor in model.added_parameters())
        own: dict[str, Any] = dict(steps=run.steps, batch_size=study.batch_size, seed=seed)
        found = train(
            model, RecordSet(training.records[: run.pictures]), held_out=held_out, output=folder, config=CONFIG,
            cache=str(output / "features"), progress=False, **own,
        )  # fmt: skip
        reached = Reached(run, parameters, run.steps * study.batch_size, found.figures["held_out_loss"])
        write_json(done, asdict(reached))
        for weights in ("checkpoints", "model"):
            shutil.rmtree(folder / weights)
    own = json.loads(done.read_text())
    return Reached(**{**own, "run": Run(**own["run"])})


def scenes(study: Study, output: Path) -> tuple[RecordSet, RecordSet]:
    """Scenes to learn from, as many as the largest run reads, and others."""
    folder = output / f"scenes-{study.largest.pictures}"
    write_scenes(folder, {"train": study.largest.pictures, "dev": study.held_out}, seed=0)
    return read_records(folder / "train-*.tar"), read_records(folder / "dev-*.tar")


def write_json(path: Path, value: Any) -> None:
    """Writes it next to its place, then moves it there."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    partial.replace(path)


def fitted(
    names: Sequence[str], runs: Sequence[Reached], largest: Reached, seed: int, resamples: int
) -> tuple[Fit, dict[str, Any]]:
    """A law of the runs, and its numbers with 95% intervals; the largest run is compared, not fitted."""
    fit = fit_law([own.axes(names) for own in runs], [own.loss for own in runs], resamples=resamples, seed=seed)
    place, truth = [largest.axes(names)], largest.loss

    def told(number: Callable[[Any], float]) -> dict[str, Any]:
        return {"value": number(fit.law), "interval": fit.interval([number(law) for law in fit.resampled])}

    predicted = told(lambda law: float(law(place)[0]))
    return fit, {
        "axes": list(names),
        "floor": told(lambda law: law.floor),
        "scales": [told(lambda law, k=k: law.scales[k]) for k in range(len(names))],
        "exponents": [told(lambda law, k=k: law.exponents[k]) for k in range(len(names))],
        "mean_error_of_the_fit": float(
            sum(abs(fit.law([own.axes(names)])[0] / own.loss - 1) for own in runs) / len(runs)
        ),
        "largest": {**predicted, "measured": truth, "error": predicted["value"] / truth - 1},
    }


def study_of(
    study: Study, output: Path, seed: int, reach: Callable[..., Reached] = reach, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Runs what is missing, fits the laws, and writes `study.json` and a plot of each law."""
    runs = []
    for number, run in enumerate(study.runs(), 1):
        runs.append(reach(run, study, output, seed))
        print(f"{number}/{len(study.runs())} {run.name}: {runs[-1].loss:.4f} nats", flush=True)
    largest = reach(study.largest, study, output, seed)
    print(f"largest {study.largest.name}: {largest.loss:.4f} nats", flush=True)
    laws = {}
    for name, axes in LAWS.items():
        fit, laws[name] = fitted(axes, runs, largest, seed, resamples)
        places = [own.axes(axes) for own in (*runs, largest)]
        plot_law(fit, axes, places, [own.loss for own in runs], largest.loss, output / f"{name}.png")
    best = min(own.loss for own in runs)
    found = {
        "study": asdict(study),
        "seed": seed,
        "runs": [asdict(own) for own in runs],
        "largest": asdict(largest),
        "laws": laws,
        "best_that_was_fitted": {"value": best, "error": best / largest.loss - 1},
    }
    write_json(output / "study.json", found)
    return found


def table(found: dict[str, Any]) -> str:
    """The laws and what they say of the largest run."""

    def told(own: dict[str, Any]) -> str:
        return f"{own['value']:.3g} [{own['interval'][0]:.3g}, {own['interval'][1]:.3g}]"

    lines = ["| law over | floor, nats | exponents | largest run, told | measured | error |", "| --- " * 6 + "|"]
    for law in found["laws"].values():
        own = law["largest"]
        names = ", ".join(law["axes"])
        exponents = "; ".join(map(told, law["exponents"]))
        numbers = f"{told(own)} | {own['measured']:.3g} | {own['error']:+.1%}"
        lines.append(f"| {names} | {told(law['floor'])} | {exponents} | {numbers} |")
    best, measured = found["best_that_was_fitted"], found["largest"]["loss"]
    lines.append(f"| none: the best of the others | | | {best['value']:.3g} | {measured:.3g} | {best['error']:+.1%} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trial", action="store_true", help="a small grid of short runs")
    parser.add_argument("--output", type=Path, help="the folder of runs (default: runs/scaling, or runs/scaling-trial)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of adapters, of the order of examples and of the resamples"
    )
    given = parser.parse_args()
    output = given.output or ROOT / ("runs/scaling-trial" if given.trial else "runs/scaling")
    output.mkdir(parents=True, exist_ok=True)
    print(table(study_of(TRIAL if given.trial else Study(), output, given.seed)))
    print(f"every number: {output / 'study.json'}; plots: {', '.join(f'{name}.png' for name in LAWS)}")


if __name__ == "__main__":
    main()
