"""The study's sound: digits as people said them (fsdd), with nano's packaged codec of 8 kHz."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import mmlm
from decoders.codecs.base import MediaCodec
from mmlm.data import read_records
from mmlm.tasks.draw import sampled, written_codes
from recipes.diffusion_decoder.decoders import Decode, trained
from recipes.diffusion_decoder.measures import agreement, frame_distance
from recipes.diffusion_decoder.table import compare
from recipes.nano import recogniser
from recipes.nano.speaking import LONGEST, TEMPERATURE, band_distances, frames, recordings
from recipes.nano.speech import NUMBERS

BANDS = {f"log-mel, band {band}": 3 for band in (1, 2, 3, 4)}  # columns, and their digits
CROWD = {"frame distance": 2, "words wrong, %": 1, "codes kept": 3, "ms a recording": 1}


def study(sets: Path, output: Path, seeds: int, steps: int, times: int) -> None:
    """Train, and print the tables of held-out recordings through their codes, and of nano saying each digit `times`."""
    model = mmlm.load("nano")
    codec = model.codecs["audio"]
    (learned, said), (real, expected) = (recordings(read_records(f"{sets}/{part}-*.tar")) for part in ("train", "dev"))
    ways = trained(codec, [f"{sets}/train-*.tar"], output, seeds, steps)
    judge = recogniser.trained(NUMBERS, learned, said, output / "recogniser", seed=0)
    print(f"\n### fsdd: {len(real)} held-out recordings, decoders of {steps} steps, {seeds} seeds\n")
    codes = [codec.encode(sound[None, None]).codes for sound in real]
    compare_sounds(codec, judge, codes, expected, real, ways, paired=True)
    halves = (together(real[part::2]) for part in (0, 1))
    print(f"\nReal against real: the frames of every other recording are {frame_distance(*halves):.2f} from those of "
          f"the rest. Of the recordings themselves {wrong(judge, real, expected):.1f}% are heard wrong.")  # fmt: skip
    words = [word for word in NUMBERS for _ in range(times)]
    print(f"\n### fsdd: {len(words)} digits said by nano\n")
    codes = [said_codes(model, word, seed) for seed, word in enumerate(words)]
    compare_sounds(codec, judge, codes, words, real, ways, paired=False)


@torch.no_grad()
def compare_sounds(
    codec: MediaCodec,
    judge: recogniser.Recogniser,
    codes: list[Tensor],
    words: list[str],
    real: list[Tensor],
    ways: dict[str, list[Decode]],
    paired: bool,
) -> None:
    """Print the table of all ways to decode codes [1, K, T] of words, beside real recordings [T] at 8 kHz.

    paired: the codes are those of the recordings, one by one.
    """
    lengths = [len(sound) for sound in real] if paired else [None] * len(codes)
    crowd = together(real)

    def measure(decode: Decode) -> list[float]:
        began = time.perf_counter()
        made = [decode(own, length=length) for own, length in zip(codes, lengths, strict=True)]
        spent = 1000 * (time.perf_counter() - began) / len(codes)
        kept = statistics.mean(agreement(codec, *both) for both in zip(made, codes, strict=True))
        sounds = [sound[0, 0] for sound in made]
        own = band_distances(sounds, real).tolist() if paired else []
        return [*own, frame_distance(together(sounds), crowd), wrong(judge, sounds, words), kept, spent]

    compare(ways, {**BANDS, **CROWD} if paired else CROWD, measure, "frame distance")


def together(sounds: Sequence[Tensor]) -> Tensor:
    """All frames [N, BANDS] of waveforms [T] at 8 kHz."""
    return torch.cat([frames(sound) for sound in sounds])


def wrong(judge: recogniser.Recogniser, sounds: Sequence[Tensor], words: Sequence[str]) -> float:
    """How many words in 100 the recogniser hears as others."""
    return 100 * statistics.mean(heard != word for heard, word in zip(judge.recognise(sounds), words, strict=True))


def said_codes(model: mmlm.MultimodalLM, word: str, seed: int) -> Tensor:
    """Codes [1, K, T] that nano writes to say a word."""
    options = sampled(1, TEMPERATURE, None, None, seed)
    ((result,),) = written_codes(model, "audio", [word], options, max_seconds=LONGEST)
    return result.media[0].codes[None]
