"""Waveforms ↔ complex spectra with compressed magnitudes, and a distance between waveforms."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

COMPRESSION = 0.3  # the exponent of magnitudes, close to how loudness is perceived


@dataclass(frozen=True)
class Spectrum:
    """A short-time Fourier transform: windows of `window` samples every `hop` samples, window/2 bins.

    The topmost bin (half the sample rate) is left out.
    """

    window: int = 256
    hop: int = 80

    @property
    def bins(self) -> int:
        """Number of frequency bins."""
        return self.window // 2

    def analyse(self, waveform: Tensor) -> Tensor:
        """Waveform [B, T], T a multiple of `hop` → compressed spectrum [B, 2, bins, T/hop]: real and imaginary parts.

        Frame i is centred on the middle of samples i · hop to (i + 1) · hop.
        """
        frames = waveform.shape[-1] // self.hop
        margin = (self.window - self.hop) // 2
        padded = F.pad(waveform.float(), (margin, self.window - self.hop - margin))
        spectrum = torch.stft(
            padded, self.window, self.hop, window=self._taper(waveform.device), center=False, return_complex=True
        )[:, :-1, :frames]
        parts = torch.stack([spectrum.real, spectrum.imag], dim=1) / math.sqrt(self.window)
        # |S|^p with the same angle; the small constant keeps the gradient finite at zero.
        return parts * (parts.square().sum(1, keepdim=True) + 1e-12).pow((COMPRESSION - 1) / 2)

    def synthesise(self, spectrum: Tensor) -> Tensor:
        """The inverse: [B, 2, bins, F] → [B, F · hop]; overlapping windows are averaged."""
        parts = spectrum.float()
        squares = parts.square().sum(1)
        parts = parts * (squares + 1e-12).pow((1 / COMPRESSION - 1) / 2).unsqueeze(1) * math.sqrt(self.window)
        complete = F.pad(torch.complex(parts[:, 0], parts[:, 1]), (0, 0, 0, 1))
        taper = self._taper(spectrum.device)
        windows = torch.fft.irfft(complete, self.window, dim=1) * taper[:, None]  # [B, window, F]
        length = (windows.shape[-1] - 1) * self.hop + self.window
        overlap = functools.partial(F.fold, output_size=(1, length), kernel_size=(1, self.window), stride=(1, self.hop))
        total = overlap(windows)[:, 0, 0]
        weight = overlap(taper.square()[None, :, None].expand(1, -1, windows.shape[-1]))[:, 0, 0]
        margin = (self.window - self.hop) // 2
        kept = slice(margin, margin + windows.shape[-1] * self.hop)
        return total[:, kept] / weight[:, kept].clamp(min=1e-2)

    def _taper(self, device: torch.device) -> Tensor:
        return torch.hann_window(self.window, device=device)


@functools.lru_cache(maxsize=32)
def mel_bands(bins: int, bands: int, rate: int) -> Tensor:
    """Triangular mel filters [bands, bins] from 0 to rate/2 Hz on HTK's mel scale; each sums to 1."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2) / 2595) - 1)
    place = torch.linspace(0, rate / 2, bins)
    rise = (place - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - place) / (edges[2:] - edges[1:-1])[:, None]
    filters = torch.minimum(rise, fall).clamp(min=0)
    empty = filters.sum(1) == 0  # a filter narrower than a bin takes the nearest bin
    nearest = (place - edges[1:-1, None]).abs().argmin(1)
    filters[empty, nearest[empty]] = 1.0
    return filters / filters.sum(1, keepdim=True)


def log_mel(waveform: Tensor, rate: int, window: int, bands: int, floor: float = 1e-5) -> Tensor:
    """Waveforms [B, T] → log10 of the mean magnitude in each mel band [B, bands, F]; the hop is a quarter window.

    rate: in Hz. window: in samples. floor: added to magnitudes in quadrature, so that silence is finite.
    """
    taper = torch.hann_window(window, device=waveform.device)
    padded = F.pad(waveform.float(), (0, max(0, window - waveform.shape[-1])))
    spectrum = torch.stft(padded, window, window // 4, window=taper, pad_mode="constant", return_complex=True)
    power = torch.view_as_real(spectrum).square().sum(-1) / window
    magnitude = (power + floor**2).sqrt()  # smooth at zero
    return (mel_bands(spectrum.shape[1], bands, rate).to(magnitude.device) @ magnitude).log10()


def spectral_distance(made: Tensor, real: Tensor, rate: int) -> Tensor:
    """Mean absolute difference of log-mel spectra of waveforms [B, T], in log10 of amplitude, over four window lengths.

    rate: in Hz.
    """
    scales = [(window, bands) for window, bands in ((64, 16), (128, 32), (256, 48), (512, 64))]
    return torch.stack([F.l1_loss(log_mel(made, rate, *scale), log_mel(real, rate, *scale)) for scale in scales]).mean()
