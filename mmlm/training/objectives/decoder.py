"""Diffusion decoders learn, on a frozen codec, the detail that its own reconstruction lacks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from decoders.codecs.checkpoint import codec_fingerprint
from decoders.diffusion.checkpoint import save_decoder
from decoders.diffusion.decoder import DiffusionDecoder, corrupted
from encoders.base import check_device
from mmlm.training.checks import check_output
from mmlm.training.config import CodecTrainConfig
from mmlm.training.media import MediaSource, TrainingMedia
from mmlm.training.objectives.base import Objective, Part
from mmlm.training.objectives.codec import quality
from mmlm.training.owner import owned
from mmlm.training.previews import SHOWN, write_previews
from mmlm.training.result import TrainResult
from mmlm.training.shuffle import Shuffle, generator
from mmlm.training.trainer import Trainer

CALIBRATED = 256  # media that set the scale of the detail
STEPS = (1, 4, 8)  # of decoding, that are measured and shown


def train_decoder(
    decoder: DiffusionDecoder,
    data: MediaSource,
    output: str | os.PathLike,
    held_out: MediaSource | None = None,
    config: CodecTrainConfig | None = None,
    *,
    resume: bool = True,
    progress: bool = True,
) -> TrainResult:
    """Train a `DiffusionDecoder` in place on its frozen codec; writes and returns `output/decoder`.

    The moving average of the weights is what is kept. `output/previews/` shows held-out media, the codec's own
    reconstruction, and what 1, 4 and 8 steps make of its codes.
    """
    config = config or CodecTrainConfig()
    output = check_output(output)
    check_device(config.device)
    with owned(output, config.device):
        media = TrainingMedia.read(decoder.codec, data, held_out, config)
        return decoder_trainer(decoder, media, output, config, progress=progress).fit(resume=resume)


def decoder_trainer(
    decoder: DiffusionDecoder, media: TrainingMedia, output: Path, config: CodecTrainConfig, *, progress: bool = True
) -> Trainer:
    """What `train_decoder` runs, once its media are read."""
    return Trainer(DecoderObjective(decoder.to(config.device), media, config), config, output, progress=progress)


class DecoderObjective(Objective):
    """`DiffusionDecoder.loss` over media and their codes, of which some are replaced by random ones."""

    unit = "media"

    def __init__(self, decoder: DiffusionDecoder, media: TrainingMedia, config: CodecTrainConfig) -> None:
        self.name = f"{decoder.codec.modality} decoder"
        self.decoder, self.codec, self.media, self.config = decoder, decoder.codec, media, config
        average = get_ema_multi_avg_fn(config.ema_decay)
        self.average = AveragedModel(decoder.unet, multi_avg_fn=average).requires_grad_(False)
        self.module = nn.ModuleDict({"unet": decoder.unet, "average": self.average})
        self.examples, self.per_step = len(media), config.batch_size * config.accumulation
        self.order = Shuffle(self.examples, self.per_step, config.seed)
        self.preview_every = config.preview_every

    def parameters(self) -> dict[str, Parameter]:
        return {f"unet.{name}": parameter for name, parameter in self.decoder.unet.named_parameters()}

    def state(self) -> dict[str, Tensor]:
        average = {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        return {**average, "scale": cast(Tensor, self.decoder.scale)}

    def begin(self) -> None:
        draw = generator(self.config.seed, 3)
        some = self.media.batch(torch.randperm(len(self.media), generator=draw)[:CALIBRATED], draw)
        self.decoder.calibrate(some, self.codec.encode(some).codes)

    def parts(self, step: int) -> list[Part]:
        draw = generator(self.config.seed, 1, step)
        real = self.media.batch(self.order.batch(step), draw)
        return [
            Part(len(some), lambda some=some: self._loss(some, draw), len(some))
            for some in real.split(self.config.batch_size)
        ]

    def _loss(self, real: Tensor, draw: torch.Generator) -> Tensor:
        with torch.no_grad():
            codes = corrupted(self.codec.encode(real).codes, self.codec.codebook_size, self.config.corrupted, draw)
        return self.decoder.loss(real, codes, draw, self.config.dropped, self.config.consistency)

    def after_step(self) -> None:
        self.average.update_parameters(self.decoder.unet)

    def evaluate(self) -> dict[str, float]:
        """Quality (`quality`) of what the average makes of held-out codes, in 1, 4 and 8 steps."""
        shown = self.media.shown[:SHOWN]
        measured = {steps: quality(self.codec, made, shown) for steps, made in self._decoded(shown).items() if steps}
        return {f"{name}_{steps}": value for steps, own in measured.items() for name, value in own.items()}

    def preview(self, folder: Path, step: int) -> None:
        """Held-out media, the codec's reconstructions, and those of the decoder."""
        shown = self.media.shown[:SHOWN]
        write_previews(folder, step, [shown, *self._decoded(shown).values()], self.codec.sample_rate)

    def _decoded(self, shown: Tensor) -> dict[int, Tensor]:
        """What becomes of held-out media by steps of decoding, by the average; 0 is the codec's own decoding."""
        length = None if self.codec.modality == "image" else shown.shape[-1]
        codes = self.codec.encode(shown).codes
        with self._averaged():
            rows = {steps: self.decoder.decode(codes, steps, seed=self.config.seed, length=length) for steps in STEPS}
        return {0: self.codec.decode(codes, length), **rows}

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        own, self.decoder.unet = self.decoder.unet, cast(UNet2DModel, self.average.module)
        try:
            yield
        finally:
            self.decoder.unet = own

    def save(self, output: Path) -> Path:
        self.decoder.unet.load_state_dict(self.average.module.state_dict())
        return save_decoder(self.decoder.requires_grad_(False).eval(), output / "decoder")

    def identity(self) -> dict[str, Any]:
        return {
            "objective": f"{self.name} ({type(self.decoder).__name__})",
            "data": self.media.digest,
            "decoder": dataclasses.asdict(self.decoder.config),
            "codec": codec_fingerprint(self.codec),
        }
