"""OpenAI's original files: TorchScript archives (ViT-B-32.pt), and state dicts that came of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import open_clip
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import set_model_preprocess_cfg
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor, nn

from encoders.clip_forms.torchscript import is_torchscript, torchscript_tensors
from encoders.guarded import torch_file
from encoders.sizes import RefusedError, believed

MARKS = ("input_resolution", "context_length", "vocab_size")  # which OpenAI's models have beside their weights
HEAD = 64  # width of a head, in every one of them


def openai_model(path: str) -> tuple[nn.Module, Any]:
    """The model in a file of OpenAI's, with QuickGELU, and its preprocessing.

    Sizes are those of the tensors. `RefusedError` for a file that does not say whose it is, and for ResNets.
    """
    tensors = _read(path)
    if "visual.proj" not in tensors:
        raise RefusedError("its image tower is a ResNet, which has no patch tokens: take one of the files named ViT")
    with believed(path):
        model = open_clip.CLIP(**_sizes(tensors), quick_gelu=True)
    model.load_state_dict(tensors)
    described = {
        "size": model.visual.image_size, "mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD,
        "interpolation": "bicubic", "resize_mode": "shortest",
    }  # fmt: skip
    set_model_preprocess_cfg(model, described)
    return model, image_transform_v2(PreprocessCfg(**described), is_train=False)


def _read(path: str) -> dict[str, Tensor]:
    if Path(path).suffix == ".safetensors":
        content: Any = {}
    else:
        content = torchscript_tensors(path) if is_torchscript(path) else torch_file(path)
    content = content.get("state_dict", content) if isinstance(content, dict) else {}
    if not any(mark in content for mark in MARKS):
        raise RefusedError(
            "it does not say its architecture: give it as 'ViT-B-32-quickgelu/FILE' if OpenAI's library wrote it, as "
            "'ViT-B-32/FILE' if open_clip did, with the architecture that it has"
        )
    # A module of TorchScript also keeps the masks of its text blocks.
    return {name: value for name, value in content.items() if name not in MARKS and not name.endswith("attn_mask")}


def _sizes(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What open_clip needs to build the model of these tensors."""
    width, _, patch, _ = tensors["visual.conv1.weight"].shape
    grid = round((len(tensors["visual.positional_embedding"]) - 1) ** 0.5)
    vocabulary, text_width = tensors["token_embedding.weight"].shape
    return {
        "embed_dim": tensors["text_projection"].shape[1],
        "vision_cfg": {
            "layers": _blocks(tensors, "visual.transformer"), "width": width, "head_width": HEAD,
            "patch_size": patch, "image_size": patch * grid,
        },
        "text_cfg": {
            "layers": _blocks(tensors, "transformer"), "width": text_width, "heads": text_width // HEAD,
            "context_length": len(tensors["positional_embedding"]), "vocab_size": vocabulary,
        },
    }  # fmt: skip


def _blocks(tensors: dict[str, Tensor], tower: str) -> int:
    return len([name for name in tensors if re.fullmatch(rf"{tower}\.resblocks\.\d+\.ln_1\.weight", name)])
