"""Cross-attention and prefix on the same examples, for as many steps: the table of docs/concepts.md.

    python -m recipes.fusions.run scenes                          # nano's frozen parts, drawn scenes: minutes
    python -m recipes.fusions.run flickr8k --eyes runs/flickr8k/image_encoder       # before SmolLM2-135M-Instruct
    python -m recipes.fusions.run scenes --steps 20 --output /tmp/try

Each line of the table is a run with new adapters; lines that are done are kept, and one that stopped goes on. Features
of the encoder are computed once for all. Figures are of held-out pictures. The speed is of a loss with its gradient,
in tokens of the texts, so that it compares: a picture's places in a prefix are not counted. It is in seconds of the
processor, so that other programs make no difference; a GPU is measured by the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from mmlm import assemble, train
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data import Record, read_records
from mmlm.evaluation.gap import gap_of
from mmlm.evaluation.medium import match_scores
from mmlm.evaluation.trials import Trials, encoded
from mmlm.model.config import FusionConfig, LoraConfig, ResamplerConfig
from mmlm.training import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("MMLM_DATA", ROOT / "../shared/data"))
SCENES = {"train": 6000, "dev": 300}  # pictures that are drawn
MEASURED = 100  # held-out pictures
TIMED = 5  # losses with their gradients, of which the fastest counts
LONGEST = 20  # tokens of an answer

TOKENS = ResamplerConfig(depth=0)
JOINED = ResamplerConfig(depth=0, stack=4)
PREFIX = FusionConfig(kind="prefix")
NONE, LORA = LoraConfig(rank=0), LoraConfig(rank=32, alpha=64.0, reads=True)
SMALL, LARGE = FusionConfig(heads=8, dim_head=32), FusionConfig(cross_attention_every=3)
FORMS = {
    "scenes": {
        "cross-attention, every token": (TOKENS, SMALL, NONE),
        "prefix, every token": (TOKENS, PREFIX, NONE),
        "prefix, 4 tokens in one": (JOINED, PREFIX, NONE),
        "prefix, every token, LoRA": (TOKENS, PREFIX, LORA),
    },
    "flickr8k": {
        "cross-attention, every token": (TOKENS, LARGE, NONE),
        "prefix, every token": (TOKENS, PREFIX, NONE),
        "prefix, 4 tokens in one": (JOINED, PREFIX, NONE),
        "prefix, every token, LoRA": (TOKENS, PREFIX, LORA),
    },
}
"""By the data, resamplers, fusions and LoRA."""

CONFIGS = {
    "scenes": TrainConfig(
        steps=200, batch_size=32, learning_rate=4e-3, optimizer="muon", caption_share=0.3, save_every=100, keep=1
    ),
    "flickr8k": TrainConfig(steps=220, batch_size=16, learning_rate=1e-3, precision="auto", save_every=50, keep=1),
}
COLUMNS = (
    "form", "trained, millions", "loss, nats", "right picture is worth, nats", "exact match", "another picture",
    "tokens per second",
)  # fmt: skip


def joined(data: str, form: str, real: Path | None, eyes: Path | None) -> MultimodalLM:
    """The frozen parts for some data, with new adapters of a form."""
    resampler, fusion, lora = FORMS[data][form]
    if data == "scenes":
        parts: tuple[Any, Any] = "preset:nano/language_model", "preset:nano/image_encoder"
    else:
        assert real is not None and eyes is not None, "the command line has asked for them"
        parts = real / "smollm2-135m-instruct", eyes
    return assemble(*parts, resampler=resampler, fusion=fusion, lora=lora)


def records(data: str, split: str, output: Path) -> list[Record]:
    """The examples of a split."""
    folder = DATA / data
    if data == "scenes":
        from recipes.nano.data import write_scenes

        folder = output / "scenes"
        write_scenes(folder, SCENES, seed=0)
    return list(read_records(folder / f"{split}-*.tar"))


def figures(model: MultimodalLM, dev: list[Record]) -> dict[str, float | None]:
    """Figures of a line; exact match is of answers, which captions have none of."""
    features, _ = encoded(model, dev)
    trials = Trials(model, dev, features, "image")
    loss = gap_of(trials, resamples=1000)
    found: dict[str, float | None] = {"loss": loss.right, "gap": loss.gap, "right": None, "shuffled": None}
    found["millions"] = sum(tensor.numel() for _, tensor in model.added_parameters()) / 1e6
    found["speed"] = speed(model, trials)
    if asked := trials.asked("question"):
        right, wrong = (trials.written(asked, by, {"max_new_tokens": LONGEST}) for by in (trials.own, trials.wrong))
        exact = match_scores(right, wrong, [[one.text.answer] for one in asked])
        found |= {"right": exact.right, "shuffled": exact.shuffled}
    return found


def speed(model: MultimodalLM, trials: Trials) -> float:
    """Tokens of texts per second of training, on 32 texts."""
    clock = process_time if model.device.type == "cpu" else perf_counter
    examples = [model.processor.encode(trials.prompt(one, trials.own), one.text.answer) for one in trials.asked()[:32]]
    batch, media = model.processor.collate(examples), [[part.source for part in own.media] for own in examples]
    seconds = []
    for _ in range(TIMED):
        begun = clock()
        loss = model(batch, media).loss
        assert loss is not None, "the examples have answers"
        loss.backward()
        float(loss.detach())  # waits for a GPU
        seconds.append(clock() - begun)
    model.zero_grad()
    return sum(len(example.input_ids) for example in examples) / min(seconds)


def run(data: str, form: str, steps: int, output: Path, real: Path | None, eyes: Path | None) -> dict[str, Any]:
    """Trains and measures a form, or reads what it reached before."""
    folder = output / f"{data}-{steps}" / form.replace(", ", "-").replace(" ", "_")
    done = folder / "figures.json"
    if not done.exists():
        model = joined(data, form, real, eyes)
        own = {"config": CONFIGS[data], "steps": steps, "cache": str(output / "features")}
        train(model, records(data, "train", output), output=folder, **own)
        found = figures(model, records(data, "dev", output)[:MEASURED])
        done.write_text(json.dumps(found, indent=2) + "\n")
        for weights in ("checkpoints", "model"):
            shutil.rmtree(folder / weights)
    return json.loads(done.read_text())


def line(form: str, found: dict[str, Any]) -> str:
    """A line of the table."""
    shares = ("-" if (share := found[name]) is None else f"{share:.1%}" for name in ("right", "shuffled"))
    numbers = (f"{found['millions']:.2f}", f"{found['loss']:.3f}", f"{found['gap']:.3f}")
    return "| " + " | ".join((form, *numbers, *shares, f"{found['speed']:,.0f}")) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=FORMS)
    parser.add_argument("--real", type=Path, default=os.environ.get("MMLM_REAL"), help="the folder with real weights")
    parser.add_argument("--eyes", type=Path, help="the CLIP that sees photographs")
    parser.add_argument("--only", nargs="+", metavar="FORM", help="lines of the table")
    parser.add_argument("--steps", type=int, help="of each run")
    parser.add_argument("--output", type=Path, default=ROOT / "runs/fusions", help="the runs' folder")
    given = parser.parse_args()
    if given.data == "flickr8k" and (given.real is None or given.eyes is None):
        parser.error("name the frozen parts: --real FOLDER or MMLM_REAL, with smollm2-135m-instruct, and --eyes CLIP")
    config = CONFIGS[given.data]
    steps = given.steps or config.steps
    assert steps is not None, "both configs count steps"
    print(f"{given.data}, {steps} steps of {config.batch_size} examples")
    print("| " + " | ".join(COLUMNS) + " |\n" + "| --- " * len(COLUMNS) + "|")
    for form in given.only or FORMS[given.data]:
        print(line(form, run(given.data, form, steps, given.output, given.real, given.eyes)), flush=True)


if __name__ == "__main__":
    main()
