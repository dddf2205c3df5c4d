"""Pictures that nano draws, looked at by nano itself, and two answers about them that it says aloud.

    python demos/draw.py                                            layouts that nano never saw
    python demos/draw.py "in the middle a large red heart, on a white background" "on the left a small blue ring, on a
                                                                    beige background"

nano draws such scenes, described in these words, and says single words: digits, colours, shapes, yes and no.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from recipes.nano.scenes import Scene

OUTPUT = Path("runs/demo")
COUNT, SPOKEN = 4, 2


def main(texts: list[str]) -> None:
    start = time.perf_counter()
    import soundfile

    import mmlm

    model = mmlm.load("nano")
    questions = ["how many shapes are there?", "what color is the background?"] * len(texts)
    scenes = []
    if not texts:
        texts, questions, scenes = unseen_layouts()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    drawn, sounds, told = [], [], []
    for index, text in enumerate(texts):
        picture = model.draw(text, 4, rerank=True, seed=index, temperature=0.1)  # four drafts, of which CLIP chooses
        picture.save(OUTPUT / f"drawn-{index}.png")
        lines, sound = [text], None
        print(f"  {text}: {OUTPUT / f'drawn-{index}.png'}")
        if index < SPOKEN:
            answer = model.answer(picture, questions[index])
            sound = model.speak(answer, seed=index, temperature=0.3, max_seconds=1.2)
            soundfile.write(OUTPUT / f"said-{index}.wav", sound.waveform, sound.sample_rate)
            lines.append(f"{questions[index]} {answer}")
            print(f"      {lines[-1]}: {OUTPUT / f'said-{index}.wav'}, {sound.seconds:.1f} s")
        if scenes:
            lines.append(f"({verdict(picture, scenes[index])})")
        drawn.append(picture)
        sounds.append(sound)
        told.append("\n".join(lines))
    mmlm.contact_sheet(drawn, told, OUTPUT / "drawn.png", sounds=sounds)
    took = time.perf_counter() - start
    print(f"Loaded nano, drew {len(drawn)} pictures and said {min(len(drawn), SPOKEN)} answers in {took:.1f} s: "
          f"{OUTPUT / 'drawn.png'}")  # fmt: skip


def unseen_layouts() -> tuple[list[str], list[str], list]:
    """Descriptions, questions whose answer nano can say, and the scenes that are described."""
    from pictures import held_out_samples

    from recipes.nano.speech import NUMBERS, WORDS
    from recipes.nano.wording import listed

    samples = [sample for sample in held_out_samples(40, seed=3) if sample.question.answer in (*NUMBERS, *WORDS)]
    chosen = samples[:COUNT]
    return (
        [listed(sample.scene) for sample in chosen],
        [sample.question.question for sample in chosen],
        [sample.scene for sample in chosen],
    )


def verdict(picture: Image, scene: Scene) -> str:
    """Whether a program that reads the pixels finds exactly this scene in the picture."""
    from recipes.nano.sight import read_scene

    return "right" if read_scene(picture) == scene else "not as described"


if __name__ == "__main__":
    main(sys.argv[1:])
