"""VQGAN as taming-transformers and LlamaGen compute it, written out over a state dict with their names: no modules.

Sources: taming/modules/diffusionmodules/model.py and taming/modules/vqvae/quantize.py of CompVis/taming-transformers;
tokenizer/tokenizer_image/vq_model.py of FoundationVision/LlamaGen.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """A small network, by the names of one of the two: levels outermost first."""

    name: str  # "taming" | "llamagen"
    widths: tuple[int, ...] = (32, 32, 64)
    attends: tuple[bool, ...] = (False, False, True)
    blocks: int = 2
    channels: int = 16  # z_channels
    codes: int = 48
    dim: int = 8

    def down(self, level: int) -> str:
        return f"encoder.down.{level}" if self.name == "taming" else f"encoder.conv_blocks.{level}"

    def up(self, level: int) -> str:
        return f"decoder.up.{level}" if self.name == "taming" else f"decoder.conv_blocks.{len(self.widths) - 1 - level}"

    @property
    def block(self) -> str:
        return "block" if self.name == "taming" else "res"

    @property
    def mid(self) -> tuple[str, str, str]:
        return ("block_1", "attn_1", "block_2") if self.name == "taming" else ("0", "1", "2")


def random_weights(layout: Layout, seed: int = 0) -> Weights:
    """A state dict as upstream would save it, with what belongs to training too."""
    generator = torch.Generator().manual_seed(seed)
    made: Weights = {}

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def conv(name: str, before: int, after: int, kernel: int) -> None:
        made[f"{name}.weight"] = normal(after, before, kernel, kernel) / (before * kernel**2) ** 0.5
        made[f"{name}.bias"] = 0.1 * normal(after)

    def norm(name: str, width: int) -> None:
        made[f"{name}.weight"], made[f"{name}.bias"] = 1 + 0.2 * normal(width), 0.2 * normal(width)

    def residual(name: str, before: int, after: int) -> None:
        norm(f"{name}.norm1", before)
        conv(f"{name}.conv1", before, after, 3)
        norm(f"{name}.norm2", after)
        conv(f"{name}.conv2", after, after, 3)
        if before != after:
            conv(f"{name}.nin_shortcut", before, after, 1)

    def attention(name: str, width: int) -> None:
        norm(f"{name}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.{part}", width, width, 1)

    def middle(name: str, width: int) -> None:
        residual(f"{name}.{layout.mid[0]}", width, width)
        attention(f"{name}.{layout.mid[1]}", width)
        residual(f"{name}.{layout.mid[2]}", width, width)

    last, inner = len(layout.widths) - 1, layout.widths[-1]
    conv("encoder.conv_in", 3, layout.widths[0], 3)
    before = layout.widths[0]
    for level, width in enumerate(layout.widths):
        for i in range(layout.blocks):
            residual(f"{layout.down(level)}.{layout.block}.{i}", before, width)
            before = width
            if layout.attends[level]:
                attention(f"{layout.down(level)}.attn.{i}", width)
        if level != last:
            conv(f"{layout.down(level)}.downsample.conv", width, width, 3)
    middle("encoder.mid", inner)
    norm("encoder.norm_out", inner)
    conv("encoder.conv_out", inner, layout.channels, 3)
    conv("quant_conv", layout.channels, layout.dim, 1)
    made["quant_conv.weight"] *= 2  # as far apart as the codebook's entries
    conv("post_quant_conv", layout.dim, layout.channels, 1)
    conv("decoder.conv_in", layout.channels, inner, 3)
    middle("decoder.mid", inner)
    for level in range(last, -1, -1):
        width = layout.widths[level]
        for i in range(layout.blocks + 1):
            residual(f"{layout.up(level)}.{layout.block}.{i}", before, width)
            before = width
            if layout.attends[level]:
                attention(f"{layout.up(level)}.attn.{i}", width)
        if level != 0:
            conv(f"{layout.up(level)}.upsample.conv", width, width, 3)
    norm("decoder.norm_out", layout.widths[0])
    conv("decoder.conv_out", layout.widths[0], 3, 3)
    made["decoder.conv_out.weight"] *= 0.4  # so that most pixels lie within the range
    made["quantize.embedding.weight"] = normal(layout.codes, layout.dim)
    if layout.name == "taming":
        made["loss.discriminator.main.0.weight"] = normal(4, 3, 4, 4)
        made["loss.logvar"] = normal(1)[0]
    else:
        made["quantize.codebook_used"] = torch.zeros(65536)
    return made


def conv(w: Weights, name: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=stride, padding=padding)


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.group_norm(x, 32, w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6)


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def residual(w: Weights, name: str, x: Tensor) -> Tensor:
    h = conv(w, f"{name}.conv1", swish(norm(w, f"{name}.norm1", x)), padding=1)
    h = conv(w, f"{name}.conv2", swish(norm(w, f"{name}.norm2", h)), padding=1)
    return h + (conv(w, f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in w else x)


def attention(w: Weights, name: str, x: Tensor) -> Tensor:
    b, c, height, width = x.shape
    h = norm(w, f"{name}.norm", x)
    q, k, v = (conv(w, f"{name}.{part}", h).reshape(b, c, height * width) for part in ("q", "k", "v"))
    shares = torch.softmax(torch.einsum("bci,bcj->bij", q, k) * c**-0.5, dim=2)
    seen = torch.einsum("bij,bcj->bci", shares, v).reshape(b, c, height, width)
    return x + conv(w, f"{name}.proj_out", seen)


def middle(w: Weights, layout: Layout, name: str, x: Tensor) -> Tensor:
    first, attn, second = layout.mid
    return residual(w, f"{name}.{second}", attention(w, f"{name}.{attn}", residual(w, f"{name}.{first}", x)))


def reference_codes(w: Weights, layout: Layout, media: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in 0..1 → ids [B, h, w]."""
    h = conv(w, "encoder.conv_in", media * 2 - 1, padding=1)
    for level in range(len(layout.widths)):
        for i in range(layout.blocks):
            h = residual(w, f"{layout.down(level)}.{layout.block}.{i}", h)
            if layout.attends[level]:
                h = attention(w, f"{layout.down(level)}.attn.{i}", h)
        if level != len(layout.widths) - 1:
            h = conv(w, f"{layout.down(level)}.downsample.conv", F.pad(h, (0, 1, 0, 1)), stride=2)
    h = swish(norm(w, "encoder.norm_out", middle(w, layout, "encoder.mid", h)))
    z = conv(w, "quant_conv", conv(w, "encoder.conv_out", h, padding=1)).permute(0, 2, 3, 1)
    entries = w["quantize.embedding.weight"]
    if layout.name == "llamagen":
        z, entries = F.normalize(z, dim=-1), F.normalize(entries, dim=-1)
    return (z[..., None, :] - entries).square().sum(-1).argmin(-1)


def reference_media(w: Weights, layout: Layout, codes: Tensor) -> Tensor:
    """Ids [B, h, w] → pictures [B, 3, H, W] in 0..1, not clamped."""
    entries = w["quantize.embedding.weight"]
    if layout.name == "llamagen":
        entries = F.normalize(entries, dim=-1)
    z = entries[codes].permute(0, 3, 1, 2)
    h = conv(w, "decoder.conv_in", conv(w, "post_quant_conv", z), padding=1)
    h = middle(w, layout, "decoder.mid", h)
    for level in reversed(range(len(layout.widths))):
        for i in range(layout.blocks + 1):
            h = residual(w, f"{layout.up(level)}.{layout.block}.{i}", h)
            if layout.attends[level]:
                h = attention(w, f"{layout.up(level)}.attn.{i}", h)
        if level != 0:
            h = h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            h = conv(w, f"{layout.up(level)}.upsample.conv", h, padding=1)
    pixels = conv(w, "decoder.conv_out", swish(norm(w, "decoder.norm_out", h)), padding=1)
    return (pixels + 1) / 2
