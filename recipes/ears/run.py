"""Ears for a real language model: adapters between Whisper base and SmolLM2-135M-Instruct, both frozen.

    python -m recipes.ears.run                       # every stage; what is done is skipped, what stopped goes on
    python -m recipes.ears.run --stages evaluate     # one stage

The adapters learn spoken digits (fsdd), questions about spoken orders whose words nobody wrote down (coffee_orders) and
sentences of learners (speechocean), from the train splits alone. MMLM_REAL names the folder with `whisper-base.pt` and
`smollm2-135m-instruct/`, MMLM_DATA that with the sets.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from mmlm import assemble, load, train
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data import RecordSet, read_records
from mmlm.evaluation import MediumReport, evaluate
from mmlm.model.config import FusionConfig, ResamplerConfig
from mmlm.training import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("MMLM_DATA", ROOT / "../shared/data"))

# How often each set is seen in a pass. Sentences are soon learned by heart, digits of a known speaker are not.
PASSES = {"fsdd": 2, "coffee_orders": 2, "speechocean": 1}
RESAMPLER = ResamplerConfig(depth=0, stack=4, timed=True)
FUSION = FusionConfig(cross_attention_every=3)
ADAPTERS = TrainConfig(steps=1000, batch_size=16, learning_rate=1e-3, precision="auto", save_every=50, eval_every=250)
LONGEST = 40  # tokens of a transcript or an answer
DIGITS, ABOVE_COMMONEST = 0.97, 0.20  # bars: digits right; orders right, above the commonest answers


def sets(split: str) -> dict[str, RecordSet]:
    """The records of each set."""
    return {name: read_records(DATA / name / f"{split}-*.tar") for name in PASSES}


def adapters(output: Path, real: Path) -> None:
    """Resampler and gated blocks between the two, from the three sets together."""
    model = joined(real, RESAMPLER, FUSION)
    data = [records for name, records in sets("train").items() for _ in range(PASSES[name])]
    train(model, data, held_out=list(sets("dev").values()), output=output / "adapters", config=ADAPTERS)


def joined(real: Path, resampler: ResamplerConfig, fusion: FusionConfig) -> MultimodalLM:
    """The two frozen parts with new adapters."""
    language_model, whisper = real / "smollm2-135m-instruct", real / "whisper-base.pt"
    return assemble(language_model, audio_encoder=whisper, audio_resampler=resampler, fusion=fusion)


def evaluation(output: Path, real: Path) -> None:
    """Dev figures of each set as a table and in `report.json`, and whether they reach the bars."""
    model, known = load(output / "adapters/model"), sets("train")
    figures: dict[str, Any] = {}
    for name, records in sets("dev").items():
        report = evaluate(model, records, max_new_tokens=LONGEST)
        print(f"\n{name} dev ({len(records)} recordings)\n{report}")
        figures[name] = report.to_dict()
        assert report.audio is not None, "the sets hold recordings"
        for bar, (found, wanted) in bars(report.audio, known[name], records).items():
            figures[name][bar] = found
            print(f"{bar}: {found:.1%}, bar {wanted:.0%}: {'reached' if found >= wanted else 'missed'}")
    (output / "report.json").write_text(json.dumps(figures, indent=2) + "\n")


def bars(report: MediumReport, train_set: RecordSet, dev_set: RecordSet) -> dict[str, tuple[float, float]]:
    """What was reached and what was to be reached, by name; nothing for a set without a bar."""
    if report.answers is not None:
        above = report.answers.right - commonest(train_set, dev_set)
        return {"answers right, above the commonest answer to each question": (above, ABOVE_COMMONEST)}
    if report.transcripts is not None and report.transcripts.whole.majority > 0.05:  # few words, each often
        return {"digits right": (report.transcripts.whole.right, DIGITS)}
    return {}


def commonest(train_set: RecordSet, dev_set: RecordSet) -> float:
    """Exact match of always giving each question's commonest answer in training."""
    answers: dict[str, Counter] = defaultdict(Counter)
    for record in train_set:
        for question, answer in record.qa:
            answers[question][answer] += 1
    asked = [pair for record in dev_set for pair in record.qa]
    return sum(answers[question].most_common(1)[0][0] == answer for question, answer in asked) / len(asked)


STAGES = {
    "adapters": (adapters, "adapters/model/model.safetensors"),
    "evaluate": (evaluation, "report.json"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "runs/ears", help="the run's folder")
    parser.add_argument("--real", type=Path, default=os.environ.get("MMLM_REAL"), help="the folder with real weights")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    arguments = parser.parse_args()
    if arguments.real is None:
        parser.error("name the folder with whisper-base.pt and smollm2-135m-instruct: --real FOLDER, or MMLM_REAL")
    for name in arguments.stages:
        stage, result = STAGES[name]
        if name != "evaluate" and (arguments.output / result).exists():
            print(f"{name}: done, see {arguments.output / result}")
        else:
            stage(arguments.output, arguments.real)


if __name__ == "__main__":
    main()
