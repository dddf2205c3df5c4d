"""The study's sound: digits as people said them (fsdd), with nano's packaged codec of 8 kHz."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch
from torch import Tensor

import mmlm
from mmlm.data import read_records
from mmlm.drawing import sampled
from mmlm.writing import generate_parts
from recipes.diffusion_decoder.decoders import Decode, trained
from recipes.diffusion_decoder.measures import agreement, frame_distance
from recipes.diffusion_decoder.table import compare
from recipes.nano import recogniser
from recipes.nano.speaking import LONGEST, TEMPERATURE, band_distances, frames, recordings
from recipes.nano.speech import NUMBERS

BANDS = {f"log-mel, band {band}": 3 for band in (1, 2, 3, 4)}  # columns, and their digits
CROWD = {"frame distance": 2, "words wrong, %": 1, "codes kept": 3, "ms a recording": 1}


@torch.no_grad()
def study(sets: Path, output: Path, seeds: int, steps: int, times: int) -> None:
    """Train, and print the tables of held-out recordings through their codes, and of nano saying each digit `times`."""
    model = mmlm.load("nano")
    codec = model.codecs["audio"]
    (learned, said), (real, expected) = (recordings(read_records(f"{sets}/{part}-*.tar")) for part in ("train", "dev"))
    with torch.enable_grad():
        ways = trained(codec, [f"{sets}/train-*.tar"], output, seeds, steps)
        judge = recogniser.trained(NUMBERS, learned, said, output / "recogniser", seed=0)
    crowd = torch.cat([frames(sound) for sound in real])

    def table(codes: list[Tensor], words: list[str], originals: list[Tensor] | None) -> None:
        def measure(decode: Decode) -> list[float]:
            lengths = [None] * len(codes) if originals is None else [len(sound) for sound in originals]
            began = time.perf_counter()
            made = [decode(own, length=length) for own, length in zip(codes, lengths, strict=True)]
            spent = 1000 * (time.perf_counter() - began) / len(codes)
            sounds = [sound[0, 0] for sound in made]
            own = [] if originals is None else band_distances(sounds, originals).tolist()
            wrong = [one != word for one, word in zip(judge.recognise(sounds), words, strict=True)]
            return [
                *own,
                frame_distance(torch.cat([frames(sound) for sound in sounds]), crowd),
                100 * statistics.mean(wrong),
                statistics.mean(agreement(codec, *both) for both in zip(made, codes, strict=True)),
                spent,
            ]

        compare(ways, CROWD if originals is None else {**BANDS, **CROWD}, measure, "frame distance")

    print(f"\n### fsdd: {len(real)} held-out recordings, decoders of {steps} steps, {seeds} seeds\n")
    table([codec.encode(sound[None, None]).codes for sound in real], expected, real)
    halves = (torch.cat([frames(sound) for sound in real[part::2]]) for part in (0, 1))
    wrong = statistics.mean(one != word for one, word in zip(judge.recognise(real), expected, strict=True))
    print(f"\nReal against real: the frames of every other recording are {frame_distance(*halves):.2f} from those of "
          f"the rest. Of the recordings themselves {100 * wrong:.1f}% are heard wrong.")  # fmt: skip
    words = [word for word in NUMBERS for _ in range(times)]
    print(f"\n### fsdd: {len(words)} digits said by nano\n")
    table([said_codes(model, word, seed) for seed, word in enumerate(words)], words, None)


def said_codes(model, word: str, seed: int) -> Tensor:
    """Codes [1, K, T] that nano writes to say a word."""
    prompt, options = model.template.writing_prompt("audio", word), sampled(1, TEMPERATURE, None, None, seed)
    return generate_parts(model, prompt, "audio", options=options, max_seconds=LONGEST)[0][0].codes[None]
