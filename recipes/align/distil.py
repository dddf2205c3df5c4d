"""Distillation of nano into a student with half of its language model's layers: `python -m recipes.align.distil`.

The student keeps every second layer and what joined pictures to it, and has LoRA, which is to make good what is
missing. It learns captions of training scenes and answers about them: from nano, on the answers of the data, on answers
that nano samples, and on its own; and, as the control, from the data alone, with as many steps on as many texts. Judged
on scenes with a colour-shape pair that training never shows: exact match of greedy answers, captions in which nothing
is wrong (`recipes/nano/judge.py`), and the plain loss. A row of the table each, that of nano first.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

import mmlm
from mmlm.data import Record, RecordSet
from mmlm.model.config import LoraConfig
from mmlm.training.align import align
from mmlm.training.alignment.config import DistillConfig
from recipes.align.proof import captions_right, last_figures
from recipes.align.scenes import picture_of
from recipes.nano.questions import questions
from recipes.nano.scenes import Scene, sample_scene, training_scene, unseen_pair
from recipes.nano.wording import thing_by_thing

WAYS = {
    "the data's answers": DistillConfig(sft=0.5),
    "nano's answers": DistillConfig(on="teacher", max_new_tokens=48),
    "its own answers": DistillConfig(on="student", share=0.5, beta=0.5, top_k=None, max_new_tokens=48),
}
SETTINGS = dict(batch_size=16, learning_rate=1e-3, eval_every=10_000, save_every=10_000, keep_best=False)


@torch.no_grad()
def halved(teacher: mmlm.MultimodalLM, seed: int) -> mmlm.MultimodalLM:
    """The teacher without every second layer, with its eyes and its adapters, and with new LoRA."""
    whole, config = teacher.language_model, teacher.language_model.model.config
    kept = range(0, config.num_hidden_layers, 2)
    host = LlamaForCausalLM(type(config)(**{**config.to_dict(), "num_hidden_layers": len(kept)})).eval()
    earlier, names = whole.model.state_dict(), {}
    for name in host.state_dict():
        start, layers, rest = name.partition("layers.")
        place, _, end = rest.partition(".")
        names[name] = f"{start}layers.{kept[int(place)]}.{end}" if layers else name
    host.load_state_dict({name: earlier[source] for name, source in names.items()})
    student = mmlm.assemble(
        host, teacher.encoders["image"], tokenizer=teacher.processor.tokenizer, resampler=teacher.resampler_config,
        fusion=teacher.fusion_config, template=teacher.template, lora=LoraConfig(rank=32, alpha=64, reads=True),
        seed=seed,
    )  # fmt: skip
    known = dict(teacher.added_parameters())
    for name, parameter in student.added_parameters():
        if name.startswith("fusion.layers."):
            place, _, end = name.removeprefix("fusion.layers.").partition(".")
            parameter.copy_(known[f"fusion.layers.{kept[int(place)]}.{end}"])
        elif not name.startswith("language_model.lora."):
            parameter.copy_(known[name][: len(parameter)])  # of the rows of added tokens, less that of sound
    return student


def texts(count: int, accept: Callable[[Scene], bool], seed: int) -> tuple[RecordSet, list[Scene]]:
    """Scenes, each with its caption and with one question in records of their own: caption, question, caption, …"""
    records, scenes = [], []
    for index in range(count):
        rng = random.Random(f"{seed} distil {index}")
        scene = sample_scene(rng, accept)
        picture = picture_of(scene, rng)
        chosen = rng.choice(questions(scene, rng))
        records.append(Record(f"caption {index}", picture, (thing_by_thing(scene, rng),)))
        records.append(Record(f"question {index}", picture, qa=((chosen.question, chosen.answer),)))
        scenes.append(scene)
    return RecordSet(tuple(records)), scenes


def exact(model: mmlm.MultimodalLM, records: RecordSet) -> float:
    """The share of greedy answers that are those of the records."""
    pictures, asked = [record.image for record in records], [record.qa[0] for record in records]
    said = model.answer(pictures, [question for question, _ in asked], max_new_tokens=16)
    return sum(str(own).strip() == answer for own, (_, answer) in zip(said, asked, strict=True)) / len(asked)


def row(name: str, model: mmlm.MultimodalLM, held: RecordSet, scenes: Sequence[Scene], nats: float | None) -> None:
    captions, asked = RecordSet(tuple(held[::2])), RecordSet(tuple(held[1::2]))
    plain = "" if nats is None else f"{nats:.3f}"
    print(
        f"| {name} | {exact(model, asked):.1%} | {captions_right(model, captions, scenes):.1%} | {plain} |", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/distil"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=2000, help="that are learned from, with two texts each")
    parser.add_argument("--held-out", type=int, default=200, help="scenes that judge")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--only", choices=tuple(WAYS), help="one way, beside the control")
    args = parser.parse_args()
    teacher = mmlm.load("nano")
    data, _ = texts(args.scenes, training_scene, args.seed)
    held, scenes = texts(args.held_out, unseen_pair, args.seed + 1000)
    print("| | answers | captions right | nats a token |\n| --- | --- | --- | --- |")
    row("nano, the teacher", teacher, held, scenes, None)
    row("half of it, untrained", halved(teacher, args.seed), held, scenes, None)
    given: dict[str, Any] = dict(held_out=held, steps=args.steps, seed=args.seed, progress=False, **SETTINGS)
    given["cache"] = str(args.output / "cache")
    student, place = halved(teacher, args.seed), args.output / f"without-{args.seed}"
    mmlm.train(student, data, output=place, weight_decay=0.0, **given)
    row("half of it, without a teacher", student, held, scenes, last_figures(place)[1]["held_out_loss"])
    for name, objective in WAYS.items():
        if args.only in (None, name):
            student = halved(teacher, args.seed)
            place = args.output / f"{name.replace(' ', '-')}-{args.seed}"
            align(student, data, objective, teacher=teacher, output=place, **given)
            row(f"half of it, {name}", student, held, scenes, last_figures(place)[1]["held_out_nats"])


if __name__ == "__main__":
    main()
