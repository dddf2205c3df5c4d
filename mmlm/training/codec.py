"""Training of codecs, and of diffusion decoders on frozen codecs, from media alone; both resume where they stopped."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from decoders.codecs.adversarial import PatchCritic, adversarial_losses
from decoders.codecs.audio_vqvae import AudioVQVAE, sound_loss
from decoders.codecs.base import MediaCodec
from decoders.codecs.checkpoint import codec_fingerprint, save_codec
from decoders.codecs.image_vqvae import ImageVQVAE, picture_loss
from decoders.codecs.spectrum import spectral_distance
from decoders.diffusion.checkpoint import save_decoder
from mmlm.data.media import Pictures, Recordings, find_media
from mmlm.training.fit import Schedule, Shuffle, fit, generator
from mmlm.training.previews import write_previews

SHOWN = 16  # held-out media that are written to look at


@dataclass(frozen=True)
class CodecTrainConfig:
    """How to train a codec or a diffusion decoder. `seconds`: of sound, how long the stretches are that it learns from.

    Of a codec: `tune`, all of it, or its "decoder" alone, so that codes, and all that was made of them, stay what they
    are; `adversarial_from`, the step from which a critic of patches judges as well (VQGAN); None, never. Of a diffusion
    decoder: `corrupted`, the share of codes that are wrong in training, `dropped`, of rows without a
    condition, `consistency`, how much it counts that the codes stay what they are (`DiffusionDecoder.loss`), and
    `ema_decay` of the average that is kept.
    """

    steps: int = 2000
    batch_size: int = 32
    learning_rate: float = 1e-3
    seconds: float = 1.0
    tune: Literal["all", "decoder"] = "all"
    adversarial_from: int | None = None
    corrupted: float = 0.03
    dropped: float = 0.1
    consistency: float = 1.0
    ema_decay: float = 0.995
    preview_every: int = 500
    precision: str = "auto"
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.tune not in ("all", "decoder"):
            raise ValueError(f'tune is "all" or "decoder", not {self.tune!r}')
        for name in ("steps", "batch_size", "preview_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.learning_rate <= 0 or self.seconds <= 0:
            raise ValueError("learning_rate and seconds must be above 0")
        if not (0 <= self.corrupted < 1 and 0 <= self.dropped < 1 and 0 <= self.ema_decay < 1):
            raise ValueError("corrupted, dropped and ema_decay are shares, from 0 to below 1")
        if self.consistency < 0:
            raise ValueError(f"consistency must be at least 0, not {self.consistency}")

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.steps, self.learning_rate, weight_decay=0.01, precision=self.precision)


def train_codec(
    codec: ImageVQVAE | AudioVQVAE,
    data: str | os.PathLike | Sequence,
    output: str | Path,
    held_out: str | os.PathLike | Sequence | None = None,
    config: CodecTrainConfig = CodecTrainConfig(),
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    progress: bool = True,
) -> Path:
    """Train in place and write `output/codec`; gives that folder. `data`, `held_out`: as `mmlm.data.media.find_media`.

    `perceptual`: a loss of made and real media that is added, such as LPIPS. In `output`, metrics.jsonl tells the loss,
    and of held-out media (else of the first ones of training) the reconstruction's quality and the codebook's use;
    `previews/` shows them beside the real ones.
    """
    output = Path(output)
    media, shown = _media(codec, data, held_out, config)
    trained = nn.ModuleDict({"codec": codec})
    if config.adversarial_from is not None:
        dimensions = 2 if codec.modality == "image" else 1
        trained["critic"] = PatchCritic(codec.channels, dimensions)
    trained.requires_grad_(True).to(config.device)
    if config.tune == "decoder":
        codec.encoder.requires_grad_(False)
        codec.quantizer.requires_grad_(False)
    order = Shuffle(len(media), config.batch_size, config.seed)

    def loss_at(step: int) -> Tensor:
        if config.tune == "decoder":
            codec.eval()  # a codebook in training moves with what it is shown
        draw = generator(config.seed, 1, step)
        real = media.batch(order.batch(step), draw).to(config.device)
        devices = [real.device] if real.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):  # the quantiser draws from the global state
            torch.default_generator.manual_seed(config.seed * 1_000_003 + step)
            if devices:
                torch.cuda.default_generators[real.device.index or 0].manual_seed(config.seed * 1_000_003 + step)
            made, _, loss = codec.reconstruct(real)
        distance = _distance(codec, made, real)
        if perceptual is not None:
            distance = distance + perceptual(made, real)
        total = distance if loss is None else distance + loss
        if config.adversarial_from is not None and step >= config.adversarial_from:
            total = total + sum(adversarial_losses(trained["critic"], made, real, distance, _last_weight(codec)))
        return total

    def after_step(done: int) -> dict[str, float]:
        if done % config.preview_every and done != config.steps:
            return {}
        codec.eval()
        with torch.no_grad():
            encoded = codec.encode(shown)
            made = codec.decode(encoded.codes, None if codec.modality == "image" else shown.shape[-1])
        codec.train()
        write_previews(output / "previews", done, [shown[:SHOWN], made[:SHOWN]], codec.sample_rate)
        used = {"usage": float(encoded.usage.mean()), "perplexity": float(encoded.perplexity.mean())}
        return {**quality(codec, made, shown), **used}

    identity = f"{config} {codec.config} {len(media)}"
    fit(trained, loss_at, config.schedule, output, f"{codec.modality} codec", after_step, progress, identity)
    return save_codec(codec.requires_grad_(False).eval(), output / "codec")


def train_decoder(
    decoder: nn.Module,
    data: str | os.PathLike | Sequence,
    output: str | Path,
    held_out: str | os.PathLike | Sequence | None = None,
    config: CodecTrainConfig = CodecTrainConfig(),
    progress: bool = True,
) -> Path:
    """Train a `DiffusionDecoder` in place on its frozen codec and write `output/decoder`, the average of its weights.

    `previews/` shows held-out media, the codec's plain reconstruction, and what 1, 4 and 8 steps make of its codes.
    """
    from decoders.diffusion.decoder import corrupted

    output, codec = Path(output), decoder.codec
    media, shown = _media(codec, data, held_out, config)
    decoder.to(config.device).unet.requires_grad_(True)
    draw = generator(config.seed, 3)
    some = media.batch(torch.randperm(len(media), generator=draw)[:256], draw).to(config.device)
    decoder.calibrate(some, codec.encode(some).codes)
    average = AveragedModel(decoder.unet, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay)).requires_grad_(False)
    trained = nn.ModuleDict({"unet": decoder.unet, "average": average})
    order = Shuffle(len(media), config.batch_size, config.seed)

    def loss_at(step: int) -> Tensor:
        draw = generator(config.seed, 1, step)
        real = media.batch(order.batch(step), draw).to(config.device)
        with torch.no_grad():
            codes = corrupted(codec.encode(real).codes, codec.codebook_size, config.corrupted, draw)
        return decoder.loss(real, codes, draw, config.dropped, config.consistency)

    def after_step(done: int) -> dict[str, float]:
        average.update_parameters(decoder.unet)
        if done % config.preview_every and done != config.steps:
            return {}
        own, decoder.unet = decoder.unet, average.module
        try:
            some = shown[:SHOWN]
            length = None if codec.modality == "image" else some.shape[-1]
            codes = codec.encode(some).codes
            rows = {steps: decoder.decode(codes, steps, seed=config.seed, length=length) for steps in (1, 4, 8)}
        finally:
            decoder.unet = own
        plain = codec.decode(codes, length)
        write_previews(output / "previews", done, [some, plain, *rows.values()], codec.sample_rate)
        measured = {steps: quality(codec, made, some) for steps, made in rows.items()}
        return {f"{name}_{steps}": value for steps, own in measured.items() for name, value in own.items()}

    identity = f"{config} {decoder.config} {codec_fingerprint(codec)} {len(media)}"
    fit(trained, loss_at, config.schedule, output, f"{codec.modality} decoder", after_step, progress, identity)
    decoder.unet.load_state_dict(average.module.state_dict())
    return save_decoder(decoder.requires_grad_(False).eval(), output / "decoder")


def quality(codec: MediaCodec, made: Tensor, real: Tensor) -> dict[str, float]:
    """How near media are to the real ones: of pictures, the PSNR in dB; of sound, the log-mel distance in bels."""
    if codec.modality == "image":
        return {"psnr": 10 * math.log10(1 / max(1e-10, float(F.mse_loss(made, real))))}
    return {"log_mel_distance": float(spectral_distance(made[:, 0], real[:, 0], codec.sample_rate))}


def _distance(codec: ImageVQVAE | AudioVQVAE, made: Tensor, real: Tensor) -> Tensor:
    if codec.modality == "image":
        return picture_loss(made, real)
    return sound_loss(made, real, codec.spectrum, codec.sample_rate)


def _last_weight(codec: ImageVQVAE | AudioVQVAE) -> Tensor:
    return [weight for weight in codec.decoder.parameters() if weight.ndim > 1][-1]


def _media(
    codec: MediaCodec, data: str | os.PathLike | Sequence, held_out: str | os.PathLike | Sequence | None,
    config: CodecTrainConfig,
) -> tuple[Pictures | Recordings, Tensor]:  # fmt: skip
    """Media to train on, and a batch [B, C, *size] to measure and to look at, on the config's device."""

    def read(source: str | os.PathLike | Sequence) -> Pictures | Recordings:
        places = find_media(source, codec.modality)
        if codec.modality == "image":
            return Pictures(places, codec.size)
        samples = round(config.seconds * codec.sample_rate)
        return Recordings(places, codec.sample_rate, samples + -samples % codec.downsample)

    media = read(data)
    measured = media if held_out is None else read(held_out)
    chosen = range(min(256, len(measured)))
    return media, measured.batch(chosen, generator(config.seed, 2)).to(config.device)
