"""What a codec or decoder makes, written during training to look at and to listen to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

SHOWN = 16  # held-out media in a preview
GAP = 2  # pixels between pictures


def write_previews(folder: Path, step: int, rows: Sequence[Tensor], sample_rate: int | None) -> None:
    """`folder/STEP.png`: media [B, C, *size] of each row side by side, and of sound `folder/STEP.wav`, of all in turn.

    Sound is drawn as its spectrum, low tones below.
    """
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    if sample_rate is not None:
        import soundfile

        pause = torch.zeros(sample_rate // 4)
        pieces = [piece for column in zip(*rows, strict=True) for sound in column for piece in (sound[0].cpu(), pause)]
        partial = folder / f".{step:06d}.wav"
        with partial.open("wb") as file:  # libsndfile itself would not follow the umask
            soundfile.write(file, torch.cat(pieces).numpy(), sample_rate, format="WAV", subtype="PCM_16")
        os.replace(partial, folder / f"{step:06d}.wav")
        rows = [_spectrograms(row[:, 0], sample_rate) for row in rows]
    height, width = rows[0].shape[2:]
    sheet = torch.ones(3, len(rows) * (height + GAP) - GAP, len(rows[0]) * (width + GAP) - GAP)
    for down, row in enumerate(rows):
        for across, picture in enumerate(row):
            top, left = down * (height + GAP), across * (width + GAP)
            sheet[:, top : top + height, left : left + width] = picture.cpu()
    partial = folder / f".{step:06d}.png"
    Image.fromarray((sheet.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()).save(partial)
    os.replace(partial, folder / f"{step:06d}.png")


def _spectrograms(sounds: Tensor, sample_rate: int) -> Tensor:
    """Pictures [B, 1, 64, F] of sounds [B, T]: 80 dB of range, the loudest of each white."""
    from decoders.codecs.spectrum import log_mel

    spectra = log_mel(sounds, sample_rate, 256, 64)
    spectra = spectra - spectra.amax((1, 2), keepdim=True)
    return (1 + spectra / 4).clamp(0, 1).flip(1).unsqueeze(1)
