"""The diffusion decoder: codes → media by a diffusers UNet that restores the detail which the codec's decoder blurs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel  # pyright: ignore[reportPrivateImportUsage]  # it is public
from torch import Tensor, nn

from decoders.codecs.base import MediaCodec
from decoders.codecs.spectrum import Spectrum
from decoders.diffusion.canvas import Canvas
from decoders.diffusion.schedule import TIMESTEPS, noisy, sample, training_levels
from decoders.values import check_kinds, check_least
from encoders.base import device_alone

Preview = Callable[[int, int, Tensor], None]  # number of the step, number of steps, media so far


@dataclass(frozen=True)
class DiffusionDecoderConfig:
    """Sizes. The UNet works on patches of `patch` × `patch` values: with 2, 64 pixels per side cost as much as 32.

    latents: whether the UNet sees the latents of the codes beside the codec's reconstruction. They are wide, and tell
        nothing more, where the codec decodes without a network.
    """

    channels: tuple[int, ...] = (64, 96, 128)  # of the UNet at each resolution, multiples of 16
    layers: int = 1  # residual blocks at each resolution
    patch: int = 2  # values per side that the UNet takes as one
    window: int = 256  # of the spectra in which audio is decoded, in samples
    hop: int = 80  # between two of these spectra, in samples
    latents: bool = True

    def __post_init__(self) -> None:
        check_kinds(self)
        check_least(self, window=2, hop=1)
        if not self.channels or any(channels < 16 or channels % 16 for channels in self.channels):
            raise ValueError(f"channels must be multiples of 16, not {tuple(self.channels)}")
        if self.layers < 1 or self.patch < 1:
            raise ValueError("layers and patch must be at least 1")


class Reference(NamedTuple):
    """What the codec's own decoder makes of codes, to which the diffusion decoder adds the detail."""

    media: Tensor  # [B, C', *size]
    canvas: Tensor  # [B, C, H, W]
    level: Tensor  # [B, 1, 1, 1]


