"""What training adapters between large frozen parts takes on many GPUs: memory, bytes moved, expected efficiency.

    python benchmarks/scale.py [--gpus 8 64] [--tflops 400] [--bandwidth 100] [--batch 8] [--tokens 256]

Weights are counted in the modules themselves, which are made without memory. What a step keeps for its backward pass is
measured: the tensors that autograd saves of a small model of the same make, by token, block and unit of width. The rest
is arithmetic: AdamW in float32 over what trains, frozen parts in bfloat16, cached features. --tflops and --bandwidth
are assumptions: what a GPU sustains in bfloat16, and the GB/s at which gradients are added up over all of them.
Efficiency is the share of computing where nothing overlaps; DDP adds up gradients during the backward pass.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from mmlm.model.fusion.gated_block import GatedCrossAttentionBlock
from mmlm.model.fusion.visibility import MediaView
from mmlm.model.resampler import PerceiverResampler

MEDIA_WIDTH, LATENTS, EVERY = 1024, 64, 4  # ViT-L/14; Flamingo's resampler; a gated block before one block in four


@dataclass(frozen=True)
class Shape:
    """A language model of Llama's make."""

    width: int
    layers: int
    inner: int
    heads: int
    key_value_heads: int
    vocabulary: int = 32_000

    def config(self) -> LlamaConfig:
        return LlamaConfig(
            hidden_size=self.width, num_hidden_layers=self.layers, intermediate_size=self.inner,
            num_attention_heads=self.heads, num_key_value_heads=self.key_value_heads, vocab_size=self.vocabulary,
        )  # fmt: skip


SHAPES = {"1.1 B": Shape(2048, 22, 5632, 32, 4), "7 B": Shape(4096, 32, 11008, 32, 32)}
SMALL = Shape(256, 4, 704, 4, 4, 512)  # of the same proportions


def counted(shape: Shape) -> tuple[int, int, int]:
    """The weights of the frozen language model, of all gated blocks, and of what trains beside them."""
    with torch.device("meta"):
        frozen = LlamaForCausalLM(shape.config())
        block = GatedCrossAttentionBlock(shape.width, MEDIA_WIDTH)
        resampler = PerceiverResampler(MEDIA_WIDTH, MEDIA_WIDTH, depth=6, num_latents=LATENTS)
    return count(frozen), shape.layers // EVERY * count(block), count(resampler)


def count(module: nn.Module) -> int:
    return sum(tensor.numel() for tensor in module.parameters())


def kept(module: Callable[..., object], *args: object, weights: nn.Module) -> int:
    """How many numbers a pass keeps for the backward pass, without the weights themselves."""
    own = {tensor.untyped_storage().data_ptr() for tensor in weights.parameters()}
    found: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own and tensor.is_floating_point():
            found[place] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(*args)
    return sum(found.values())


def kept_by_token() -> tuple[float, float]:
    """Numbers kept by token and unit of width: of a frozen block, and of a gated block."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(SMALL.config()).requires_grad_(False)
    gated = GatedCrossAttentionBlock(SMALL.width, MEDIA_WIDTH)
    keys_values = gated.attn.keys_values(torch.randn(1, LATENTS, MEDIA_WIDTH))
    keys_values = (keys_values[0].transpose(1, 2), keys_values[1].transpose(1, 2))
    found: dict[str, list[int]] = {"frozen": [], "gated": []}
    for tokens in (64, 128):
        hidden = torch.randn(1, tokens, SMALL.width, requires_grad=True)
        places = model.model.rotary_emb(hidden, torch.arange(tokens)[None])
        for layers in (1, 2):
            blocks = model.model.layers[:layers]

            def passed(x: torch.Tensor, blocks: nn.ModuleList = blocks, places: tuple = places) -> None:
                for block in blocks:
                    x = block(x, position_embeddings=places)

            found["frozen"].append(kept(passed, hidden, weights=model))
        found["gated"].append(kept(gated, hidden, MediaView(), keys_values, weights=gated))
    one, two, longer, both = found["frozen"]  # what a second block adds, and of that what more tokens add
    short, long = found["gated"]
    return ((both - longer) - (two - one)) / 64 / SMALL.width, (long - short) / 64 / SMALL.width


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--tflops", type=float, default=400.0, help="of one GPU in bfloat16, as it sustains them")
    parser.add_argument("--bandwidth", type=float, default=100.0, help="GB/s of an all-reduce over all GPUs")
    parser.add_argument("--batch", type=int, default=8, help="rows on a GPU")
    parser.add_argument("--tokens", type=int, default=256, help="of a row")
    args = parser.parse_args(argv)
    by_block, by_gated = kept_by_token()
    print(f"kept by token and unit of width: {by_block:.1f} of a frozen block, {by_gated:.1f} of a gated one")
    print(f"{args.batch} rows of {args.tokens} tokens on a GPU\n")
    print("| language model | GPUs | frozen, GB | split over all, GB | what trains, M | with AdamW, GB | split too, GB "
          "| kept, GB | checkpointed, GB | moved a step, GB | computing, ms | moving, ms | efficiency |")  # fmt: skip
    print("| --- " * 13 + "|")
    for name, shape in SHAPES.items():
        frozen, gated, beside = counted(shape)
        trained = gated + beside
        tokens = args.batch * args.tokens
        gated_blocks = shape.layers // EVERY
        # bfloat16; logits in float32 at half of the positions, which are the answers'
        logits = tokens // 2 * shape.vocabulary * 4
        activations = 2 * tokens * shape.width * (by_block * shape.layers + by_gated * gated_blocks) + logits
        less = 2 * tokens * shape.width * (shape.layers + by_block + by_gated * gated_blocks) + logits
        # A frozen weight: one product forward, one backward to its input. One that trains: also one to itself.
        operations = tokens * (4 * frozen + 6 * trained)
        for gpus in args.gpus:
            moved = 2 * (gpus - 1) / gpus * 4 * trained
            computing, moving = operations / (args.tflops * 1e12), moved / (args.bandwidth * 1e9)
            row = [
                name, str(gpus), f"{2 * frozen / 1e9:.1f}", f"{2 * frozen / gpus / 1e9:.2f}", f"{trained / 1e6:.0f}",
                f"{16 * trained / 1e9:.1f}", f"{16 * (gated / gpus + beside) / 1e9:.1f}", f"{activations / 1e9:.1f}",
                f"{less / 1e9:.1f}", f"{moved / 1e9:.1f}", f"{1e3 * computing:.0f}", f"{1e3 * moving:.0f}",
                f"{computing / (computing + moving):.0%}",
            ]  # fmt: skip
            print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
