"""Sizes of the modules that are added to the frozen parts."""

from dataclasses import dataclass, fields

from decoders.values import check_kinds, check_least


@dataclass(frozen=True)
class ResamplerConfig:
    """Sizes of a `PerceiverResampler`; the defaults are Flamingo's.

    depth: number of layers; 0 passes every token on, without latents. num_latents: latents per item.
    heads, dim_head: attention heads and their width. ff_mult: width of the feed-forward layers, in widths of the model.
    timed: adds to each token the time at which its window or frame begins; for long recordings and for videos.
    stack: number of consecutive tokens that are first joined into one, at least 1.
    TypeError or ValueError, naming the field, for a value that cannot be.
    """

    depth: int = 6
    num_latents: int = 64
    heads: int = 8
    dim_head: int = 64
    ff_mult: int = 4
    timed: bool = False
    stack: int = 1

    def __post_init__(self) -> None:
        check_kinds(self)
        check_least(self, depth=0, num_latents=1, heads=1, dim_head=1, ff_mult=1, stack=1)


DEFAULTS = {"image": ResamplerConfig(depth=0, stack=4), "audio": ResamplerConfig(depth=0, stack=4, timed=True)}
"""The resamplers of new adapters, by the modality of an encoder, where none is given."""

WHY = {
    "image": "the default: text that attends to the patches themselves learns soonest, see docs/ears.md",
    "audio": "the default: text that attends to every token hears soonest, see docs/ears.md",
    "fusion": "the default, OpenFlamingo-3B's",
}
"""Why these are the defaults, and that of fusion."""


@dataclass(frozen=True)
class FusionConfig:
    """How media join the language model; the defaults are OpenFlamingo-3B's gated cross-attention.

    kind: "cross_attention" (Flamingo), the text attends to media in gated blocks, whose sizes are the other settings;
        or "prefix" (LLaVA), media stand among the words, and there are no other settings.
    cross_attention_every: a gated block precedes every n-th block of the language model; 1 to the number of its blocks,
        which is checked where the model is put together.
    visibility: a text token sees the "latest" item before it, the latest "group" of consecutive items, or "all".
    heads, dim_head: attention heads and their width. ff_mult: width of the feed-forward layers, in widths of the model.
    TypeError or ValueError, naming the field, for a value that cannot be.
    """

    cross_attention_every: int = 1
    visibility: str = "latest"
    heads: int = 8
    dim_head: int = 64
    ff_mult: int = 4
    kind: str = "cross_attention"

    def __post_init__(self) -> None:
        check_kinds(self)
        check_least(self, heads=1, dim_head=1, ff_mult=1)
        if self.kind not in ("cross_attention", "prefix"):
            raise ValueError(f"kind must be 'cross_attention' or 'prefix', not {self.kind!r}")
        of_blocks = [f.name for f in fields(self) if f.name != "kind" and getattr(self, f.name) != f.default]
        if self.kind == "prefix" and of_blocks:
            raise ValueError(f"{', '.join(of_blocks)}: of gated blocks, which kind 'prefix' has none of; leave it out")
        if self.visibility not in ("latest", "group", "all"):
            raise ValueError(f"visibility must be 'latest', 'group' or 'all', not {self.visibility!r}")


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters of the language model's linear layers.

    rank: 0 for no adapters. alpha: the adapters' outputs are scaled by alpha / rank.
    reads: whether they act in every request, and train with what joins media; otherwise they act while codes are
        written, and text stays the language model's own.
    dora: whether each row of a layer's weight also has a learned length (DoRA).
    layers: the names of the linear layers, such as "q_proj,v_proj"; "" for all inside the blocks.
    ValueError for a negative rank, or an alpha that is not positive.
    """

    rank: int = 8
    alpha: float = 16.0
    reads: bool = False
    dora: bool = False
    layers: str = ""

    @property
    def layer_names(self) -> frozenset[str]:
        """Those of `layers`; none for all."""
        return frozenset(name.strip() for name in self.layers.split(",") if name.strip())

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.rank < 0 or self.alpha <= 0:
            raise ValueError(f"LoRA needs a rank of at least 0 and an alpha above 0, not {self.rank} and {self.alpha}")


@dataclass(frozen=True)
class ReadingLora(LoraConfig):
    """LoRA in a recipe of adapters has the settings of `LoraConfig`, and acts in every request."""

    reads: bool = True