class DiffusionDecoder(nn.Module):
    """Codes [B, K, *grid] of a frozen codec → media, in a few denoising steps; one class for images and audio.

    It generates the detail: the difference between the media and the codec's reconstruction, divided by `scale` to
    about unit size, without which a few steps would drown it in noise. The UNet sees the noisy detail, the latents of
    the codes (nearest-neighbour upsampled) and the reconstruction, and predicts the clean detail ("x0") on the straight
    path x_t = (1 − t) · x + t · noise. `Canvas` says in which form.

    Sources: 4M's DiVAE (apple/ml-4m); OpenAI's consistency decoder for the condition; rectified flow (Liu et al. 2022);
    detail beside a reconstruction: Whang et al. 2022.
    """

    scale: Tensor  # [1, 1, rows, 1], size of the detail
    name: str | None = None  # the folder it can be loaded from again; None if there is none

    def __init__(self, codec: MediaCodec, config: DiffusionDecoderConfig = DiffusionDecoderConfig()) -> None:
        super().__init__()
        self.config = config
        self.codec = codec.requires_grad_(False).eval()
        self.canvas = Canvas(
            "image" if codec.modality == "image" else "audio", codec.downsample, config.patch,
            2 ** (len(config.channels) - 1), Spectrum(config.window, config.hop),
        )  # fmt: skip
        self.register_buffer("scale", torch.ones(1, 1, self.canvas.scale_rows, 1))
        self.unet = UNet2DModel(
            in_channels=2 * self.canvas.channels + codec.latent_dim * config.latents + 1,
            out_channels=self.canvas.channels,
            block_out_channels=tuple(config.channels),
            layers_per_block=config.layers,
            down_block_types=("DownBlock2D",) * len(config.channels),
            up_block_types=("UpBlock2D",) * len(config.channels),
            norm_num_groups=16,
            add_attention=False,
        )
        for weight in self.unet.conv_out.parameters():  # before training, the predicted detail is 0
            nn.init.zeros_(weight)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DiffusionDecoder:
        # A parent in 16 bits leaves it as it is: media and codes are float32 here.
        return super()._apply(device_alone(fn), recurse)

    def train(self, mode: bool = True) -> DiffusionDecoder:
        """Set the UNet's mode; the codec stays in eval mode."""
        super().train(mode)
        self.codec.eval()
        return self

    @torch.no_grad()
    def decode(
        self,
        codes: Tensor,
        steps: int = 4,
        seed: int | Sequence[int] = 0,
        guidance_scale: float = 1.0,
        length: int | None = None,
        callback: Preview | None = None,
    ) -> Tensor:
        """Codes [B, K, *grid] → media [B, C, *size] in the codec's range.

        steps: 1 for a draft, 4 by default, 8 for quality.
        seed: of the first row, and row i gets seed + i; or one seed for each row.
        guidance_scale: of classifier-free guidance, away from the prediction without codes; 1 is off.
        length: of audio, how many samples to return; None for all.
        callback: called after each step with its number, the number of steps, and the media predicted in it.
        ValueError for codes, steps, seeds or a length that are out of range.
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1, not {steps}")
        seeds = [int(seed) + row for row in range(len(codes))] if isinstance(seed, int | np.integer) else list(seed)
        if len(seeds) != len(codes):
            raise ValueError(f"{len(seeds)} seeds for {len(codes)} rows of codes; give one seed, or one for each row")
        reference = self.reference(codes, length)
        condition = self.condition(codes, reference.canvas)
        shape = reference.canvas.shape[1:]
        noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(own)) for own in seeds])

        def predict(x: Tensor, t: Tensor) -> Tensor:
            clean = self.predict(x, t, condition)
            if guidance_scale == 1.0:
                return clean
            free = self.predict(x, t, torch.zeros_like(condition))
            return free + guidance_scale * (clean - free)

        def show(step: int, detail: Tensor) -> None:
            if callback is not None:
                callback(step, steps, self.media(detail, reference))

        return self.media(sample(predict, noise.to(reference.canvas), steps, show), reference)

    @torch.no_grad()
    def calibrate(self, media: Tensor, codes: Tensor) -> None:
        """Set `scale` before training, to the size of the detail of media [B, C, *size] with codes [B, K, *grid]."""
        detail = self.detail(media, self.reference_of(media, codes)) * self.scale
        among = (0, 1, 3) if self.codec.modality == "audio" else (0, 1, 2, 3)
        self.scale.copy_(detail.square().mean(among, keepdim=True).sqrt().clamp(min=1e-3))

    def loss(
        self, media: Tensor, codes: Tensor, draw: torch.Generator, dropped: float = 0.1, consistency: float = 0.0
    ) -> Tensor:
        """Mean squared error of the predicted detail of media [B, C, *size] with codes [B, K, *grid].

        The codes may be wrong in part, see `corrupted`. draw: draws noise, noise levels and the rows to drop.
        dropped: share of the rows trained without condition, for guidance.
        consistency: weight of a second error that keeps the detail from changing the codes: the distance between the
        codec's latents of the predicted media and those of the codes, relative to the latents' variance. Codecs whose
        `project` gives None have no such error.
        """
        with torch.no_grad():
            reference = self.reference_of(media, codes)
            target = self.detail(media, reference)
            uniform, kept = torch.rand(2, len(media), generator=draw)
            t = training_levels(uniform, draw).to(target)
            noise = torch.randn(target.shape, generator=draw).to(target)
            kept = (kept >= dropped).to(target).view(-1, 1, 1, 1)
            condition = self.condition(codes, reference.canvas) * kept
        detail = self.predict(noisy(target, noise, t), t, condition).float()
        error = F.mse_loss(detail, target)
        projected = self.codec.project(self.media(detail, reference)) if consistency else None
        if projected is not None:
            latents = self.codec.codes_to_latents(codes)
            apart = (projected - latents).square().mean(1) * kept.view(-1, *[1] * (latents.ndim - 2))
            error = error + consistency * apart.mean() / latents.var(dim=1).mean().clamp(min=1e-6)
        return error

    def reference(self, codes: Tensor, length: int | None = None) -> Reference:
        """The codec's own reconstruction from codes [B, K, *grid]; `length`: of audio, in samples."""
        media = self.codec.decode(codes, length)
        level = self.canvas.level(media)
        return Reference(media, self.canvas.from_media(media, level), level)

    def reference_of(self, media: Tensor, codes: Tensor) -> Reference:
        """The codec's reconstruction of media [B, C, *size] from their codes [B, K, *grid], of the same size."""
        return self.reference(codes, None if self.codec.modality == "image" else media.shape[-1])

    def detail(self, media: Tensor, reference: Reference) -> Tensor:
        """The detail [B, C, H, W] of media [B, C', *size]: what is to be predicted."""
        return (self.canvas.from_media(media, reference.level) - reference.canvas) / self.scale

    def media(self, detail: Tensor, reference: Reference) -> Tensor:
        """Detail [B, C, H, W] → media [B, C', *size] in the codec's range; the inverse of `detail`."""
        return self.canvas.to_media(reference.canvas + self.scale * detail, reference.media, reference.level)

    def condition(self, codes: Tensor, canvas: Tensor) -> Tensor:
        """What the UNet sees beside the noisy detail, [B, D', H, W]: latents of codes, reconstruction, row number."""
        height, width = canvas.shape[2:]
        rows = torch.linspace(-1, 1, height, device=canvas.device).view(1, 1, -1, 1)
        seen = [canvas, rows.expand(len(canvas), 1, -1, width)]
        if self.config.latents:
            seen.insert(0, self.canvas.spread(self.codec.codes_to_latents(codes), height, width))
        return torch.cat(seen, dim=1)

    def predict(self, noisy: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """The clean detail [B, C, H, W] that the UNet predicts from noisy detail at levels t [B] in 0..1."""
        return self.unet(torch.cat([noisy, condition], dim=1), t * TIMESTEPS).sample


def corrupted(codes: Tensor, codebook_size: int, share: float, draw: torch.Generator) -> Tensor:
    """Codes with a share of them replaced by random ones, since a language model's codes differ from an encoder's."""
    wrong = torch.rand(codes.shape, generator=draw) < share
    return torch.where(wrong, torch.randint(codebook_size, codes.shape, generator=draw), codes.cpu()).to(codes.device)
