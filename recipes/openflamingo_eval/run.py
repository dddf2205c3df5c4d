"""OpenFlamingo's published evaluation, for whoever has its weights: captions by CIDEr, answers by VQA accuracy.

    python -m recipes.openflamingo_eval.run --model openflamingo-3b --train coco/train.json --dev coco/dev.json
    python -m recipes.openflamingo_eval.run --model nano --train ../shared/data/emoji/train-*.tar \\
        --dev ../shared/data/emoji/dev-*.tar --limit 8 --shots 0 2

Prompts, decoding and the cutting of answers are that project's (`mmlm.assembly.interop.open_flamingo_eval`);
demonstrations are drawn from `--train` at random by `--seed`, anew for each picture, as there. A wrong picture is the
next one's. For VQA accuracy a record says each person's answer as a `qa` entry of its own.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

import mmlm
from mmlm.assembly.interop.open_flamingo_eval import (
    ANSWER_DECODING,
    CAPTION_DECODING,
    ZERO_SHOT,
    answer_of,
    caption_of,
    caption_prompt,
    question_prompt,
)
from mmlm.data import Record, RecordSet, read_records
from mmlm.evaluation.metrics.captions import score_captions
from mmlm.evaluation.metrics.vqa import vqa_accuracy, vqa_match


def evaluate_captions(
    model: mmlm.MultimodalLM, train: Sequence[Record], dev: Sequence[Record], shots: int, seed: int, batch_size: int
) -> tuple[float, float]:
    """CIDEr of the captions of `dev` with the right pictures and with wrong ones."""
    scores = []
    for pictures in (list(dev), [*dev[1:], dev[0]]):
        draw = random.Random(seed)
        prompts = []
        for shown in pictures:
            chosen = draw.sample(list(train), max(shots, ZERO_SHOT))
            examples = [(record.image, record.captions[0]) for record in chosen]
            prompts.append(caption_prompt(shown.image, examples, shots, model.template))
        results = model.generate(prompts, batch_size=batch_size, **CAPTION_DECODING)
        captions = [caption_of(one.text) for one in results]
        scores.append(score_captions(captions, [record.captions for record in dev]).cider)
    return scores[0], scores[1]


def evaluate_answers(
    model: mmlm.MultimodalLM, train: Sequence[Record], dev: Sequence[Record], shots: int, seed: int, batch_size: int
) -> tuple[float, float]:
    """VQA accuracy of the answers about `dev` with the right pictures and with wrong ones."""
    asked = [(number, *pair) for number, record in enumerate(dev) for pair in questions_of(record)]
    scores = []
    for shift in (0, 1):
        draw = random.Random(seed)
        prompts = []
        for number, question, _ in asked:
            chosen = draw.sample(list(train), max(shots, ZERO_SHOT))
            examples = [(record.image, *draw.choice(record.qa)) for record in chosen]
            shown = dev[(number + shift) % len(dev)]
            prompts.append(question_prompt(shown.image, question, examples, shots, model.template))
        results = model.generate(prompts, batch_size=batch_size, **ANSWER_DECODING)
        judged = [score_of(answer_of(one.text), answers) for one, (_, _, answers) in zip(results, asked, strict=True)]
        scores.append(sum(judged) / len(judged))
    return scores[0], scores[1]


def questions_of(record: Record) -> list[tuple[str, list[str]]]:
    """Each question of a record once, with all the answers that it got."""
    found: dict[str, list[str]] = {}
    for question, answer in record.qa:
        found.setdefault(question, []).append(answer)
    return list(found.items())


def score_of(answer: str, answers: Sequence[str]) -> float:
    """VQA accuracy of one answer, 0..1; where one person answered, whether it is that answer."""
    metric = vqa_accuracy if len(answers) > 1 else vqa_match
    return metric([answer], [answers]).value


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", required=True, nargs="+", help="where demonstrations come from")
    parser.add_argument("--dev", required=True, nargs="+")
    parser.add_argument("--shots", type=int, nargs="+", default=[0, 4, 8, 16, 32])
    parser.add_argument("--limit", type=int, help="measure on the first so many records")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--seed", type=int, default=42)
    arguments = parser.parse_args(argv)
    train, dev = (read_records(source) for source in (arguments.train, arguments.dev))
    figures = []
    for name, evaluate, wanted in (
        ("CIDEr", evaluate_captions, lambda record: record.captions),
        ("VQA accuracy", evaluate_answers, lambda record: record.qa),
    ):
        shown, pool = ([record for record in records if record.source and wanted(record)] for records in (dev, train))
        shown, needed = shown[: arguments.limit], max(ZERO_SHOT, *arguments.shots)
        if not shown:
            continue
        if len(shown) < 2 or len(pool) < needed:
            parser.error(
                f"{name} needs {needed} records to show and 2 to measure; --train has {len(pool)}, --dev {len(shown)}"
            )
        figures.append((name, evaluate, shown, pool))
    if not figures:
        parser.error("no record of --dev has a picture with captions or questions")
    import torch

    model = mmlm.load(arguments.model, device=arguments.device, dtype=getattr(torch, arguments.dtype))
    print("| figure | shots | n | right picture | wrong picture |\n| --- | --- | --- | --- | --- |")
    for name, evaluate, shown, pool in figures:
        for shots in arguments.shots:
            right, wrong = evaluate(model, pool, RecordSet(tuple(shown)), shots, arguments.seed, arguments.batch_size)
            print(f"| {name} | {shots} | {len(shown)} | {right:.3f} | {wrong:.3f} |", flush=True)


if __name__ == "__main__":
    main()
