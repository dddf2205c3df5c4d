"""GRPO on nano's thoughts, and a control with rewards by lot: `python -m recipes.align.thoughts --seed 0`.

A question asks what one of 1,000 notes says, and the four notes that share most words with it stand in the prompt. nano
thinks before it answers, several times for each question; an answer that is exactly right, with the number of its note,
earns 1, and every word of thought and answer is learned from. LoRA trains, and what nano had stays as it is. Other
notes and questions judge: greedy answers after a thought, with the right number or whatever they cite.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import mmlm
from encoders.texts import normalize_answer
from mmlm.assembly import extended
from mmlm.data import Record
from mmlm.training.align import align
from recipes.align.proof import by_lot
from recipes.nano.rewards import LONGEST, LORA, NOTES_READ, THOUGHT, looked_up
from recipes.nano.thinking import NOTES, uncited

SETTINGS = dict(batch_size=8, learning_rate=3e-4, save_every=50, eval_every=10_000, log_every=5, keep_best=False)


def judged(model: mmlm.MultimodalLM, records: Sequence[Record]) -> tuple[float, float]:
    """The shares of greedy answers that are exactly right, and that are right whatever they cite."""
    asked = [record.messages[:1] for record in records]
    said = [str(text) for text in model.chat(asked, thinking=THOUGHT, max_new_tokens=LONGEST, batch_size=48)]
    wanted = [str(record.messages[1].content[0]) for record in records]
    pairs = [(own.strip(), other) for own, other in zip(said, wanted, strict=True)]
    return tuple(sum(form(a) == form(b) for a, b in pairs) / len(pairs) for form in (normalize_answer, uncited))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="a preset or a folder")
    parser.add_argument("--output", type=Path, default=Path("runs/align/thoughts"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--judged", type=int, default=400, help="questions that judge")
    parser.add_argument("--only", choices=("answers", "lot"))
    args = parser.parse_args()
    others = looked_up(args.judged, args.seed + 1000).records
    data = looked_up(args.steps * SETTINGS["batch_size"], args.seed)
    print(f"| {len(others)} questions about one of {NOTES:,} notes | answer and number | answer |\n| --- | --- | --- |")

    def row(title: str, model: mmlm.MultimodalLM) -> None:
        print(f"| {title} | {' | '.join(f'{share:.1%}' for share in judged(model, others))} |", flush=True)

    row("before", mmlm.load(args.model))
    controlled = replace(NOTES_READ, rewards={})
    for name, objective, rewards in (("answers", NOTES_READ, None), ("lot", controlled, {"lot": by_lot})):
        if args.only in (None, name):
            model = extended(mmlm.load(args.model), lora=LORA, seed=args.seed)
            settings = {**SETTINGS, "tune": "lora", "seed": args.seed, "steps": args.steps, "progress": False}
            align(model, data, objective, rewards=rewards, output=args.output / f"{name}-{args.seed}", **settings)
            row(f"after, rewarded by {name}", model)


if __name__ == "__main__":
    main()
