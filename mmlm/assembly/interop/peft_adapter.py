"""LoRA and DoRA in peft's files: `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from decoders.files import beside, save_tensors, sync
from encoders.settings import settings_of
from mmlm.assembly.extend import extended
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.model.config import LoraConfig
from mmlm.model.language_model import LanguageModel
from mmlm.model.lora import Dora, LoraAdapters, LowRank, row_lengths

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ROOT = "base_model.model."  # before the names of peft's tensors
DOWN, UP, MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"
UNREAD = ("modules_to_save", "rank_pattern", "alpha_pattern", "trainable_token_indices", "target_parameters")
"""Settings of peft's, each of another kind of adapter unless it is empty."""


@torch.no_grad()
def save(model: MultimodalLM, folder: str | Path) -> Path:
    """Writes the LoRA of a model as `peft.PeftModel.from_pretrained(language_model, folder)` loads it.

    ValueError for a model without LoRA.
    """
    host, folder = model.language_model, Path(folder)
    if host.lora is None:
        raise ValueError("the model has no LoRA: assemble it with lora=LoraConfig(rank, reads=True)")
    tensors: dict[str, Tensor] = {}
    layers = _layers(host)
    for name, (layer, adapter) in layers.items():
        tensors[f"{ROOT}{name}.{DOWN}"], tensors[f"{ROOT}{name}.{UP}"] = adapter.down, adapter.up
        if isinstance(adapter, Dora):
            tensors[f"{ROOT}{name}.{MAGNITUDE}"] = adapter.magnitude * row_lengths(layer, adapter.magnitude)
    config = host.lora_config
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": host.name, "inference_mode": True,
        "r": config.rank, "lora_alpha": config.alpha, "lora_dropout": 0.0, "bias": "none", "use_dora": config.dora,
        "target_modules": sorted(layers), "fan_in_fan_out": any(isinstance(own, Conv1D) for own, _ in layers.values()),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with beside(folder) as written:
        save_tensors({name: own.detach().cpu().contiguous() for name, own in tensors.items()}, written / WEIGHTS, {})
        (written / CONFIG).write_text(json.dumps(settings, indent=2) + "\n")
        for file in (WEIGHTS, CONFIG):
            sync(written / file)
            os.replace(written / file, folder / file)
    return folder


@torch.no_grad()
def load(model: MultimodalLM, folder: str | Path) -> MultimodalLM:
    """A model of the same parts with the LoRA of peft's folder, which then acts in every request.

    ValueError for another kind of adapter, or one of other layers; FileNotFoundError where a file is missing.
    """
    settings, tensors = _read(Path(folder))
    names = {name.removeprefix(ROOT).rsplit(".", 2 if name.endswith(".weight") else 1)[0] for name in tensors}
    rank = settings["r"]
    wrong = next((n for n, own in tensors.items() if n.endswith(DOWN) and own.shape[:1] != (rank,)), None)
    if not names or wrong is not None:
        raise ValueError(f"{folder} has rank {rank} by its settings, and another one by {wrong or 'its weights'}")
    alpha = settings["lora_alpha"] * (math.sqrt(rank) if settings.get("use_rslora") else 1.0)
    kinds = ",".join(sorted({name.rpartition(".")[2] for name in names}))
    config = LoraConfig(rank, float(alpha), reads=True, dora=bool(settings.get("use_dora")), layers=kinds)
    made = extended(model, lora=config)
    layers = _layers(made.language_model)
    if foreign := sorted(names - set(layers)):
        raise ValueError(f"{folder} is for another language model: this one has no linear layer {foreign[0]}")
    for name, (layer, adapter) in layers.items():
        if name not in names:  # an adapter of some blocks alone
            adapter.up.zero_()
            continue
        given = {"down": f"{ROOT}{name}.{DOWN}", "up": f"{ROOT}{name}.{UP}"}
        given |= {"magnitude": f"{ROOT}{name}.{MAGNITUDE}"} if isinstance(adapter, Dora) else {}
        for own, key in given.items():
            parameter = getattr(adapter, own)
            if key not in tensors or tensors[key].numel() != parameter.numel():
                raise ValueError(f"{folder} does not fit this language model: {key} is missing or of another shape")
            value = tensors[key].to(parameter).reshape(parameter.shape)
            parameter.copy_(value / row_lengths(layer, value) if own == "magnitude" else value)
    return made


def _layers(host: LanguageModel) -> dict[str, tuple[torch.nn.Module, LowRank]]:
    """By their names in the language model: the layers that have adapters, with these."""
    blocks = next(name for name, module in host.model.named_modules() if module is host.blocks)
    lora: Any = host.lora or LoraAdapters
    found = {name.replace("/", "."): adapter for name, adapter in lora.items()}
    places = {name: f"{blocks}.{name}".replace("_orig_mod.", "") for name in found}
    return {places[name]: (host.blocks.get_submodule(name), adapter) for name, adapter in found.items()}


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings and tensors of an adapter, checked to be LoRA as it is here."""
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder} has no {file}, which peft's save_pretrained writes")
    settings = settings_of(folder, name=CONFIG)
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"{folder} is an adapter of kind {settings.get('peft_type')!r}: only LORA can be read")
    other = [name for name in UNREAD if settings.get(name)] + ["bias"] * (settings.get("bias", "none") != "none")
    if other:
        raise ValueError(f"{folder} uses {other[0]} of peft, which cannot be read: give a LoRA of linear layers alone")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or rank < 1 or alpha <= 0:
        raise ValueError(f"{folder}/{CONFIG} has no rank and alpha of LoRA: r is {rank!r}, lora_alpha is {alpha!r}")
    try:
        with safe_open(folder / WEIGHTS, "pt") as weights:
            return settings, {key: weights.get_tensor(key) for key in weights.keys()}
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} is damaged: {error}") from error
