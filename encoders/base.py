"""The interface of all frozen encoders: preprocessing, token features, a fingerprint; no gradients."""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SAMPLES_PER_TENSOR = 4096  # values of a tensor that a fingerprint reads at most


@dataclass(frozen=True, eq=False)
class Features:
    """Token features of N media items.

    tokens: [N, S, D]. mask: [N, S] bool, False for padding; None if there is none.
    times: [N, S], the start of each token's audio window or the time of its video frame, in seconds; None for all 0.
    """

    tokens: Tensor
    mask: Tensor | None = None
    times: Tensor | None = None

    def __post_init__(self) -> None:
        if self.tokens.ndim != 3:
            raise ValueError(f"Features.tokens must be [N, S, D], got {list(self.tokens.shape)}")
        if self.times is not None and self.times.shape != self.tokens.shape[:2]:
            raise ValueError(f"Features.times must be {list(self.tokens.shape[:2])}, got {list(self.times.shape)}")
        if self.mask is None:
            return
        if self.mask.dtype != torch.bool or self.mask.shape != self.tokens.shape[:2]:
            raise ValueError(
                f"Features.mask must be bool {list(self.tokens.shape[:2])}, "
                f"got {self.mask.dtype} {list(self.mask.shape)}"
            )


class FrozenEncoder(nn.Module):
    """An encoder that is never trained. Subclasses set `modality`, `dim`, `frame` and `name`, then call `freeze()`."""

    modality: str  # "image" | "audio"
    dim: int  # width D of the tokens
    frame: int | None = None  # tokens of each picture, where all have as many
    name: str | None = None  # what it can be loaded from again; None for a model that was passed in

    def freeze(self) -> None:
        """Turn off all gradients and set eval mode."""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Stay in eval mode whatever `mode` is, so that a parent's `train()` does not turn on dropout here."""
        return super().train(False)

    @abstractmethod
    def preprocess(self, media: Any) -> Tensor:
        """One media source (anything that `encoders.media` accepts) → one tensor, an item of a batch for `encode`."""

    # Subclasses decorate this with torch.no_grad, not inference_mode: adapters trained on top must be able to save
    # the tokens for their backward pass.
    @abstractmethod
    def encode(self, batch: Tensor | Sequence[Tensor]) -> Features:
        """A batch of preprocessed media, stacked, or in a list if their lengths differ → their token features."""

    def features(self, sources: Sequence[Any]) -> list[Features]:
        """Media sources of any lengths → Features [1, S, D] for each item, without padding."""
        return self.encode_items([self.preprocess(source) for source in sources])

    def encode_items(self, items: Sequence[Tensor]) -> list[Features]:
        """Preprocessed media of any lengths, encoded as one batch → Features [1, S, D] for each, without padding."""
        if not items:
            return []
        equal = len({item.shape for item in items}) == 1
        encoded = self.encode(torch.stack(list(items)) if equal else items)
        found = []
        for row, tokens in enumerate(encoded.tokens):
            kept = tokens if encoded.mask is None else tokens[encoded.mask[row]]
            times = self.token_times(len(kept))
            found.append(Features(kept[None], None, None if times is None else times[None].to(kept.device)))
        return found

    def token_times(self, count: int) -> Tensor | None:
        """`Features.times` [S] of an item with `count` tokens; None if all tokens have time 0."""
        return None

    @property
    def transcribes(self) -> bool:
        """Whether this is a whole Whisper, with its decoder."""
        return hasattr(getattr(self, "model", None), "decode")

    @abstractmethod
    def fingerprint(self) -> str:
        """A short hex string that changes if the weights or the preprocessing change."""


def fingerprint(source: nn.Module | Mapping[str, Tensor | Callable[[], Tensor]]) -> str:
    """16 hex characters that identify the weights of a module or state dict.

    SHA-256 of the names (sorted), shapes and at most 4096 evenly spaced values of each tensor, so that billions of
    parameters take about a second; a change of other values is not noticed. Floating-point values are rounded to
    bfloat16 first: float32 and bfloat16 copies of the same weights have the same fingerprint. A function in place of a
    tensor gives it when its turn comes.
    """
    state = source.state_dict() if isinstance(source, nn.Module) else source
    tensors = dict(state)
    for name, value in state.items():  # the weight and bias of a layer that torch has quantised are a tuple
        tensors |= {f"{name}.{part}": own for part, own in enumerate(value)} if isinstance(value, tuple) else {}
    digest = hashlib.sha256()
    for name in sorted(tensors):
        given = tensors[name]
        tensor = given if isinstance(given, Tensor) or not callable(given) else given()
        if not isinstance(tensor, Tensor):  # the extra state of a module
            continue
        if tensor.is_meta:
            raise ValueError(f"cannot fingerprint {name!r}: it is on the meta device; load its weights first")
        digest.update(f"{name} {list(tensor.shape)};".encode())
        digest.update(_sample(tensor.detach()).numpy().tobytes())
    return digest.hexdigest()[:16]


def is_quantised(value: object) -> bool:
    """Whether it is a quantised tensor, torch's own or of a class like torchao's."""
    return isinstance(value, Tensor) and (value.is_quantized or type(value).dequantize is not Tensor.dequantize)


def plain_values(tensor: Tensor) -> Tensor:
    """The values that a quantised tensor stands for; others as they are."""
    return tensor.dequantize() if is_quantised(tensor) else tensor


def _sample(tensor: Tensor) -> Tensor:
    """At most 4096 values of `tensor`, including the first and the last, as integers on the CPU."""
    values = plain_values(tensor).reshape(-1)
    if values.numel() > SAMPLES_PER_TENSOR:
        # Not a constant stride: a stride of 4096 would read one column of a matrix 4096 wide.
        steps = torch.arange(SAMPLES_PER_TENSOR, device=values.device)
        values = values[steps * (values.numel() - 1) // (SAMPLES_PER_TENSOR - 1)]
    if values.is_complex():
        values = torch.view_as_real(values).reshape(-1)
    if values.is_floating_point():
        # The bits of bfloat16 read as integers, since NumPy has no bfloat16.
        return values.to(torch.bfloat16).view(torch.int16).cpu()
    return values.to(torch.int64).cpu()


def device_alone(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Of what `.to()` and `.half()` do to each tensor (`Module._apply`): its device changes, its type does not."""

    def moved(tensor: Tensor) -> Tensor:
        found = change(tensor)
        return found if found.dtype == tensor.dtype else tensor.to(found.device)

    return moved


def check_tensor(value: Any, wanted: str) -> None:
    """TypeError for what is no tensor, ValueError for one of the meta device, which has no values.

    wanted: what is expected, for the message.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"expected {wanted} as a tensor, not {type(value).__name__}")
    if value.is_meta:
        raise ValueError(f"expected {wanted}, got a tensor of the meta device, which has no values")


def check_device(device: str | torch.device) -> None:
    """TypeError for what is no device, ValueError for one that does not exist here."""
    if not isinstance(device, str | torch.device | int) or isinstance(device, bool):
        raise TypeError(f"device is a name such as 'cpu' or 'cuda', not {device!r}")
    try:
        found = torch.empty(1, device=device)
        found.cpu()
    except Exception as error:  # each backend has its own
        raise ValueError(
            f"there is no device {str(device)!r} here: take 'cpu', or 'cuda' where torch sees a GPU"
        ) from error
