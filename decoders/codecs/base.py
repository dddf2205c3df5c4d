"""The interface of all codecs: media → discrete codes → media, with checked inputs and codebook statistics."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from encoders.base import check_tensor, device_alone


class NonFiniteLatentsError(ValueError):
    """A codec computed NaN or infinite latents, whose codes would be arbitrary."""


@dataclass(frozen=True, eq=False)
class Encoding:
    """The result of encoding a batch of media.

    codes: [B, K, *grid] int64, from K codebooks. latents: [B, D, *grid], the vectors that the codes stand for.
    usage: [K], the share of each codebook's entries that occur in this batch.
    perplexity: [K], the number of equally frequent entries that would have the same entropy.
    loss: the quantiser's training loss, a scalar; None in evaluation.
    """

    codes: Tensor
    latents: Tensor
    usage: Tensor
    perplexity: Tensor
    loss: Tensor | None = None


class MediaCodec(nn.Module):
    """Media ↔ codes. Images are [B, 3, H, W] in 0..1, audio is [B, 1, T] in −1..1, whatever range the network uses.

    Subclasses set the attributes below and define `_encode`, `_latents` and `_decode`, whose inputs have been checked.
    """

    modality: str  # "image" | "audio"
    codebook_size: int
    num_codebooks: int
    latent_dim: int  # D of the latents
    downsample: int  # pixels per side, or samples, that one code covers; of a fixed size and grid rounded down
    size: int | None = None  # pixels per side of an image; None for any multiple of `downsample`, and for audio
    sample_rate: int | None = None  # Hz; None for images
    name: str | None = None  # the source it can be loaded from again; None if it has no such source
    subfolder: str = ""  # where in that source

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # In 16 bits a vector may be nearer to another code, and aMUSEd's decoder gives NaN.
        return super()._apply(device_alone(fn), recurse)

    @property
    def channels(self) -> int:
        """Channels of the media: 3 for images, 1 for audio."""
        return 3 if self.modality == "image" else 1

    @property
    def value_range(self) -> tuple[float, float]:
        """Smallest and largest value of the media."""
        return (0.0, 1.0) if self.modality == "image" else (-1.0, 1.0)

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of an image's codes; None if the size is not fixed, and for audio."""
        return None if self.size is None else (self.size // self.downsample, self.size // self.downsample)

    @property
    def frame_rate(self) -> float | None:
        """Steps of codes per second; None for images."""
        return None if self.sample_rate is None else self.sample_rate / self.downsample

    def frames(self, samples: int) -> int:
        """Number of steps of codes for this many samples."""
        return math.ceil(samples / self.downsample)

    def encode(self, media: Tensor) -> Encoding:
        """A batch of media [B, C, *size] → its codes. ValueError for a wrong shape or range, or values not finite.

        Audio is padded with silence to a whole number of steps; `decode(codes, length=...)` cuts the padding off.
        """
        self._check_media(media)
        with torch.autocast(media.device.type, enabled=False):  # codes must not depend on the caller's precision
            codes, latents, loss = self._encode(media.float())
        usage, perplexity = codebook_statistics(codes, self.codebook_size)
        return Encoding(codes, latents, usage, perplexity, loss)

    def codes_to_latents(self, codes: Tensor) -> Tensor:
        """Codes [B, K, *grid] → latents [B, D, *grid]. ValueError for codes out of range or a wrong grid."""
        self._check_codes(codes)
        with torch.autocast(codes.device.type, enabled=False):
            return self._latents(codes.long())

    def decode(self, codes: Tensor, length: int | None = None) -> Tensor:
        """Codes [B, K, *grid] → media [B, C, *size] in `value_range`.

        length: of audio, how many samples to return, from the start; None for all.
        ValueError for codes out of range, a wrong grid, or more samples than the codes cover.
        """
        latents = self.codes_to_latents(codes)
        longest = latents.shape[-1] * self.downsample
        if length is not None and (self.modality == "image" or not 0 < length <= longest):
            raise ValueError(
                f"length must be 1 to {longest} samples for these codes, not {length}"
                if self.modality == "audio"
                else "length applies to audio only; leave it out for images"
            )
        with torch.autocast(codes.device.type, enabled=False):
            media = self._decode(latents).clamp(*self.value_range)
        return media if length is None else media[..., :length]

    def project(self, media: Tensor) -> Tensor | None:
        """The vectors [B, D, *grid] of media [B, C, *size] before quantisation, with gradients.

        None for codecs that do not expose them: published ones, and those whose quantiser rounds or takes signs.
        """
        return None

    @abstractmethod
    def _encode(self, media: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Media in range → codes, latents, loss."""

    @abstractmethod
    def _latents(self, codes: Tensor) -> Tensor: ...

    @abstractmethod
    def _decode(self, latents: Tensor) -> Tensor: ...

    def _check_media(self, media: Tensor) -> None:
        check_tensor(media, "media")
        shape, low, high = list(media.shape), *self.value_range
        if media.ndim != (4 if self.modality == "image" else 3) or shape[1] != self.channels or 0 in shape:
            wanted = "[B, 3, H, W]" if self.modality == "image" else "[B, 1, T]"
            raise ValueError(f"this codec takes {self.modality} {wanted}, not {shape}")
        if self.size is not None and shape[2:] != [self.size, self.size]:
            raise ValueError(f"this codec takes images of {self.size} × {self.size} pixels, not {shape[2:]}")
        free = self.modality == "image" and self.size is None
        if free and (shape[2] % self.downsample or shape[3] % self.downsample):
            raise ValueError(f"the sides of an image must be multiples of {self.downsample} pixels, not {shape[2:]}")
        if not media.is_floating_point():
            raise ValueError(f"media must be floating point in {low:g}..{high:g}, not {media.dtype}")
        if not bool(torch.isfinite(media).all()):
            raise ValueError("the media contain NaN or infinite values")
        least, most = float(media.min()), float(media.max())
        if least < low - 1e-3 or most > high + 1e-3:
            raise ValueError(f"media must lie in {low:g}..{high:g}; these range from {least:.3g} to {most:.3g}")

    def _check_codes(self, codes: Tensor) -> None:
        check_tensor(codes, "codes")
        shape = list(codes.shape)
        if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise ValueError(f"codes must be integers, not {codes.dtype}")
        if codes.ndim != (4 if self.modality == "image" else 3) or 0 in shape:
            raise ValueError(f"codes are [B, K, {'h, w' if self.modality == 'image' else 'T'}], not {shape}")
        if shape[1] != self.num_codebooks:
            raise ValueError(f"this codec has {self.num_codebooks} codebooks, but the codes are from {shape[1]}")
        if self.grid is not None and tuple(shape[2:]) != self.grid:
            raise ValueError(f"this codec's grid is {self.grid}, but the codes' grid is {tuple(shape[2:])}")
        least, most = int(codes.min()), int(codes.max())
        if least < 0 or most >= self.codebook_size:
            wrong = least if least < 0 else most
            raise ValueError(f"code {wrong} is outside the codebook, 0..{self.codebook_size - 1}")


def codebook_statistics(codes: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    """Usage [K] and perplexity [K] of codes [B, K, *grid], as in `Encoding`."""
    by_codebook = codes.transpose(0, 1).flatten(1)
    counts = torch.stack([torch.bincount(own, minlength=codebook_size) for own in by_codebook]).float()
    shares = counts / counts.sum(1, keepdim=True)
    return (counts > 0).float().mean(1), torch.exp(-torch.xlogy(shares, shares).sum(1))


@torch.no_grad()
def agreement(codec: MediaCodec, codes: Tensor) -> float:
    """Share of codes [B, K, *grid] that are the same after decoding and encoding again: 1 for a perfect round trip."""
    again = codec.encode(codec.decode(codes)).codes
    return float((again == codes).float().mean())
