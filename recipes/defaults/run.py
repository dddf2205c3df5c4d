"""Which resampler and fusion learn most in equally many steps: the grid behind the defaults, on real frozen parts.

    python -m recipes.defaults.run sound                                   # Whisper base: digits and spoken orders
    python -m recipes.defaults.run pictures --eyes runs/flickr8k/image_encoder      # the CLIP of recipes/flickr8k
    python -m recipes.defaults.run sound --only "depth 0, stack 4" "depth 2, 64 latents" --steps 110

Both before SmolLM2-135M-Instruct. Each line of the table is a run with new adapters, on the same examples in the same
order; lines that are done are kept, and one that stopped goes on. Features of the encoders are computed once for all.
Figures are of the dev splits.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmlm import assemble, train
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data import Record, read_records
from mmlm.evaluation.gap import gap_of
from mmlm.evaluation.medium import match_scores
from mmlm.evaluation.trials import Trials, encoded
from mmlm.model.config import FusionConfig, ResamplerConfig
from mmlm.training import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("MMLM_DATA", ROOT / "../shared/data"))

EVERY = 3
FORMS = {
    **{f"depth 0, stack {stack}": (ResamplerConfig(depth=0, stack=stack), EVERY) for stack in (1, 2, 4, 8)},
    **{f"depth 2, {count} latents": (ResamplerConfig(depth=2, num_latents=count), EVERY) for count in (8, 32, 64)},
    "depth 6, 64 latents": (ResamplerConfig(), EVERY),
    **{f"depth 0, stack 4, every {n}": (ResamplerConfig(depth=0, stack=4), n) for n in (1, 2, 6)},
}
"""Resamplers, and before every how many-th block of the language model a gated one stands."""

SETS = {"sound": ("fsdd", "coffee_orders"), "pictures": ("flickr8k",)}
MODALITY = {"sound": "audio", "pictures": "image"}
PASSES = {"fsdd": 1, "coffee_orders": 2, "flickr8k": 1}
MEASURED = 150  # dev photographs, five captions each; of sound all
LONGEST = 20  # tokens of an answer
CONFIG = TrainConfig(steps=220, batch_size=16, learning_rate=1e-3, precision="auto", save_every=50, keep=1)
COLUMNS = ("form", "trained, millions", "loss, nats", "right medium is worth, nats", "exact match", "another medium")


def joined(medium: str, real: Path, eyes: Path | None, form: str) -> MultimodalLM:
    """SmolLM2 and the encoder of a medium, with new adapters of a form."""
    resampler, every = FORMS[form]
    own: dict[str, Any] = {"image_encoder": eyes, "resampler": resampler}
    if medium == "sound":
        own = {"audio_encoder": real / "whisper-base.pt", "audio_resampler": resampler}
    return assemble(real / "smollm2-135m-instruct", fusion=FusionConfig(cross_attention_every=every), **own)


def records(medium: str, split: str) -> list[Record]:
    """The examples of a medium."""
    return [
        record
        for name in SETS[medium]
        for _ in range(PASSES[name] if split == "train" else 1)
        for record in read_records(DATA / name / f"{split}-*.tar")
    ]


def figures(medium: str, model: MultimodalLM, dev: Sequence[Record]) -> dict[str, float | None]:
    """Figures of a line of the table; exact match is of answers and transcripts, which captions have none of."""
    features, _ = encoded(model, dev)
    trials = Trials(model, dev, features, MODALITY[medium])
    loss = gap_of(trials, resamples=1000)
    found: dict[str, float | None] = {"loss": loss.right, "gap": loss.gap, "right": None, "shuffled": None}
    if asked := trials.asked("transcript", "question"):
        right, wrong = (trials.written(asked, by, {"max_new_tokens": LONGEST}) for by in (trials.own, trials.wrong))
        exact = match_scores(right, wrong, [[one.text.answer] for one in asked])
        found |= {"right": exact.right, "shuffled": exact.shuffled}
    return found


def run(medium: str, form: str, steps: int, real: Path, eyes: Path | None, output: Path) -> dict[str, float | None]:
    """Trains and measures a form, or reads what it reached before."""
    folder = output / f"{medium}-{steps}" / form.replace(", ", "-").replace(" ", "")
    done = folder / "figures.json"
    if not done.exists():
        model = joined(medium, real, eyes, form)
        train(
            model, records(medium, "train"), output=folder, config=CONFIG, steps=steps, cache=str(output / "features")
        )
        dev = records(medium, "dev")
        found = figures(medium, model, dev[:MEASURED] if medium == "pictures" else dev)
        found["millions"] = sum(tensor.numel() for _, tensor in model.added_parameters()) / 1e6
        done.write_text(json.dumps(found, indent=2) + "\n")
        for weights in ("checkpoints", "model"):  # a gigabyte a form
            shutil.rmtree(folder / weights)
    return json.loads(done.read_text())


def line(form: str, found: dict[str, float | None]) -> str:
    """A line of the table."""
    shares = ("-" if (share := found[name]) is None else f"{share:.1%}" for name in ("right", "shuffled"))
    numbers = (f"{found['millions']:.1f}", f"{found['loss']:.3f}", f"{found['gap']:.3f}")
    return "| " + " | ".join((form, *numbers, *shares)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("medium", choices=SETS)
    parser.add_argument("--real", type=Path, default=os.environ.get("MMLM_REAL"), help="the folder with real weights")
    parser.add_argument("--eyes", type=Path, help="the CLIP, for pictures")
    parser.add_argument("--only", nargs="+", choices=FORMS, default=list(FORMS), metavar="FORM")
    parser.add_argument("--steps", type=int, default=CONFIG.steps)
    parser.add_argument("--output", type=Path, default=ROOT / "runs/defaults", help="the runs' folder")
    arguments = parser.parse_args()
    if arguments.real is None:
        parser.error("name the folder with whisper-base.pt and smollm2-135m-instruct: --real FOLDER, or MMLM_REAL")
    if arguments.medium == "pictures" and arguments.eyes is None:
        parser.error("name the CLIP that sees the pictures: --eyes FOLDER")
    print(f"{arguments.medium}, {arguments.steps} steps of {CONFIG.batch_size} examples")
    print("| " + " | ".join(COLUMNS) + " |\n" + "| --- " * len(COLUMNS) + "|")
    for form in arguments.only:
        shown = (arguments.medium, form, arguments.steps, arguments.real, arguments.eyes, arguments.output)
        print(line(form, run(*shown)), flush=True)


if __name__ == "__main__":
    main()
