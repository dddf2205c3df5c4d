"""The tables of docs/nano.md about speaking, printed: words that nano says, heard by a recogniser that never met it.

    python -m recipes.nano.speaking                      # the shipped weights; some minutes on a CPU
    python -m recipes.nano.speaking --output runs/words  # keeps the words and the recognisers that it makes

Of digits the recogniser learned from real recordings alone (fsdd), of the other words from espeak-ng in voices that
nano never heard (`pip install -e .[speech]`). A wrong word is one a third of the list away.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

import mmlm
from decoders.codecs.spectrum import log_mel
from encoders.media.sound import load_audio
from mmlm.data import RecordSet, read_records
from recipes.nano.evaluate import row, share, title
from recipes.nano.recogniser import BANDS, RATE, WINDOW, Recogniser, trained
from recipes.nano.scenes import COLOURS
from recipes.nano.speech import NUMBERS, WORDS, write_words

TEMPERATURE = 0.3
LONGEST = 1.2  # seconds: no word of the sets is longer
GROUPS = {"colours": tuple(COLOURS), "other words": tuple(word for word in WORDS if word not in COLOURS)}


def evaluate(model: mmlm.MultimodalLM, sets: Path, folder: Path, times: int, seed: int = 0) -> None:
    """Print all tables; `times`: how often each word is said."""
    write_words(folder / "words", {"judge": 2200, "unheard": 440}, seed)
    splits = [read_records(f"{folder}/words/{split}-*.tar") for split in ("judge", "unheard")]
    digits = [read_records(sets / "fsdd" / f"{split}-*.tar") for split in ("train", "dev")]
    for name, words, (learned, held_out) in (("digits", NUMBERS, digits), ("words", WORDS, splits)):
        sounds, said = recordings(learned)
        recogniser = trained(words, sounds, said, folder / f"recogniser_{name}", seed)
        evaluate_words(model, recogniser, held_out, {"digits": NUMBERS} if name == "digits" else GROUPS, times)
    evaluate_decoding(model, {"fsdd dev": digits[1], "words in unheard voices": splits[1]})


def evaluate_words(
    model: mmlm.MultimodalLM, recogniser: Recogniser, held_out: RecordSet, groups: dict[str, Sequence[str]], times: int
) -> None:
    """What the recogniser makes of real recordings, of the same through their codes, and of what the model says."""
    sounds, said = recordings(held_out)
    for name, words in groups.items():
        chosen = [index for index, word in enumerate(said) if word in words]
        real, expected = [sounds[index] for index in chosen], [said[index] for index in chosen]
        title(f"{name} ({len(words)} words)", "word")
        for told, heard in {"recordings": real, **through_codes(model, real)}.items():
            report(recogniser, told, heard, expected)
        wanted = [word for word in words for _ in range(times)]
        for told, options in renderers(model).items():
            audio = model.speak(wanted, seed=0, temperature=TEMPERATURE, max_seconds=LONGEST, **options)
            report(recogniser, f"said by nano, {told}", [torch.from_numpy(one.waveform) for one in audio], wanted)


def report(recogniser: Recogniser, name: str, sounds: Sequence[Tensor], expected: Sequence[str]) -> None:
    heard, third = recogniser.recognise(sounds), len(sounds) // 3
    right, wrong = (
        share(word == one for word, one in zip(words, expected, strict=True))
        for words in (heard, heard[third:] + heard[:third])  # equal words lie side by side
    )
    row(name, len(sounds), right, None, wrong)


def renderers(model: mmlm.MultimodalLM) -> dict[str, dict]:
    """The ways in which codes become sound, as options of `speak`."""
    found = {"the codec's own decoding": {"steps": 0}}
    return found | ({"the diffusion decoder, 4 steps": {"steps": 4}} if "audio" in model.decoders else {})


@torch.no_grad()
def through_codes(model: mmlm.MultimodalLM, sounds: Sequence[Tensor]) -> dict[str, list[Tensor]]:
    """Recordings [T] as their codes give them back, by each way of decoding."""
    codec, found = model.codecs["audio"], {}
    for name, options in renderers(model).items():
        decode: Callable = model.decoders["audio"].decode if options["steps"] else codec.decode
        given = options if options["steps"] else {}
        found[f"through their codes, {name}"] = [
            decode(codec.encode(sound[None, None]).codes, length=len(sound), **given)[0, 0] for sound in sounds
        ]
    return found


def evaluate_decoding(model: mmlm.MultimodalLM, sets: dict[str, RecordSet], bands: int = 4) -> None:
    """How far decoded recordings are from the real ones, in quarters of the mel scale, and the codebooks' use."""
    codec = model.codecs["audio"]
    print(f"\n### the audio codec: {codec.num_codebooks} codebooks of {codec.codebook_size}, "
          f"{codec.frame_rate:g} steps a second\n")  # fmt: skip
    print(f"| log-mel distance, bels | n | {' | '.join(f'band {band + 1}' for band in range(bands))} |")
    print(f"| --- | --- |{' --- |' * bands}")
    written = []
    for name, records in sets.items():
        sounds, _ = recordings(records)
        for way, made in through_codes(model, sounds).items():
            apart = band_distances(made, sounds, bands)
            print(f"| {name} {way} | {len(sounds)} | {' | '.join(f'{value:.3f}' for value in apart.tolist())} |")
        written += [codec.encode(sound[None, None]).codes[0] for sound in sounds]
    used = [f"{len(book.unique()) / codec.codebook_size:.1%}" for book in torch.cat(written, dim=1)]
    print(f"\nThese {len(written)} recordings use {'/'.join(used)} of the codebooks.")


def band_distances(made: Sequence[Tensor], real: Sequence[Tensor], bands: int = 4) -> Tensor:
    """Mean difference of log-mel spectra of waveforms [T], in bels, in each of `bands` equal parts of the scale."""
    apart = [(frames(a) - frames(b)).abs().mean(0) for a, b in zip(made, real, strict=True)]
    return torch.stack(apart).mean(0).view(bands, -1).mean(1)


def frames(sound: Tensor) -> Tensor:
    """The log-mel spectrum [F, BANDS], as the recogniser has it, of a waveform [T] at 8 kHz."""
    return log_mel(sound[None], RATE, WINDOW, BANDS, floor=1e-3)[0].T


def recordings(records: RecordSet) -> tuple[list[Tensor], list[str]]:
    """Waveforms [T] at 8 kHz, and the word in each."""
    sounds = [torch.from_numpy(load_audio(record.audio, sample_rate=RATE).waveform).clamp(-1, 1) for record in records]
    return sounds, [record.transcript for record in records]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--times", type=int, default=10, help="how often each word is said")
    parser.add_argument("--output", type=Path, help="a folder for what is made on the way; else a temporary one")
    arguments = parser.parse_args()
    sets = Path(os.environ.get("MMLM_DATA", "../shared/data"))
    if not (sets / "fsdd").is_dir():
        parser.error(f"the recogniser learns from real recordings: no fsdd in {sets}, set MMLM_DATA to its folder")
    with tempfile.TemporaryDirectory() as temporary:
        evaluate(mmlm.load(arguments.model), sets, arguments.output or Path(temporary), arguments.times)


if __name__ == "__main__":
    main()
