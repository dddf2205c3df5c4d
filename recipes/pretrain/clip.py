"""A small open_clip model from nothing but pictures and their captions, by the contrastive loss of CLIP."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from decoders.files import save_tensors
from encoders.guarded import from_pretrained
from mmlm.training import LossObjective, Trainer, TrainerConfig
from mmlm.training.identity import digest
from mmlm.training.shuffle import Shuffle, generator
from recipes.pretrain.examples import Region
from recipes.pretrain.tokenizer import add_end_of_text

if TYPE_CHECKING:
    from open_clip import CLIP
    from transformers import PreTrainedTokenizerFast

MEAN = STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class ClipTrainConfig:
    """Size and schedule of both towers; the defaults suit small drawn pictures on a CPU."""

    image_size: int = 64
    patch_size: int = 8
    vision_width: int = 128
    vision_layers: int = 4
    vision_head_width: int = 32
    text_width: int = 128
    text_layers: int = 2
    text_heads: int = 4
    context_length: int = 48
    embed_dim: int = 128
    resize_mode: str = "squash"  # open_clip's word: "squash" keeps the whole picture, "shortest" its proportions
    augment: bool = False  # crop and mirror; only where captions name no left and right
    patch_dropout: float = 0.0  # share of the patches that a training step leaves out (FLIP, arXiv 2212.00794)
    batch_size: int = 128
    steps: int = 1500
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.1
    seed: int = 0
    device: str = "cpu"

    def model_config(self, tokenizer: PreTrainedTokenizerFast) -> dict:
        """The same as open_clip's `open_clip_config.json`, so that open_clip itself can load what is trained here."""
        return {
            "model_cfg": {
                "embed_dim": self.embed_dim,
                "vision_cfg": {
                    "image_size": self.image_size,
                    "patch_size": self.patch_size,
                    "width": self.vision_width,
                    "layers": self.vision_layers,
                    "head_width": self.vision_head_width,
                    "pool_type": "avg",  # so that every patch token learns, not the class token alone
                    "patch_dropout": self.patch_dropout,
                },
                "text_cfg": {
                    "context_length": self.context_length,
                    "vocab_size": len(tokenizer),
                    "hf_tokenizer_name": ".",  # open_clip reads the tokenizer from the model's own folder
                    "width": self.text_width,
                    "heads": self.text_heads,
                    "layers": self.text_layers,
                    "pool_type": "argmax",  # the end of text has the highest id
                },
            },
            "preprocess_cfg": {
                "mean": MEAN,
                "std": STD,
                "interpolation": "bicubic",
                "resize_mode": self.resize_mode,
            },
        }


def train_clip(
    config: ClipTrainConfig,
    pictures: Iterable,
    captions: Sequence[Sequence[str]],
    tokenizer_folder: str | Path,
    output: str | Path,
    regions: Sequence[Sequence[Region]] | None = None,
) -> CLIP:
    """Train on pictures (PIL or uint8 arrays [H, W, 3]) and the captions of each; save to the folder `output`.

    Every step draws one caption a picture. `regions`, some for each picture or none, add a second contrast: the mean of
    a region's patch tokens against the phrases of the step's regions, sort by sort (after RegionCLIP, Zhong et al.
    2022); patch tokens then learn of small things much sooner than from the pictures' captions alone.

    The folder holds `open_clip_config.json`, `open_clip_model.safetensors` and the tokenizer:
    `open_clip.create_model_and_transforms("local-dir:" + folder)` loads it. Resumes from `output/checkpoints`.
    Returns the open_clip model.
    """
    import open_clip
    from transformers import AutoTokenizer

    output = Path(output)
    tokenizer = from_pretrained(AutoTokenizer, tokenizer_folder, "take one that is files alone")
    add_end_of_text(tokenizer)
    pixels = stack_pictures(config, pictures)
    if len(pixels) != len(captions) or not all(captions):
        raise ValueError(f"{len(pixels)} pictures need as many non-empty lists of captions, not {len(captions)}")
    counts = torch.tensor([len(own) for own in captions])
    first = counts.cumsum(0) - counts
    tokens = _tokenize(tokenizer, [text for own in captions for text in own], config.context_length)

    torch.manual_seed(config.seed)
    model_config = config.model_config(tokenizer)
    model = open_clip.CLIP(**model_config["model_cfg"]).to(config.device)
    model.visual.output_tokens = True
    contrast = open_clip.ClipLoss()
    grounded = None if regions is None else GroundedPhrases(config, tokenizer, regions)
    order = Shuffle(len(pixels), config.batch_size, config.seed)

    def loss_at(step: int) -> Tensor:
        rng = generator(config.seed, 1, step)
        index = order.batch(step)
        batch = pixels[index]
        if config.augment:
            batch = crop_and_mirror(batch, config.image_size, rng)
        choice = (torch.rand(len(index), generator=rng) * counts[index]).long()
        torch.manual_seed(rng.initial_seed() + step)  # open_clip draws the patches to drop from the global generator
        batch = batch.to(config.device).permute(0, 3, 1, 2).float() / 127.5 - 1  # as MEAN and STD say
        image, patches = model.visual(batch)
        text = encode_text(model, tokens[first[index] + choice].to(config.device).long())
        loss = contrast(F.normalize(image, dim=-1), text, model.logit_scale.exp().clamp(max=100.0))
        return loss if grounded is None else loss + grounded.loss(model, patches, index)

    def save(folder: Path) -> Path:
        model.eval().visual.output_tokens = False
        (folder / "open_clip_config.json").write_text(json.dumps(model_config, indent=2) + "\n")
        weights = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
        partial = folder / ".open_clip_model.safetensors"
        save_tensors(weights, partial)
        partial.replace(folder / "open_clip_model.safetensors")
        tokenizer.save_pretrained(str(folder))
        return folder

    settings = TrainerConfig(
        steps=config.steps, learning_rate=config.learning_rate, weight_decay=config.weight_decay, seed=config.seed
    )
    identity = {"config": asdict(config), "data": digest(pixels, tokens, counts, regions)}
    Trainer(LossObjective("contrastive", model, loss_at, save, identity), settings, output).fit()
    return model


