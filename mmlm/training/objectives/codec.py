"""Codecs learn from media alone to give them back through their codes."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from decoders.codecs.adversarial import PatchCritic, adversarial_losses
from decoders.codecs.audio_vqvae import AudioVQVAE, sound_loss
from decoders.codecs.base import MediaCodec
from decoders.codecs.checkpoint import save_codec
from decoders.codecs.image_vqvae import ImageVQVAE, picture_loss
from decoders.codecs.spectrum import spectral_distance
from encoders.base import check_device, fingerprint
from mmlm.model.draws import OwnDraws
from mmlm.training.checks import check_output
from mmlm.training.config import CodecTrainConfig
from mmlm.training.media import MediaSource, TrainingMedia
from mmlm.training.objectives.base import Objective, Part
from mmlm.training.owner import owned
from mmlm.training.previews import SHOWN, write_previews
from mmlm.training.result import TrainResult
from mmlm.training.shuffle import Shuffle, generator
from mmlm.training.trainer import Trainer

Codec = ImageVQVAE | AudioVQVAE
Distance = Callable[[Tensor, Tensor], Tensor]


def train_codec(
    codec: Codec,
    data: MediaSource,
    output: str | os.PathLike,
    held_out: MediaSource | None = None,
    config: CodecTrainConfig | None = None,
    perceptual: Distance | None = None,
    *,
    resume: bool = True,
    progress: bool = True,
) -> TrainResult:
    """Train a codec in place and write `output/codec`; returns that folder.

    data, held_out: as `mmlm.data.media.find_media` takes them. perceptual: a loss of reconstructed and real media,
    such as `clip_distance`, that is added.
    `output/metrics.jsonl` gets the loss, and, of held-out media (or else of the first ones of training), the quality
    of the reconstruction and the use of the codebook; `output/previews/` shows them beside the real ones.
    """
    config = config or CodecTrainConfig()
    output = check_output(output)
    check_device(config.device)
    with owned(output, config.device):
        media = TrainingMedia.read(codec, data, held_out, config)
        return codec_trainer(codec, media, output, config, perceptual, progress=progress).fit(resume=resume)


def codec_trainer(
    codec: Codec,
    media: TrainingMedia,
    output: Path,
    config: CodecTrainConfig,
    perceptual: Distance | None = None,
    *,
    progress: bool = True,
) -> Trainer:
    """What `train_codec` runs, once its media are read."""
    return Trainer(
        CodecObjective(codec.to(config.device), media, config, perceptual), config, output, progress=progress
    )


class CodecObjective(Objective):
    """Distance of reconstructed from real media, the quantizer's loss and, from some step on, a critic's.

    With `tune="decoder"` the codec's decoder alone trains, and codes stay as they are.
    """

    unit = "media"
    draws = True

    def __init__(
        self, codec: Codec, media: TrainingMedia, config: CodecTrainConfig, perceptual: Distance | None = None
    ) -> None:
        self.name = f"{codec.modality} codec"
        self.codec, self.media, self.config, self.perceptual = codec, media, config, perceptual
        self.critic = _critic(codec, config)
        parts: dict[str, nn.Module] = {"codec": codec} if self.critic is None else {
            "codec": codec, "critic": self.critic
        }  # fmt: skip
        self.module = nn.ModuleDict(parts)
        self.examples, self.per_step = len(media), config.batch_size * config.accumulation
        self.order = Shuffle(self.examples, self.per_step, config.seed)
        self.preview_every = config.preview_every

    def parameters(self) -> dict[str, Parameter]:
        frozen = ("codec.encoder.", "codec.quantizer.") if self.config.tune == "decoder" else ()
        return {name: p for name, p in self.module.named_parameters() if not name.startswith(frozen)}

    def train(self, mode: bool) -> None:
        self.module.train(mode)
        if self.config.tune == "decoder":
            self.codec.eval()  # in training mode a codebook moves with what it is shown

    def parts(self, step: int) -> list[Part]:
        real = self.media.batch(self.order.batch(step), generator(self.config.seed, 1, step))
        return [
            Part(len(some), lambda some=some: self._loss(some, step), len(some))
            for some in real.split(self.config.batch_size)
        ]

    def _loss(self, real: Tensor, step: int) -> Tensor:
        made, _, quantizer_loss = self.codec.reconstruct(real)
        distance = _distance(self.codec, made, real)
        if self.perceptual is not None:
            distance = distance + self.perceptual(made, real)
        total = distance if quantizer_loss is None else distance + quantizer_loss
        start = self.config.adversarial_from
        if self.critic is not None and start is not None and step >= start:
            last = [weight for weight in self.codec.decoder.parameters() if weight.ndim > 1][-1]
            total = total + sum(adversarial_losses(self.critic, made, real, distance, last))
        return total

    def evaluate(self) -> dict[str, float]:
        """Quality of reconstructions (`quality`), and of codebooks the share in use and the perplexity."""
        if not self.codec.quantizer.initialised:
            return {}
        shown = self.media.shown
        encoded, made = self._reconstructed(shown)
        used = {"usage": float(encoded.usage.mean()), "perplexity": float(encoded.perplexity.mean())}
        return {**quality(self.codec, made, shown), **used}

    def preview(self, folder: Path, step: int) -> None:
        """Held-out media above their reconstructions."""
        shown = self.media.shown[:SHOWN]
        write_previews(folder, step, [shown, self._reconstructed(shown)[1]], self.codec.sample_rate)

    def _reconstructed(self, shown: Tensor) -> tuple[Any, Tensor]:
        encoded = self.codec.encode(shown)
        return encoded, self.codec.decode(encoded.codes, None if self.codec.modality == "image" else shown.shape[-1])

    def save(self, output: Path) -> Path:
        return save_codec(self.codec.requires_grad_(False).eval(), output / "codec")

    def identity(self) -> dict[str, Any]:
        frozen = {}
        if self.config.tune == "decoder":
            frozen = {name: fingerprint(getattr(self.codec, name)) for name in ("encoder", "quantizer")}
        judge = self.perceptual
        return {
            "objective": self.name,
            "data": self.media.digest,
            "codec": dataclasses.asdict(self.codec.config),
            "perceptual": None if judge is None else getattr(judge, "identity", getattr(judge, "__qualname__", "")),
            **frozen,
        }


def _critic(codec: Codec, config: CodecTrainConfig) -> PatchCritic | None:
    if config.adversarial_from is None:
        return None
    with OwnDraws(config.seed):
        return PatchCritic(codec.channels, 2 if codec.modality == "image" else 1).to(config.device)


def _distance(codec: Codec, made: Tensor, real: Tensor) -> Tensor:
    if isinstance(codec, ImageVQVAE):
        return picture_loss(made, real)
    return sound_loss(made, real, codec.spectrum, codec.config.sample_rate)


def quality(codec: MediaCodec, made: Tensor, real: Tensor) -> dict[str, float]:
    """How near media are to the real ones: of pictures, the PSNR in dB; of sound, the log-mel distance in bels."""
    if codec.sample_rate is None:
        return {"psnr": 10 * math.log10(1 / max(1e-10, float(F.mse_loss(made, real))))}
    return {"log_mel_distance": float(spectral_distance(made[:, 0], real[:, 0], codec.sample_rate))}
