"""Tiny CLIPs of each upstream: transformers' CLIPModel and SiglipModel as folders, OpenAI's original as TorchScript."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

WIDTH, TEXT_WIDTH, EMBEDDING, CONTEXT, SIZE, PATCH = 128, 64, 24, 12, 32, 8
TEXTS = ["a red circle", "TWO Blue squares, really!", "a photo of a dog that sits on a very long sofa in the evening"]


def shaken(model: nn.Module) -> nn.Module:
    """Noise in every tensor: fresh norms and biases would hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    return model.eval()


def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's, with an entry for each byte and a few merges; its end mark has the largest id."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    merges = ["r e", "re d</w>", "d o", "do g</w>"]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    vocabulary = {word: at for at, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=[tuple(merge.split()) for merge in merges])


def clip_config(act: str = "quick_gelu", **text: Any) -> CLIPConfig:
    size = len(clip_tokenizer())
    shared = dict(num_hidden_layers=2, hidden_act=act)
    return CLIPConfig(
        projection_dim=EMBEDDING,
        vision_config=dict(
            hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_attention_heads=2, image_size=SIZE, patch_size=PATCH,
            **shared,
        ),
        text_config=dict(
            hidden_size=TEXT_WIDTH, intermediate_size=4 * TEXT_WIDTH, num_attention_heads=1, vocab_size=size,
            max_position_embeddings=CONTEXT, bos_token_id=size - 2, eos_token_id=size - 1, **shared,
        ) | text,
    )  # fmt: skip


def save_clip(folder: Path, model: CLIPModel | None = None, **options: Any) -> CLIPModel:
    """A folder as the hub has it, with the model that is in it."""
    model = model or shaken(CLIPModel(clip_config(**options)))
    model.save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=SIZE).save_pretrained(folder)
    return model


def siglip_tokenizer() -> PreTrainedTokenizerFast:
    """Words, an end mark, and padding with an id of its own."""
    words = ["<pad>", "</s>", "<unk>", *sorted({word for text in TEXTS for word in text.lower().split()})]
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    made.normalizer = normalizers.Strip()
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_input_names=["input_ids"]
    )


def save_siglip(folder: Path, size: int = 30, act: str = "gelu_pytorch_tanh", **processor: Any) -> SiglipModel:
    """A folder as the hub has it. size: of pictures; 30 leaves a rest by patches of 8, as 384 by 14."""
    shared = dict(hidden_size=32, intermediate_size=83, num_attention_heads=4, num_hidden_layers=2, hidden_act=act)
    config = SiglipConfig(
        vision_config=dict(image_size=size, patch_size=PATCH, **shared),
        text_config=dict(
            vocab_size=40, max_position_embeddings=CONTEXT, bos_token_id=None, eos_token_id=1,
            pad_token_id=0, **shared,
        ),
    )  # fmt: skip
    model = shaken(SiglipModel(config))
    model.save_pretrained(folder)
    siglip_tokenizer().save_pretrained(folder)
    SiglipImageProcessor(size={"height": size, "width": size}, **processor).save_pretrained(folder)
    return model


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Stripes and noise: resizing and cropping in another way shows."""
    rows, columns, colours = np.mgrid[:height, :width, :3]
    noise = np.random.default_rng(seed).integers(0, 60, (height, width, 3))
    return Image.fromarray(((rows * (3 + colours) + columns * (7 - colours)) % 190 + noise).astype(np.uint8))


# OpenAI's model.py, as its files were made of it: the names of its weights are theirs.


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width: int, mask: Tensor | None) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 64)
        self.ln_1 = nn.LayerNorm(width)
        parts = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", QuickGELU()), ("c_proj", nn.Linear(4 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(parts))
        self.ln_2 = nn.LayerNorm(width)
        self.attn_mask = mask

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=self.attn_mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, mask: Tensor | None = None) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*[Block(width, mask) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


class Visual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn((SIZE // PATCH) ** 2 + 1, WIDTH))
        self.ln_pre = nn.LayerNorm(WIDTH)
        self.transformer = Transformer(WIDTH)
        self.ln_post = nn.LayerNorm(WIDTH)
        self.proj = nn.Parameter(torch.randn(WIDTH, EMBEDDING))

    def tokens(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] → what the last block gives: [N, 1 + S, D]."""
        x = self.conv1(x).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.class_embedding.expand(x.shape[0], 1, -1), x], 1) + self.positional_embedding
        return self.transformer(self.ln_pre(x).permute(1, 0, 2)).permute(1, 0, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln_post(self.tokens(x)[:, 0]) @ self.proj


class OpenAIClip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        vocabulary = open_clip.SimpleTokenizer().vocab_size
        self.visual = Visual()
        self.transformer = Transformer(TEXT_WIDTH, torch.full((77, 77), float("-inf")).triu(1))
        self.token_embedding = nn.Embedding(vocabulary, TEXT_WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(77, TEXT_WIDTH))
        self.ln_final = nn.LayerNorm(TEXT_WIDTH)
        self.text_projection = nn.Parameter(torch.randn(TEXT_WIDTH, EMBEDDING))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        for name, value in (("input_resolution", SIZE), ("context_length", 77), ("vocab_size", vocabulary)):
            self.register_buffer(name, torch.tensor(value))

    def encode_text(self, ids: Tensor) -> Tensor:
        x = self.token_embedding(ids) + self.positional_embedding
        x = self.ln_final(self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2))
        return x[torch.arange(x.shape[0]), ids.argmax(-1)] @ self.text_projection

    def forward(self, image: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.visual(image), self.encode_text(ids)