class GroundedPhrases:
    """The regions of a set of pictures as patch weights and phrase numbers, and their contrast."""

    def __init__(
        self, config: ClipTrainConfig, tokenizer: PreTrainedTokenizerFast, regions: Sequence[Sequence[Region]]
    ) -> None:
        if config.augment or config.patch_dropout:
            raise ValueError("regions belong to whole pictures: they do not go with augment or patch_dropout")
        flat = [region for own in regions for region in own]
        phrases = sorted({phrase for region in flat for phrase in region.phrases if phrase is not None})
        number = {None: -1, **{phrase: index for index, phrase in enumerate(phrases)}}
        self.phrases = _tokenize(tokenizer, phrases, config.context_length)
        self.named = torch.tensor([[number[phrase] for phrase in region.phrases] for region in flat])  # [R, K]
        boxes = torch.tensor([region.box for region in flat])
        self.weights = patch_weights(boxes, config.image_size // config.patch_size)  # [R, S]
        self.of_picture = [[] for _ in regions]
        place = 0
        for picture, own in enumerate(regions):
            self.of_picture[picture] = list(range(place, place + len(own)))
            place += len(own)

    def loss(self, model: CLIP, patches: Tensor, index: Tensor) -> Tensor:
        """Cross-entropy of each region over the distinct phrases, added up over sorts; `patches [B, S, width]`."""
        pairs = [(row, region) for row, picture in enumerate(index.tolist()) for region in self.of_picture[picture]]
        rows, chosen = (torch.tensor(part) for part in zip(*pairs, strict=True))
        pooled = torch.einsum("rs,rsd->rd", self.weights[chosen].to(patches.device), patches[rows.to(patches.device)])
        image = F.normalize(pooled @ model.visual.proj, dim=-1) * model.logit_scale.exp().clamp(max=100.0)
        loss = image.new_zeros(())
        for named in self.named[chosen].unbind(dim=1):
            said = named >= 0
            if said.any():
                kinds, target = named[said].unique(return_inverse=True)
                text = encode_text(model, self.phrases[kinds].to(patches.device).long())
                loss = loss + F.cross_entropy(image[said.to(patches.device)] @ text.T, target.to(patches.device))
        return loss


def patch_weights(boxes: Tensor, grid: int) -> Tensor:
    """How much of each box [R, 4] lies in each of grid x grid patches: [R, grid * grid], each row sums to 1."""
    edges = torch.arange(grid) / grid

    def overlap(low: Tensor, high: Tensor) -> Tensor:
        return (torch.minimum(high[:, None], edges + 1 / grid) - torch.maximum(low[:, None], edges)).clamp(min=0)

    columns, rows = overlap(boxes[:, 0], boxes[:, 2]), overlap(boxes[:, 1], boxes[:, 3])
    weights = (rows[:, :, None] * columns[:, None, :]).flatten(1)
    return weights / weights.sum(1, keepdim=True)


def encode_text(model: CLIP, tokens: Tensor) -> Tensor:
    """What open_clip's `encode_text(tokens, normalize=True)` gives, without computing the padding all texts share."""
    length = int(tokens.argmax(dim=1).max()) + 1  # up to the last end of text, which has the highest id
    x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    x = x[torch.arange(len(x), device=x.device), tokens.argmax(dim=1)] @ model.text_projection
    return F.normalize(x, dim=-1)


def stack_pictures(config: ClipTrainConfig, pictures: Iterable) -> Tensor:
    """Pictures as uint8 [N, S, S, 3], resized as `resize_mode` says; S leaves an eighth for crops when augmenting."""
    from PIL import Image

    side = config.image_size * 9 // 8 if config.augment else config.image_size
    rows = []
    for picture in pictures:
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        image = image.convert("RGB")
        if image.size != (side, side):
            if config.resize_mode == "shortest":
                edge = min(image.size)
                left, top = (image.width - edge) // 2, (image.height - edge) // 2
                image = image.crop((left, top, left + edge, top + edge))
            image = image.resize((side, side), Image.Resampling.BICUBIC)
        rows.append(np.asarray(image))
    return torch.from_numpy(np.stack(rows))


def crop_and_mirror(batch: Tensor, size: int, rng: torch.Generator) -> Tensor:
    """A random window [B, size, size, 3] of each picture, half of them mirrored."""
    room = batch.shape[1] - size
    offsets = torch.randint(0, room + 1, (len(batch), 2), generator=rng).tolist()
    mirrored = torch.rand(len(batch), generator=rng).lt(0.5).tolist()
    windows = [picture[y : y + size, x : x + size] for picture, (y, x) in zip(batch, offsets, strict=True)]
    return torch.stack([window.flip(1) if flip else window for window, flip in zip(windows, mirrored, strict=True)])


def _tokenize(tokenizer: PreTrainedTokenizerFast, texts: list[str], length: int) -> Tensor:
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=length)["input_ids"]
    return torch.tensor(encoded, dtype=torch.int32)
