"""The canvas: media in the form that the diffusion decoder's network reads and writes, and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from decoders.codecs.spectrum import Spectrum

LEVEL_BANDS = 16  # frequency bands of audio whose energy is kept


@dataclass(frozen=True)
class Canvas:
    """Media ↔ arrays of about unit size, [B, C, H, W], in which `patch` × `patch` values are channels of one cell.

    Images are scaled to −1..1. Audio is the compressed magnitudes of its spectrum, divided by a `level`. The phases
    come from the codec's reconstruction, and so does the energy of each frequency band: codes do not determine phases,
    and the mean over all phases, which a network would learn to predict, is silence.

    downsample: pixels or samples per code. coarsest: cells per side of the network's coarsest cell; H and W are
    multiples of it.
    """

    modality: Literal["image", "audio"]
    downsample: int
    patch: int
    coarsest: int
    spectrum: Spectrum

    @property
    def channels(self) -> int:
        """C, the channels of a cell."""
        return (3 if self.modality == "image" else 1) * self.patch**2

    @property
    def scale_rows(self) -> int:
        """How many rows have a scale of their own: of audio each, since high frequencies hold little; of images 1."""
        if self.modality == "image":
            return 1
        return -(-self.spectrum.bins // (self.patch * self.coarsest)) * self.coarsest

    def level(self, reconstruction: Tensor) -> Tensor:
        """The level [B, 1, 1, 1] of media [B, C, *size]: 1 for images, the root mean square magnitude of audio."""
        if self.modality == "image":
            return reconstruction.new_ones(len(reconstruction), 1, 1, 1)
        power = _magnitude(self._analyse(reconstruction)).square()
        return power.mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-3)

    def from_media(self, media: Tensor, level: Tensor) -> Tensor:
        """Media [B, C', *size] → canvas [B, C, H, W], divided by `level` [B, 1, 1, 1] and padded."""
        values = media * 2 - 1 if self.modality == "image" else _magnitude(self._analyse(media)) / level
        multiple = self.patch * self.coarsest
        padded = F.pad(values, (0, -values.shape[3] % multiple, 0, -values.shape[2] % multiple))
        return F.pixel_unshuffle(padded, self.patch)

    def to_media(self, canvas: Tensor, reconstruction: Tensor, level: Tensor) -> Tensor:
        """Canvas [B, C, H, W] → media of the size of the codec's `reconstruction`, clamped to the codec's range."""
        values = F.pixel_shuffle(canvas, self.patch)
        if self.modality == "image":
            return (values[..., : reconstruction.shape[2], : reconstruction.shape[3]] * 0.5 + 0.5).clamp(0, 1)
        spectrum = self._analyse(reconstruction)
        own = _magnitude(spectrum)
        values = values[:, :, : own.shape[2], : own.shape[3]].clamp(min=0) * level
        values = values * (_band_level(own) / _band_level(values))
        return self.spectrum.synthesise(spectrum * (values / own))[:, None, : reconstruction.shape[-1]].clamp(-1, 1)

    def spread(self, latents: Tensor, height: int, width: int) -> Tensor:
        """Latents of codes [B, D, *grid] → [B, D, H, W]: each cell gets the latent of the code that covers it."""
        if self.modality == "image":
            return F.interpolate(latents, (height, width), mode="nearest")
        # A step of codes covers its own samples; the columns of padding after the last step repeat it.
        columns = self.downsample / (self.spectrum.hop * self.patch)
        step = (torch.arange(width, device=latents.device) / columns).long().clamp(max=latents.shape[-1] - 1)
        return latents[..., step].unsqueeze(2).expand(-1, -1, height, -1)

    def _analyse(self, sound: Tensor) -> Tensor:
        return self.spectrum.analyse(F.pad(sound[:, 0], (0, -sound.shape[-1] % self.spectrum.hop)))


def _magnitude(spectrum: Tensor) -> Tensor:
    """Complex spectrum [B, 2, bins, F] → magnitudes [B, 1, bins, F], never 0, where the gradient is infinite."""
    return (spectrum.square().sum(1, keepdim=True) + 1e-8).sqrt()


def _band_level(magnitudes: Tensor) -> Tensor:
    """Magnitudes [B, 1, bins, F] → the root mean square of each bin's frequency band, [B, 1, bins, 1]."""
    power = magnitudes.square().mean((1, 3))  # [B, bins]
    width = max(1, power.shape[1] // LEVEL_BANDS)
    bands = F.avg_pool1d(power.unsqueeze(1), width, width, ceil_mode=True, count_include_pad=False)
    return bands.repeat_interleave(width, dim=2)[:, :, : power.shape[1]].clamp(min=1e-8).sqrt().unsqueeze(-1)
