"""OpenFlamingo in float64, written from its description: the independent side of tests/test_open_flamingo.py.

One row at a time, without padding, without a cache, every weight under its name in a checkpoint.
"""

import copy
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from encoders.clip import ClipImageEncoder

HEADS, DIM_HEAD, LATENTS, DEPTH, MULT = 8, 4, 5, 2, 2
INNER = HEADS * DIM_HEAD
END, IMAGE = 0, 1  # places of the added tokens, behind the tokenizer's own


@dataclass(frozen=True)
class Layout:
    """Where a family keeps its blocks, embedding and, if upstream saves it, its head; `every` n-th block is gated."""

    blocks: str
    embedding: str
    head: str | None
    every: int


LAYOUTS = {  # by upstream's list (open_flamingo/src/factory.py) and its filter of what is saved ("embed" in the name)
    "opt": Layout("model.decoder.layers", "model.decoder.embed_tokens.weight", "lm_head.weight", 1),
    "gpt_neox": Layout("gpt_neox.layers", "gpt_neox.embed_in.weight", "embed_out.weight", 2),
    "llama": Layout("model.layers", "model.embed_tokens.weight", None, 1),
    "mpt": Layout("transformer.blocks", "transformer.wte.weight", None, 3),
    "gptj": Layout("transformer.h", "transformer.wte.weight", None, 1),
}


def checkpoint(language_model: nn.Module, layout: Layout, media_dim: int, rows: int) -> dict[str, Tensor]:
    """A random state dict in upstream's layout for a language model of 3 blocks, its embedding of `rows` rows."""
    draw = torch.Generator().manual_seed(0)
    dim = language_model.get_input_embeddings().weight.shape[1]
    state: dict[str, Tensor] = {}

    def put(name: str, *shape: int, std: float = 0.3, mean: float = 0.0) -> None:
        state[name] = mean + std * torch.randn(*shape, generator=draw)

    def norm(name: str, width: int) -> None:
        put(f"{name}.weight", width, mean=1.0)
        put(f"{name}.bias", width)

    def feed_forward(name: str, width: int) -> None:
        norm(f"{name}.0", width)
        put(f"{name}.1.weight", MULT * width, width)
        put(f"{name}.3.weight", width, MULT * width)

    put("perceiver.latents", LATENTS, media_dim, std=1.0)
    for layer in range(DEPTH):
        name = f"perceiver.layers.{layer}"
        norm(f"{name}.0.norm_media", media_dim)
        norm(f"{name}.0.norm_latents", media_dim)
        put(f"{name}.0.to_q.weight", INNER, media_dim)
        put(f"{name}.0.to_kv.weight", 2 * INNER, media_dim)
        put(f"{name}.0.to_out.weight", media_dim, INNER)
        feed_forward(f"{name}.1", media_dim)
    norm("perceiver.norm", media_dim)
    for block in range(layout.every - 1, 3, layout.every):
        name = f"lang_encoder.{layout.blocks}.{block}.gated_cross_attn_layer"
        put(f"{name}.attn_gate", 1, mean=0.8, std=0.1)
        put(f"{name}.ff_gate", 1, mean=-0.5, std=0.1)
        norm(f"{name}.attn.norm", dim)
        put(f"{name}.attn.to_q.weight", INNER, dim)
        put(f"{name}.attn.to_kv.weight", 2 * INNER, media_dim)
        put(f"{name}.attn.to_out.weight", dim, INNER)
        feed_forward(f"{name}.ff", dim)
    put(f"lang_encoder.{layout.embedding}", rows, dim, std=0.15)
    if layout.head == "lm_head.weight":  # OPT: tied, so the same tensor once more, and positions named "embed"
        positions = "model.decoder.embed_positions.weight"
        state[f"lang_encoder.{positions}"] = language_model.state_dict()[positions].clone()
        state[f"lang_encoder.{layout.head}"] = state[f"lang_encoder.{layout.embedding}"]
    elif layout.head:
        put(f"lang_encoder.{layout.head}", rows, dim, std=0.15)
    return state


