"""Captions and answers from nano, the small model that comes with mmlm: no network, no GPU, a few seconds.

python demos/caption.py                  pictures drawn on the spot, in layouts that nano never saw
python demos/caption.py one.png two.jpg  your own (nano knows drawn shapes, not photographs)
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmlm import MultimodalLM

OUTPUT = Path("runs/demo/captions.png")


def main(paths: list[str]) -> None:
    start = time.perf_counter()
    import mmlm

    model = mmlm.load("nano")
    if paths:
        images, texts = paths, model.caption(paths)
        for path, text in zip(paths, texts, strict=True):
            print(f"  {path}: {text}")
    else:
        images, texts = caption_drawn_scenes(model)
    mmlm.contact_sheet(images, texts, OUTPUT)
    print(f"Loaded nano and described {len(images)} pictures in {time.perf_counter() - start:.1f} s: {OUTPUT}")


def caption_drawn_scenes(model: MultimodalLM) -> tuple[list, list[str]]:
    """The pictures, and for each its caption and an answered question, judged by what was drawn."""
    from pictures import held_out_samples, is_right

    samples = held_out_samples(8, seed=1)
    images, questions = [sample.image for sample in samples], [sample.question for sample in samples]
    captions = model.caption(images)
    answers = model.answer(images, [question.question for question in questions])
    texts = []
    for sample, caption, answer in zip(samples, captions, answers, strict=True):
        asked = sample.question
        caption = f"{caption} ({'right' if is_right(caption, sample.scene) else 'wrong'})"
        answer = f"{answer} ({'right' if answer == asked.answer else f'wrong: {asked.answer}'})"
        texts.append(f"{caption}\n{asked.question}\n{answer}")
        print(f"  {caption}\n      {asked.question} {answer}")
    return images, texts


if __name__ == "__main__":
    main(sys.argv[1:])
