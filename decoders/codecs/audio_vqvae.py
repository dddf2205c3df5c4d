"""A VQ-VAE for audio: spectra in, residual codes, spectra out, so that no layer runs at the sample rate."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoders.codecs.base import MediaCodec
from decoders.codecs.blocks import body, down, halvings, head, up
from decoders.codecs.quantizer import Quantizer, QuantizerConfig
from decoders.codecs.spectrum import Spectrum, spectral_distance
from decoders.values import check_kinds, check_least


@dataclass(frozen=True)
class AudioVQVAEConfig:
    """Sizes. One step of codes covers `downsample` samples, which is the spectra's `hop` times a power of two."""

    sample_rate: int = 8000  # Hz
    downsample: int = 320  # samples that one step of codes covers; `hop` times a power of two
    window: int = 256  # of the spectra, in samples
    hop: int = 80  # between two spectra, in samples
    width: int = 192  # channels
    blocks: int = 2  # residual blocks at each rate
    quantizer: QuantizerConfig = field(
        default_factory=lambda: QuantizerConfig("rvq", codebook_size=256, num_codebooks=4, dim=32)
    )

    def __post_init__(self) -> None:
        check_kinds(self)
        check_least(self, sample_rate=1, downsample=1, window=2, hop=1, width=1, blocks=0)
        halvings(self.downsample, "hop", self.hop)
        if self.sample_rate < 1 or not self.hop <= self.window // 2:
            raise ValueError("sample_rate must be above 0, and hop at most half a window, so that windows overlap")

    @property
    def levels(self) -> int:
        """How often the frame rate of the spectra is halved."""
        return halvings(self.downsample, "hop", self.hop)


class AudioVQVAE(MediaCodec):
    """Audio [B, 1, T] in −1..1 ↔ codes [B, K, T/downsample].

    The decoder predicts the magnitude and the phase of each bin (Siuzdak 2023, "Vocos"); an inverse short-time Fourier
    transform makes the waveform.
    """

    modality = "audio"

    def __init__(self, config: AudioVQVAEConfig = AudioVQVAEConfig()) -> None:
        super().__init__()
        self.config = config
        self.sample_rate, self.downsample = config.sample_rate, config.downsample
        self.codebook_size, self.num_codebooks = config.quantizer.codebook_size, config.quantizer.num_codebooks
        self.latent_dim = config.quantizer.latent_dim
        self.spectrum = Spectrum(config.window, config.hop)
        width, values = config.width, 2 * self.spectrum.bins
        self.encoder = nn.Sequential(nn.Conv1d(values, width, 1), body(1, width, config.blocks))
        for _ in range(config.levels):
            self.encoder += nn.Sequential(down(1, width, width), body(1, width, config.blocks))
        self.encoder += nn.Sequential(head(1, width, self.latent_dim))
        self.quantizer = Quantizer(config.quantizer)
        self.decoder = nn.Sequential(nn.Conv1d(self.latent_dim, width, 3, padding=1), body(1, width, config.blocks))
        for _ in range(config.levels):
            self.decoder += nn.Sequential(up(1, width, width), body(1, width, config.blocks))
        self.decoder += nn.Sequential(head(1, width, 3 * self.spectrum.bins))

    def reconstruct(self, media: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """For training, with gradients: the reconstruction, not clamped; the codes; the quantiser's loss."""
        codes, latents, loss = self._encode(media)
        return self._decode(latents)[..., : media.shape[-1]], codes, loss

    def project(self, media: Tensor) -> Tensor | None:
        return self._hidden(media) if self.quantizer.nearest else None

    def _encode(self, media: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.quantizer(self._hidden(media))

    def _hidden(self, media: Tensor) -> Tensor:
        whole = F.pad(media[:, 0], (0, -media.shape[-1] % self.downsample))
        return self.encoder(self.spectrum.analyse(whole).flatten(1, 2))

    def _latents(self, codes: Tensor) -> Tensor:
        return self.quantizer.latents(codes)

    def _decode(self, latents: Tensor) -> Tensor:
        loudness, real, imaginary = self.decoder(latents).float().unflatten(1, (3, self.spectrum.bins)).unbind(1)
        direction = torch.stack([real, imaginary], dim=1)
        direction = direction / (direction.square().sum(1, keepdim=True) + 1e-6).sqrt()
        return self.spectrum.synthesise(F.softplus(loudness - 2.0).unsqueeze(1) * direction).unsqueeze(1)


def sound_loss(made: Tensor, real: Tensor, spectrum: Spectrum, rate: int) -> Tensor:
    """Reconstruction loss of audio [B, 1, T]: distance of log-mel spectra, and of complex spectra for the phase."""
    short = real.shape[-1] - real.shape[-1] % spectrum.hop
    made_spectrum, real_spectrum = (spectrum.analyse(sound[:, 0, :short]) for sound in (made, real))
    return spectral_distance(made[:, 0], real[:, 0], rate) + F.l1_loss(made_spectrum, real_spectrum)
