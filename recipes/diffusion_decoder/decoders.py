"""The ways of decoding that are compared: a codec's own, the diffusion decoder, and its network without noise."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from decoders.codecs.base import MediaCodec
from decoders.diffusion.checkpoint import load_decoder
from decoders.diffusion.decoder import DiffusionDecoder, DiffusionDecoderConfig
from mmlm.training import CodecTrainConfig, train_decoder

STEPS = (1, 2, 4, 8, 16)
BATCH = 16  # media a training step
CONSISTENCY = 4.0  # how much it counts in training that the codes stay what they are
SECONDS = 0.5  # of sound, learned from at once

Decode = Callable[..., Tensor]  # codes, and of sound its length, to media


class DeterministicDecoder(DiffusionDecoder):
    """The same network without noise: at once to the mean of what the codes leave open."""

    def loss(self, media: Tensor, codes: Tensor, draw: torch.Generator, *others: float) -> Tensor:
        """Mean square error of the predicted media; no row loses its condition, which here would be all that it has."""
        with torch.no_grad():
            reference = self.reference_of(media, codes)
            target, condition = self.detail(media, reference), self.condition(codes, reference.canvas)
        return F.mse_loss(self._at_once(condition, target), target)

    @torch.no_grad()
    def decode(self, codes: Tensor, steps: int = 1, seed: int = 0, length: int | None = None) -> Tensor:
        reference = self.reference(codes, length)
        condition = self.condition(codes, reference.canvas)
        return self.media(self._at_once(condition, reference.canvas), reference)

    def _at_once(self, condition: Tensor, like: Tensor) -> Tensor:
        return self.predict(torch.zeros_like(like), like.new_ones(len(like)), condition)


def trained(codec: MediaCodec, training: list[str], output: Path, seeds: int, steps: int) -> dict[str, list[Decode]]:
    """Ways of decoding, each once for every seed; what is trained already is read."""
    found: dict[str, list[Decode]] = {"the codec's own": [codec.decode]}
    for kind in (DeterministicDecoder, DiffusionDecoder):
        decoders = []
        for seed in range(seeds):
            folder = output / f"{'deterministic' if kind is DeterministicDecoder else 'diffusion'}_{seed}"
            if not (folder / "decoder/config.json").exists():
                torch.manual_seed(seed)
                decoder = kind(codec, DiffusionDecoderConfig(channels=(32, 48, 64)))
                config = CodecTrainConfig(
                    steps=steps, batch_size=BATCH, seconds=SECONDS, consistency=CONSISTENCY, seed=seed
                )
                train_decoder(decoder, training, folder, config=config)
            decoder = kind(codec, DiffusionDecoderConfig(channels=(32, 48, 64)))
            decoder.load_state_dict(load_decoder(folder / "decoder", codec).state_dict())
            decoders.append(decoder.eval())
        if kind is DeterministicDecoder:
            found["deterministic, same network"] = [decoder.decode for decoder in decoders]
        else:
            for count in STEPS:
                found[f"diffusion, {count} step{'s' * (count > 1)}"] = [
                    functools.partial(decoder.decode, steps=count, seed=1000 * seed)
                    for seed, decoder in enumerate(decoders)
                ]
    return found
