"""Preferences that a model gave (RLAIF), and what another model learns from them: `python -m recipes.align.judged`.

"signal?" is a question that nano does not know, to be answered by the colour of the one thing in the picture, as in
`recipes.align.proof`. A judge, nano with adapters of its own, learns which of two answers is the better one from few
labelled pairs, each shown in both orders. It then labels pairs of other pictures that nobody has labelled, and nano
learns to answer from these alone, by DPO. Beside it stand the labels of nano without that lesson. Judged by greedy
answers about other pictures, exact match.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mmlm
from mmlm.data import Record, RecordSet
from mmlm.training.align import align
from mmlm.training.alignment.config import PreferenceConfig
from mmlm.training.alignment.judging import QUESTION, judged_pairs, model_judge
from recipes.align.proof import SIGNALS, exact
from recipes.align.scenes import ASKED, signals

SETTINGS = dict(batch_size=16, learning_rate=3e-4, save_every=10_000, eval_every=10_000, keep_best=False)


def lessons(labelled: RecordSet) -> RecordSet:
    """What the judge is to answer: each pair in both orders."""
    found = []
    for record in labelled:
        right, wrong = record.texts[0].answer, str(record.rejected)
        for first, second, answer in ((right, wrong, "1"), (wrong, right, "2")):
            asked = QUESTION.format(question=ASKED, first=first, second=second)
            found.append(Record(f"{record.key} {answer}", record.image, qa=((asked, answer),)))
    return RecordSet(tuple(found))


def labels(judge: mmlm.MultimodalLM, seed: int, count: int) -> RecordSet:
    """Pairs as the judge prefers them; prints how many are kept, and how many of these are labelled rightly."""
    kept = judged_pairs(signals(count, seed, random_labels=True), model_judge(judge, batch_size=32))
    truth = {record.key: record.texts[0].answer for record in signals(count, seed)}
    right = sum(record.texts[0].answer == truth[record.key] for record in kept)
    print(f"of {count} pairs it prefers the same answer in both orders in {len(kept)}, rightly in {right}", flush=True)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/align/judged"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--labelled", type=int, default=200, help="pairs that the judge learns from")
    parser.add_argument("--pairs", type=int, default=400, help="pairs that it labels")
    parser.add_argument("--steps", type=int, default=200, help="of the judge")
    args = parser.parse_args()
    held, others = signals(200, args.seed + 1000), args.seed + 2000
    print("nano as it is:")
    try:
        labels(mmlm.load("nano"), others, args.pairs)
    except ValueError as error:  # it looks at the place alone
        print(error)
    judge, place = mmlm.load("nano"), args.output / f"judge-{args.seed}"
    learned = lessons(signals(args.labelled, args.seed))
    mmlm.train(judge, learned, output=place, steps=args.steps, seed=args.seed, progress=False, **SETTINGS)
    print("nano as a judge:")
    kept = labels(judge, others, args.pairs)
    objective, settings = SIGNALS["DPO"]
    assert isinstance(objective, PreferenceConfig), "pairs are what it learns from"
    model, place = mmlm.load("nano"), args.output / f"dpo-{args.seed}"
    before = exact(model, held)
    given = {**SETTINGS, **settings, "seed": args.seed, "progress": False}
    align(model, kept, objective, output=place, **given)
    print(f'"signal?", exact match: {before:.1%} before, {exact(model, held):.1%} after')


if __name__ == "__main__":
    main()