class Reference:
    """The whole model: a checkpoint, the language model it was trained with, and its CLIP."""

    def __init__(self, state: dict[str, Tensor], language_model: nn.Module, layout: Layout, encoder: ClipImageEncoder):
        self.state = {name: tensor.double() for name, tensor in state.items()}
        self.lm = copy.deepcopy(language_model)
        rows = state[f"lang_encoder.{layout.embedding}"]
        self.lm.resize_token_embeddings(len(rows), mean_resizing=False)
        with torch.no_grad():
            self.lm.get_input_embeddings().weight.copy_(rows)
            if layout.head:
                self.lm.get_output_embeddings().weight.copy_(state[f"lang_encoder.{layout.head}"])
        self.lm = self.lm.double().eval()
        self.clip = copy.deepcopy(encoder.model.visual).double()
        self.clip.output_tokens = True
        self.clip.final_ln_after_pool = True  # as open_clip was when the checkpoints were trained
        self.transform = encoder.transform
        self.media = torch.empty(0)
        parent, _, name = layout.blocks.rpartition(".")
        blocks = getattr(self.lm.get_submodule(parent), name)
        for index in range(len(blocks)):
            prefix = f"lang_encoder.{layout.blocks}.{index}.gated_cross_attn_layer"
            if f"{prefix}.attn_gate" in state:
                blocks[index] = _Wrapped(self, prefix, blocks[index])
        self.image_id = len(rows) - 2  # then comes <PAD>

    def latents(self, images: list[Image.Image]) -> Tensor:
        """`[pictures, LATENTS, V]`."""
        latents = []
        for image in images:
            x = self.clip(self.transform(image)[None].double())[1][0]
            z = self.state["perceiver.latents"]
            for layer in range(DEPTH):
                name = f"perceiver.layers.{layer}"
                normed = self.norm(f"{name}.0.norm_latents", z)
                keys = torch.cat([self.norm(f"{name}.0.norm_media", x), normed])
                z = z + self.attention(f"{name}.0", normed, keys, torch.ones(len(z), len(keys), dtype=torch.bool))
                z = z + self.feed_forward(f"{name}.1", z)
            latents.append(self.norm("perceiver.norm", z))
        return torch.stack(latents) if latents else self.state["perceiver.latents"][None][:0]

    def norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def feed_forward(self, name: str, x: Tensor) -> Tensor:
        hidden = self.norm(f"{name}.0", x) @ self.state[f"{name}.1.weight"].T
        gelu = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
        return gelu @ self.state[f"{name}.3.weight"].T

    def attention(self, name: str, x: Tensor, media: Tensor, seen: Tensor) -> Tensor:
        """Head by head: `x [T, ·]` over `media [M, ·]`, where `seen [T, M]`; a row that sees nothing gives zero."""
        q = x @ self.state[f"{name}.to_q.weight"].T
        k, v = (media @ half.T for half in self.state[f"{name}.to_kv.weight"].split(INNER))
        out = torch.zeros_like(q)
        for head in range(HEADS):
            part = slice(head * DIM_HEAD, (head + 1) * DIM_HEAD)
            for row in range(len(x)):
                if seen[row].any():
                    scores = q[row, part] @ k[seen[row]][:, part].T / DIM_HEAD**0.5
                    out[row, part] = scores.softmax(0) @ v[seen[row]][:, part]
        return out @ self.state[f"{name}.to_out.weight"].T

    def gated(self, prefix: str, x: Tensor, ids: Tensor) -> Tensor:
        """One row `[T, D]`: a token sees the picture that came last before it, itself included."""
        time = (ids == self.image_id).cumsum(0)
        number = torch.arange(1, len(self.media) + 1).repeat_interleave(LATENTS)
        seen = time[:, None] == number[None, :]
        state = self.state
        attended = self.attention(f"{prefix}.attn", self.norm(f"{prefix}.attn.norm", x), self.media.flatten(0, 1), seen)
        x = x + state[f"{prefix}.attn_gate"].tanh() * attended
        return x + state[f"{prefix}.ff_gate"].tanh() * self.feed_forward(f"{prefix}.ff", x)

    @torch.no_grad()
    def logits(self, ids: list[int], images: list[Image.Image]) -> Tensor:
        """`[T, rows]` of one row."""
        self.media = self.latents(images)
        self.ids = torch.tensor([ids])
        return self.lm(input_ids=self.ids, use_cache=False).logits[0]

    @torch.no_grad()
    def generate(self, ids: list[int], images: list[Image.Image], stop_ids: list[int], **options) -> list[int]:
        """New ids of transformers' own `generate`, which computes the whole text again at each step."""
        self.logits(ids, images)  # sets the pictures

        def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
            self.ids = kwargs["input_ids"]

        def after(module: nn.Module, args: tuple, output) -> None:
            output.logits[..., self.image_id :] = -torch.inf  # placeholders are never written

        hooks = [
            self.lm.register_forward_pre_hook(before, with_kwargs=True),
            self.lm.register_forward_hook(after),
        ]
        new = self.lm.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), use_cache=False,
            do_sample=False, eos_token_id=stop_ids, pad_token_id=stop_ids[0], **options,
        )[0, len(ids) :].tolist()  # fmt: skip
        for hook in hooks:
            hook.remove()
        return new


class _Wrapped(nn.Module):
    """As upstream wraps a decoder block: the gated layer first, then the block."""

    def __init__(self, reference: Reference, prefix: str, block: nn.Module):
        super().__init__()
        self.block = block
        self.gate = lambda x, ids: reference.gated(prefix, x, ids)
        self.reference = [reference]

    def forward(self, hidden_states: Tensor, *args, **kwargs):
        ids = self.reference[0].ids
        rows = [self.gate(x, row) for x, row in zip(hidden_states, ids, strict=True)]
        return self.block(torch.stack(rows), *args, **kwargs)
