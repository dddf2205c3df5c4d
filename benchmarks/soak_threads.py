"""Every verb in many threads on one model: are the results those of the same calls one after another, bit for bit?

    python benchmarks/soak_threads.py --minutes 60

Threads call the verbs of nano in an order of chance, sampled and greedy, in turn on the plain model, on the packed one,
and on one that another thread packs, unpacks, casts and saves meanwhile. There a text must be that of the model before
or after the change, or a ModelChangedError. Exit code 1 if anything else happens, or if a verb draws from torch's or
NumPy's global generators.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import mmlm

ROOT = Path(__file__).parents[1]
THREADS = 8
HEART = "a large red heart, on a beige background"
Job = Callable[[], Any]
TEXTS = ("caption", "caption, sampled", "answer", "caption, beams", "stream, sampled", "transcribe", "ask, features")


def jobs_of(model: mmlm.MultimodalLM, seed: int = 0) -> dict[str, Job]:
    """A call of each verb, by name; what it gives can be compared with `==`."""
    picture = Image.open(ROOT / "docs/images/scene.png").convert("RGB").rotate(90 * seed)
    spoken = str(ROOT / "demos/questions" / f"{('shapes', 'order', 'left')[seed % 3]}.wav")
    seen = [mmlm.Image(picture), "Output:"]
    drawn: dict[str, Any] = {"do_sample": True, "temperature": 1.5, "seed": seed}
    clip: Any = model.encoders["image"]
    return {
        "caption": lambda: model.caption(picture, max_new_tokens=20),
        "caption, sampled": lambda: model.caption(picture, **drawn),
        "caption, beams": lambda: model.caption(picture, num_beams=3, max_new_tokens=20),
        "answer": lambda: model.answer(picture, "how many shapes are there?", **drawn),
        "generate, batch": lambda: [own.token_ids for own in model.generate([seen, ["Output:"]], max_new_tokens=12)],
        "stream, sampled": lambda: "".join(model.stream(seen, max_new_tokens=20, **drawn)),
        "ask, transcript": lambda: model.ask(spoken, image=picture),
        "ask, features": lambda: model.ask(spoken, "Which drink?", mode="features", **drawn),
        "transcribe": lambda: model.transcribe(spoken).to_dict(),
        "transcribe, sampled": lambda: model.transcribe(spoken, temperatures=(1.0,), seed=seed).to_dict(),
        "transcribe, beams": lambda: model.transcribe(spoken, beam_size=2, temperatures=(0.0,)).to_dict(),
        "draw": lambda: model.draw(HEART, seed=seed).tobytes(),
        "speak": lambda: model.speak("seven", seed=seed).waveform.tobytes(),
        "log_probs": lambda: model.log_probs([seen], [" a red square"])[0].tolist(),
        "embed": lambda: (
            clip.embed_texts([HEART]).tolist() + clip.embed_images(clip.preprocess(picture)[None]).tolist()
        ),
    }


def at_once(jobs: list[Job], threads: int = THREADS) -> list[Any]:
    """What each call gives, or the exception that it raises, with so many of them at a time."""

    def outcome(job: Job) -> Any:
        try:
            return job()
        except Exception as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(outcome, jobs))


def global_state() -> tuple[list[int], list[int]]:
    """Torch's and NumPy's global generators."""
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002


def soak(jobs: dict[tuple[str, int], Job], until: float, shuffled: random.Random) -> dict[str, Counter[str]]:
    """Calls in many threads, compared with the same calls one after another: outcomes by verb."""
    expected = {key: job() for key, job in jobs.items()}
    found: dict[str, Counter[str]] = {verb: Counter() for verb, _ in jobs}
    while time.monotonic() < until:
        keys = shuffled.sample(list(jobs), len(jobs))
        state = global_state()
        for key, given in zip(keys, at_once([jobs[key] for key in keys]), strict=True):
            wrong = type(given).__name__ if isinstance(given, Exception) else "differ"
            found[key[0]]["equal" if given == expected[key] else wrong] += 1
        found.setdefault("global generators", Counter())["equal" if global_state() == state else "differ"] += 1
    return found


def changes_of(model: mmlm.MultimodalLM, folder: Path) -> Iterator[Callable[[], Any]]:
    """Changes of a model, one after the other, for ever; after each two it is what it was."""
    while True:
        yield from (
            model.pack, lambda: model.save(folder), model.unpack, model.half, model.float,
            lambda: model.pack("int8"), lambda: model.save(folder), model.unpack,
        )  # fmt: skip


def soak_changes(model: mmlm.MultimodalLM, until: float, shuffled: random.Random) -> dict[str, Counter[str]]:
    """Texts that are written while another thread changes the model: outcomes by verb."""
    jobs = {(verb, seed): job for seed in range(3) for verb, job in jobs_of(model, seed).items() if verb in TEXTS}
    right: dict[tuple[str, int], list[Any]] = {key: [] for key in jobs}
    found: dict[str, Counter[str]] = {verb: Counter() for verb in TEXTS}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as other:
        changes = changes_of(model, Path(folder))
        for _ in range(8):  # each state that the model will be in
            next(changes)()
            for key, job in jobs.items():
                right[key].append(job())

        def change() -> None:
            waits = random.Random(0)
            while time.monotonic() < until:
                next(changes)()
                time.sleep(waits.random())

        running = other.submit(change)
        while not running.done():
            keys = shuffled.sample(list(jobs), len(jobs))
            for key, given in zip(keys, at_once([jobs[key] for key in keys]), strict=True):
                wrong = type(given).__name__ if isinstance(given, Exception) else "differ"
                found[key[0]]["equal" if given in right[key] else wrong] += 1
        running.result()
    return found


def table(found: dict[str, dict[str, Counter[str]]]) -> str:
    """Markdown: a row for each state and verb."""
    lines = ["| model | calls of | equal | ModelChangedError | anything else |", "|---|---|---|---|---|"]
    for state, verbs in found.items():
        for verb, outcomes in verbs.items():
            equal, changed = outcomes["equal"], outcomes["ModelChangedError"]
            other = {name: count for name, count in outcomes.items() if name not in ("equal", "ModelChangedError")}
            shown = ", ".join(f"{count:,} {name}" for name, count in other.items()) or "0"
            lines.append(f"| {state} | {verb} | {equal:,} | {changed:,} | {shown} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="of calls in threads, over the three parts")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the calls")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model, shuffled = mmlm.load("nano"), random.Random(asked.seed)
    jobs = {(verb, seed): job for seed in range(4) for verb, job in jobs_of(model, seed).items()}
    found: dict[str, dict[str, Counter[str]]] = {}
    for state in tqdm(("plain", "packed", "changed meanwhile"), unit="part"):
        model = model.pack() if state == "packed" else model.unpack()
        until = time.monotonic() + asked.minutes * 60 / 3
        own = state == "changed meanwhile"
        found[state] = soak_changes(model, until, shuffled) if own else soak(jobs, until, shuffled)
    print(table(found))
    sys.exit(
        any(set(outcomes) - {"equal", "ModelChangedError"} for part in found.values() for outcomes in part.values())
    )


if __name__ == "__main__":
    main()
