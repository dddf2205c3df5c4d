"""The diffusion decoder: codes to media by a diffusers UNet, which fills in what the codec's own decoder blurs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DModel
from torch import Tensor, nn

from decoders.codecs.base import MediaCodec
from decoders.codecs.spectrum import Spectrum

TIMESTEPS = 1000  # diffusers counts noise levels 0..1 in thousandths
LEVEL_BANDS = 16  # of sound, whose energy is kept

Preview = Callable[[int, int, Tensor], None]


@dataclass(frozen=True)
class DiffusionDecoderConfig:
    """Sizes. The UNet works on patches of `patch` × `patch` values, so that 64 pixels cost what 32 do."""

    channels: tuple[int, ...] = (64, 96, 128)  # of the UNet at each resolution, multiples of 16
    layers: int = 1
    patch: int = 2
    window: int = 256  # of the spectra in which sound is decoded
    hop: int = 80

    def __post_init__(self) -> None:
        if not self.channels or any(channels < 16 or channels % 16 for channels in self.channels):
            raise ValueError(f"channels must be multiples of 16, not {tuple(self.channels)}")
        if self.layers < 1 or self.patch < 1:
            raise ValueError("layers and patch must be at least 1")


class DiffusionDecoder(nn.Module):
    """Codes [B, K, *grid] of a frozen codec → media, by few steps from noise; one class for pictures and sound.

    What is diffused is the detail: what the media have and the codec's plain reconstruction has not, divided by `scale`
    to about unit size, or few steps would drown all of it in their noise. The UNet sees the noisy detail, the codes'
    latents spread to its resolution (nearest neighbour) and the reconstruction, and predicts the detail itself ("x0")
    on the straight path x_t = (1 − t)·x + t·noise. Of sound it is the compressed magnitudes of a spectrum, at the
    reconstruction's level, which keep its energy in each band and take their phases from it: codes do not tell phases,
    and what is learned as the mean of all phases is silence.

    Sources: 4M's DiVAE (apple/ml-4m), OpenAI's consistency decoder for the condition; rectified flow (Liu et al. 2022);
    detail beside a reconstruction: Whang et al. 2022.
    """

    def __init__(self, codec: MediaCodec, config: DiffusionDecoderConfig = DiffusionDecoderConfig()) -> None:
        super().__init__()
        self.config = config
        self.codec = codec.requires_grad_(False).eval()
        self.spectrum = Spectrum(config.window, config.hop)
        media = (3 if codec.modality == "image" else 1) * config.patch**2
        down, up = "DownBlock2D", "UpBlock2D"
        rows = -(-self.spectrum.bins // self._whole) * self._whole // config.patch if codec.modality == "audio" else 1
        self.register_buffer("scale", torch.ones(1, 1, rows, 1))  # of sound for each row: high bands hold little
        self.unet = UNet2DModel(
            in_channels=2 * media + codec.latent_dim + 1,
            out_channels=media,
            block_out_channels=tuple(config.channels),
            layers_per_block=config.layers,
            down_block_types=(down,) * len(config.channels),
            up_block_types=(up,) * len(config.channels),
            norm_num_groups=16,
            add_attention=False,
        )
        nn.init.zeros_(self.unet.conv_out.weight)  # before it has learned anything, there is no detail
        nn.init.zeros_(self.unet.conv_out.bias)

    @property
    def _whole(self) -> int:
        """What the sides of a canvas, in values, are multiples of."""
        return self.config.patch * 2 ** (len(self.config.channels) - 1)

    def train(self, mode: bool = True) -> DiffusionDecoder:
        """Sets the UNet's mode; the codec stays frozen, in eval mode."""
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
        """Codes [B, K, *grid] → media [B, C, *size] in the codec's range; of sound the first `length` samples.

        steps: 1 draft, 4, 8 for quality. seed: of the first row, the next has the next one; or one for each row.
        guidance_scale: away from the detail that comes to mind without codes; 1 is off. callback: called after each
        step with its number, their count, and the media as they stand.
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1, not {steps}")
        seeds = [int(seed) + row for row in range(len(codes))] if isinstance(seed, Integral) else list(seed)
        if len(seeds) != len(codes):
            raise ValueError(f"{len(seeds)} seeds for {len(codes)} rows of codes")
        plain = self.codec.decode(codes, length)
        condition, canvas, level = self.condition(self.codec.codes_to_latents(codes), plain)
        noise = torch.stack([torch.randn(canvas.shape[1:], generator=torch.Generator().manual_seed(s)) for s in seeds])
        x = noise.to(canvas)

        def seen(detail: Tensor) -> Tensor:
            return self.media(canvas + self.scale * detail, plain, level)

        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=TIMESTEPS)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps))
        for step, (timestep, sigma) in enumerate(zip(scheduler.timesteps, scheduler.sigmas[:-1], strict=True), start=1):
            clean = self.predict(x, sigma.expand(len(x)).to(x), condition)
            if guidance_scale != 1.0:
                free = self.predict(x, sigma.expand(len(x)).to(x), torch.zeros_like(condition))
                clean = free + guidance_scale * (clean - free)
            if callback is not None:
                callback(step, steps, seen(clean))
            x = scheduler.step((x - clean) / sigma, timestep, x).prev_sample
        return seen(x)

    @torch.no_grad()
    def calibrate(self, media: Tensor, codes: Tensor) -> None:
        """Set `scale`, before training, by media [B, C, *size] and their codes [B, K, *grid]: their detail's size."""
        detail = self.detail(media, codes)[0] * self.scale
        among = (0, 1, 3) if self.codec.modality == "audio" else (0, 1, 2, 3)
        self.scale.copy_(detail.square().mean(among, keepdim=True).sqrt().clamp(min=1e-3))

    def loss(
        self, media: Tensor, codes: Tensor, draw: torch.Generator, dropped: float = 0.1, consistency: float = 0.0
    ) -> Tensor:
        """Mean square error of the predicted detail of media [B, C, *size] given their codes, some of which are wrong.

        The noise level is drawn from sigmoid(N(0, 1)), a tenth of the time uniformly (FlowMo); a share `dropped` of the
        rows has no condition, so that guidance can be had. consistency: weight of a second error, how far the codec's
        view of the predicted media is from the latents of their codes, in units of the latents' variance; detail may
        add to what the codes say, and is not to change it. Of codecs that do not `project` there is no such error.
        """
        with torch.no_grad():
            target, condition, canvas, plain, level = self._target(media, codes)
            rows = len(media)
            uniform, kept = torch.rand(2, rows, generator=draw)
            t = torch.where(
                torch.rand(rows, generator=draw) < 0.1, uniform, torch.randn(rows, generator=draw).sigmoid()
            ).to(target)
            noise = torch.randn(target.shape, generator=draw).to(target)
            at = t.view(-1, 1, 1, 1)
            noisy = (1 - at) * target + at * noise
            seeing = (kept >= dropped).to(target).view(-1, 1, 1, 1)
        detail = self.predict(noisy, t, condition * seeing).float()
        error = F.mse_loss(detail, target)
        seen = self.codec.project(self.media(canvas + self.scale * detail, plain, level)) if consistency else None
        if seen is not None:
            latents = self.codec.codes_to_latents(codes)
            apart = (seen - latents).square().mean(1) * seeing.view(-1, *[1] * (latents.ndim - 2))
            error = error + consistency * apart.mean() / latents.var(dim=1).mean().clamp(min=1e-6)
        return error

    def detail(self, media: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """What is to be predicted of media [B, C, *size] with these codes, [B, C', H, W], and its condition."""
        return self._target(media, codes)[:2]

    def _target(self, media: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The detail, its condition, and what it is beside: the plain canvas, the plain media and their level."""
        plain = self.codec.decode(codes, None if self.codec.modality == "image" else media.shape[-1])
        condition, canvas, level = self.condition(self.codec.codes_to_latents(codes), plain)
        return (self.canvas(media, level) - canvas) / self.scale, condition, canvas, plain, level

    def predict(self, noisy: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """The detail [B, C, H, W] that noisy ones at levels t [B] in 0..1 seem to come from."""
        return self.unet(torch.cat([noisy, condition], dim=1), t * TIMESTEPS).sample

    def condition(self, latents: Tensor, plain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the UNet sees beside noise [B, D', H, W], the plain canvas [B, C, H, W], and its level [B, 1, 1, 1]."""
        level = self.level(plain)
        canvas = self.canvas(plain, level)
        spread = latents if latents.ndim == 4 else latents.unsqueeze(2)
        if self.codec.modality == "image":
            spread = F.interpolate(spread, canvas.shape[2:], mode="nearest")
        else:  # a step of codes lies where its samples do; the canvas may have been filled up behind the last
            each = self.codec.downsample / (self.config.hop * self.config.patch)
            place = (torch.arange(canvas.shape[3], device=latents.device) / each).long()
            spread = spread[..., place.clamp(max=latents.shape[-1] - 1)].expand(-1, -1, canvas.shape[2], -1)
        rows = torch.linspace(-1, 1, canvas.shape[2], device=canvas.device).view(1, 1, -1, 1)
        return torch.cat([spread, canvas, rows.expand(len(canvas), 1, -1, canvas.shape[3])], dim=1), canvas, level

    def level(self, plain: Tensor) -> Tensor:
        """What a canvas is divided by, [B, 1, 1, 1]: 1 for pictures, of sound the magnitudes' root mean square."""
        if self.codec.modality == "image":
            return plain.new_ones(len(plain), 1, 1, 1)
        return _magnitude(self._spectrum(plain)).square().mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-3)

    def canvas(self, media: Tensor, level: Tensor) -> Tensor:
        """Media as the UNet sees them [B, C, H, W], about unit size, H and W whole multiples of its coarsest cells."""
        values = media * 2 - 1 if self.codec.modality == "image" else _magnitude(self._spectrum(media)) / level
        padded = F.pad(values, (0, -values.shape[3] % self._whole, 0, -values.shape[2] % self._whole))
        return F.pixel_unshuffle(padded, self.config.patch)

    def media(self, canvas: Tensor, plain: Tensor, level: Tensor) -> Tensor:
        """A canvas as media of the plain reconstruction's size, clamped to the codec's range."""
        values = F.pixel_shuffle(canvas, self.config.patch)
        if self.codec.modality == "image":
            return (values[..., : plain.shape[2], : plain.shape[3]] * 0.5 + 0.5).clamp(0, 1)
        spectrum = self._spectrum(plain)
        own = _magnitude(spectrum)
        values = values[:, :, : own.shape[2], : own.shape[3]].clamp(min=0) * level
        values = values * (_band_level(own) / _band_level(values))
        return self.spectrum.synthesise(spectrum * (values / own))[:, None, : plain.shape[-1]].clamp(-1, 1)

    def _spectrum(self, sound: Tensor) -> Tensor:
        return self.spectrum.analyse(F.pad(sound[:, 0], (0, -sound.shape[-1] % self.spectrum.hop)))


def _magnitude(spectrum: Tensor) -> Tensor:
    """Of a complex spectrum [B, 2, bins, F]: [B, 1, bins, F]; never 0, which has no phase and no gradient."""
    return (spectrum.square().sum(1, keepdim=True) + 1e-8).sqrt()


def _band_level(magnitudes: Tensor) -> Tensor:
    """Root mean square of each bin's band [B, 1, bins, 1] of magnitudes [B, 1, bins, F]."""
    power = magnitudes.square().mean((1, 3))  # [B, bins]
    width = max(1, power.shape[1] // LEVEL_BANDS)
    bands = F.avg_pool1d(power.unsqueeze(1), width, width, ceil_mode=True, count_include_pad=False)
    return bands.repeat_interleave(width, dim=2)[:, :, : power.shape[1]].clamp(min=1e-8).sqrt().unsqueeze(-1)


def corrupted(codes: Tensor, codebook_size: int, share: float, draw: torch.Generator) -> Tensor:
    """Codes of which a share is replaced by random ones: a language model writes other codes than an encoder."""
    wrong = torch.rand(codes.shape, generator=draw) < share
    return torch.where(wrong, torch.randint(codebook_size, codes.shape, generator=draw), codes.cpu()).to(codes.device)
