"""Sizes of what is added to the frozen parts, as dataclasses."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ResamplerConfig:
    """Sizes of a PerceiverResampler; the defaults are Flamingo's. `depth=0` lets every token pass as it is.

    `timed`: whether tokens tell their time, for recordings of several windows and for videos. `stack`: so many tokens
    in a row become one before all else.
    """

    depth: int = 6
    num_latents: int = 64
    heads: int = 8
    dim_head: int = 64
    ff_mult: int = 4
    timed: bool = False
    stack: int = 1


@dataclass(frozen=True)
class FusionConfig:
    """Sizes and places of the gated cross-attention blocks; the defaults are OpenFlamingo-3B's.

    `visibility`: a text token sees the "latest" item before it, the latest "group" of consecutive items, or "all".
    """

    cross_attention_every: int = 1
    visibility: str = "latest"
    heads: int = 8
    dim_head: int = 64
    ff_mult: int = 4


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters of the language model's linear layers, for writing codes; a rank of 0 is none."""

    rank: int = 8
    alpha: float = 16.0

    def __post_init__(self) -> None:
        if self.rank < 0 or self.alpha <= 0:
            raise ValueError(f"lora needs a rank of at least 0 and an alpha above 0, not {self.rank} and {self.alpha}")
