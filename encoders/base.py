"""What every frozen encoder gives and promises: token features, a fixed preprocessing, a fingerprint, no gradients."""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SAMPLES_PER_TENSOR = 4096


@dataclass(frozen=True, eq=False)
class Features:
    """Token features of N media items: tokens [N, S, D]; mask [N, S] bool, True where a token is real (None: all).

    times [N, S]: when, in seconds, the window of sound or the frame of a video began that a token is of (None: 0).
    """

    tokens: Tensor
    mask: Tensor | None = None
    times: Tensor | None = None

    def __post_init__(self) -> None:
        if self.tokens.ndim != 3:
            raise ValueError(f"Features.tokens must be [N, S, D], got {list(self.tokens.shape)}")
        if self.times is not None and self.times.shape != self.tokens.shape[:2]:
            raise ValueError(
                f"Features.times must be {list(self.tokens.shape[:2])}, got {list(self.times.shape)}"
            )
        if self.mask is None:
            return
        if self.mask.dtype != torch.bool or self.mask.shape != self.tokens.shape[:2]:
            raise ValueError(
                f"Features.mask must be bool {list(self.tokens.shape[:2])}, "
                f"got {self.mask.dtype} {list(self.mask.shape)}"
            )


class FrozenEncoder(nn.Module):
    """An encoder that never trains: subclasses set `modality`, `dim` and `name`, then call `freeze()`."""

    modality: str  # "image" | "audio"
    dim: int  # width D of the tokens
    name: str | None = None  # what rebuilds it; None for a ready-made model

    def freeze(self) -> None:
        """Turn every gradient off and enter eval mode."""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Stay in eval mode whatever `mode` is, so that a parent's `train()` does not wake dropout here."""
        return super().train(False)

    @abstractmethod
    def preprocess(self, media: Any) -> Tensor:
        """One media source (anything `encoders.media` accepts) → one tensor; several make a batch for `encode`."""
        raise NotImplementedError

    # Subclasses decorate this with torch.no_grad, not inference_mode: adapters trained on top must be able to save
    # these tokens for their own backward pass.
    @abstractmethod
    def encode(self, batch: Tensor | Sequence[Tensor]) -> Features:
        """A batch of preprocessed media, stacked (a list where lengths differ) → their token features."""
        raise NotImplementedError

    def features(self, sources: Sequence[Any]) -> list[Features]:
        """Sources of any lengths → Features [1, S, D] of one item each, its real tokens alone."""
        return self.encode_items([self.preprocess(source) for source in sources])

    def encode_items(self, items: Sequence[Tensor]) -> list[Features]:
        """Preprocessed media of any lengths, encoded together → Features [1, S, D] of one item each, unpadded."""
        equal = len({item.shape for item in items}) == 1
        encoded = self.encode(torch.stack(items) if equal else items)
        found = []
        for row, tokens in enumerate(encoded.tokens):
            kept = tokens if encoded.mask is None else tokens[encoded.mask[row]]
            times = self.token_times(len(kept))
            found.append(Features(kept[None], None, None if times is None else times[None].to(kept.device)))
        return found

    def token_times(self, count: int) -> Tensor | None:
        """`Features.times` [S] of an item with so many tokens; None where all belong to one moment."""
        return None

    @abstractmethod
    def fingerprint(self) -> str:
        """Short hex string that changes when the weights or the preprocessing change."""
        raise NotImplementedError


def fingerprint(source: nn.Module | Mapping[str, Tensor]) -> str:
    """16 hex characters that identify the weights of a module or state dict.

    SHA-256 over the sorted names, shapes and at most 4096 evenly spaced values of each tensor, so that billions of
    parameters take about a second; a change that misses every sampled value is not seen. Floating-point values are
    rounded to bfloat16 first: float32 and bfloat16 copies of the same weights share one fingerprint.
    """
    tensors = source.state_dict() if isinstance(source, nn.Module) else source
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        if not isinstance(tensor, Tensor):  # a module's extra state
            continue
        if tensor.is_meta:
            raise ValueError(f"cannot fingerprint {name!r}: it is on the meta device; load its weights first")
        digest.update(f"{name} {list(tensor.shape)};".encode())
        digest.update(_sample(tensor.detach()).numpy().tobytes())
    return digest.hexdigest()[:16]


def _sample(tensor: Tensor) -> Tensor:
    """At most 4096 values of `tensor`, first and last among them, as integers on the CPU."""
    values = tensor.reshape(-1)
    if values.numel() > SAMPLES_PER_TENSOR:
        # Not a plain stride: 4096 would walk down one column of a 4096-wide matrix.
        steps = torch.arange(SAMPLES_PER_TENSOR, device=values.device)
        values = values[steps * (values.numel() - 1) // (SAMPLES_PER_TENSOR - 1)]
    if values.is_complex():
        values = torch.view_as_real(values).reshape(-1)
    if values.is_floating_point():
        # The bits of a bfloat16, read as integers: NumPy has no bfloat16.
        return values.to(torch.bfloat16).view(torch.int16).cpu()
    return values.to(torch.int64).cpu()
