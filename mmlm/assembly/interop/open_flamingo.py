"""OpenFlamingo's checkpoints (Awadalla et al. 2023, arXiv 2308.01390): read, and written back.

A `checkpoint.pt` holds the perceiver (`perceiver.*`), the gated blocks within the language model's own list of blocks
(`lang_encoder.<path>.<i>.gated_cross_attn_layer.*`), and the embedding with the rows of the added tokens at its end.
Sizes are read from the tensors, and paths from the language model; neither is listed here. Layout of
open_flamingo/src/flamingo.py and open_flamingo/train/train_utils.py, version 2.0.1.
"""

import os
import re
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from open_clip.pretrained import get_pretrained_cfg
from torch import Tensor, nn

from encoders.base import FrozenEncoder
from mmlm.assembly.assemble import assemble
from mmlm.assembly.frozen import causal_model, image_encoder_of, language_model_config
from mmlm.assembly.interop.download import LANGUAGE_MODEL_FILES, fetch
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.assembly.presets import OPEN_FLAMINGO
from mmlm.assembly.save import load_added
from mmlm.model.config import FusionConfig, ResamplerConfig
from mmlm.model.language_model import LanguageModel

IMAGE_ENCODER = "ViT-L-14/openai"  # of all six released models
CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
HEADS = 8  # of all attentions; the one size that no tensor tells
WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
GATED = re.compile(r"lang_encoder\.(?:.+\.)?(\d+)\.gated_cross_attn_layer\.(.+)")
ALIASES = re.compile(r"lang_encoder\.(?:gated_cross_attn_layers|old_decoder_blocks)\.")  # the same tensors once more


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: `adapters` under the names they have here, and `language_model` under that model's own."""

    resampler: ResamplerConfig
    fusion: FusionConfig
    media_dim: int
    dim: int
    blocks: list[int]
    adapters: dict[str, Tensor]
    language_model: dict[str, Tensor]

    def check(self, config: Any) -> None:
        """`ValueError` unless the checkpoint is of a language model with this config."""
        every = self.fusion.cross_attention_every
        if config.hidden_size != self.dim:
            raise ValueError(
                f"the checkpoint is of a language model {self.dim} wide; this one ({config.model_type}) is "
                f"{config.hidden_size} wide"
            )
        if self.blocks != list(range(every - 1, config.num_hidden_layers, every)):
            raise ValueError(
                f"the checkpoint has gated blocks before the blocks {self.blocks}, which does not fit a language model "
                f"of {config.num_hidden_layers} blocks"
            )


def load(
    checkpoint: str | Path,
    language_model: str | Path | nn.Module,
    image_encoder: str | Path | FrozenEncoder = IMAGE_ENCODER,
    *,
    tokenizer: Any = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> MultimodalLM:
    """The model of a checkpoint and of the frozen parts it was trained with; parts as for `mmlm.assemble`.

    The language model gets the checkpoint's embedding rows in place of its own, and as many of them: a ready-made one
    is changed. The head's rows of added tokens, where a file lacks them (upstream does not save the head of LLaMA or
    GPT-J), keep the values a new model has. Errors: a file that is no checkpoint, or one of other parts.
    """
    read = read_checkpoint(checkpoint)
    eyes = image_encoder_of(image_encoder, final_norm=False, dtype=dtype)
    if eyes.dim != read.media_dim:
        raise ValueError(
            f"the checkpoint is of image tokens {read.media_dim} wide; those of {eyes.name or 'this encoder'} are "
            f"{eyes.dim} wide"
        )
    if getattr(eyes, "final_norm", False):
        warnings.warn("OpenFlamingo's released models saw tokens before the last norm: final_norm=False", stacklevel=2)
    if not isinstance(language_model, nn.Module):
        read.check(language_model_config(language_model))  # before its weights are read
    lm, tokenizer, name = causal_model(language_model, tokenizer, dtype)
    read.check(lm.config.get_text_config())
    rows, added = _rows(read.language_model, lm, len(tokenizer))
    _compare_rest(read.language_model, lm)
    host = LanguageModel(lm, tokenizer, name, rows=rows)
    model = assemble(host, eyes, resampler=read.resampler, fusion=read.fusion, dtype=dtype)
    start = {part: rows.detach().clone() for part, rows in host.added.named_parameters()}
    for part, values in added.items():
        start[part][: len(values)] = values
    load_added(model, read.adapters | {f"language_model.added.{part}": rows for part, rows in start.items()})
    return model.to(device)


def load_released(
    name: str,
    language_model: str | Path | nn.Module | None = None,
    image_encoder: str | Path | FrozenEncoder | None = None,
    **options: Any,
) -> MultimodalLM:
    """One of `presets.OPEN_FLAMINGO`, downloaded once; its size is shown before that. Options are those of `load`.

    Parts that are given are not downloaded.
    """
    preset = OPEN_FLAMINGO[name]
    wanted = {preset["checkpoint"]: ["checkpoint.pt"]}
    if language_model is None:
        wanted[preset["language_model"]] = LANGUAGE_MODEL_FILES
    if image_encoder is None:
        repository = os.path.split(get_pretrained_cfg(*IMAGE_ENCODER.split("/"))["hf_hub"])[0]
        wanted[repository] = CLIP_FILES
    folders = fetch(wanted)
    return load(
        folders[preset["checkpoint"]] / "checkpoint.pt",
        preset["language_model"] if language_model is None else language_model,
        IMAGE_ENCODER if image_encoder is None else image_encoder,
        **options,
    )


def read_checkpoint(path: str | Path) -> Checkpoint:
    """A checkpoint as released, or as upstream's training writes it: wrapped, with `module.` before its keys.

    The file is mapped, not read: it costs no memory until its tensors are copied. Only tensors are unpickled.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # a dozen kinds, by what is wrong with the file
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is no file of tensors; pickled code is not loaded: {reason}") from error
    while isinstance(state, dict) and (inner := state.get("model_state_dict", state.get("model"))) is not None:
        state = inner
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict")
    state = {WRAPPERS.sub("", key): tensor for key, tensor in state.items()}

    perceiver = {key.removeprefix("perceiver."): value for key, value in state.items() if key.startswith("perceiver.")}
    gated = {(int(m[1]), m[2]): value for key, value in state.items() if (m := GATED.fullmatch(key))}
    rest = {
        key.removeprefix("lang_encoder.").replace(".decoder_layer.", "."): value
        for key, value in state.items()
        if key.startswith("lang_encoder.") and not GATED.fullmatch(key) and not ALIASES.match(key)
    }
    if not perceiver or not gated:
        raise ValueError(
            f"{path} is no OpenFlamingo checkpoint: it has no perceiver.* or no gated_cross_attn_layer; first keys "
            f"{list(state)[:3]}"
        )
    if timed := sorted(perceiver.keys() & {"frame_embs", "media_time_embs"}):
        raise ValueError(f"{path} has learned rows for the frames of videos, which have no place here: {timed}")
    try:
        return _checkpoint(perceiver, gated, rest)
    except KeyError as error:
        raise ValueError(f"{path} is incomplete: it lacks {error.args[0]}") from error


def _checkpoint(
    perceiver: dict[str, Tensor], gated: dict[tuple[int, str], Tensor], rest: dict[str, Tensor]
) -> Checkpoint:
    blocks = sorted({block for block, _ in gated})
    first = {name: tensor for (block, name), tensor in gated.items() if block == blocks[0]}
    num_latents, media_dim = perceiver["latents"].shape
    dim = first["attn.to_q.weight"].shape[1]
    depth = 1 + max(int(key.split(".")[1]) for key in perceiver if key.startswith("layers."))
    resampler = ResamplerConfig(
        depth=depth,
        num_latents=num_latents,
        heads=HEADS,
        dim_head=perceiver["layers.0.0.to_q.weight"].shape[0] // HEADS,
        ff_mult=perceiver["layers.0.1.1.weight"].shape[0] // media_dim,
    )
    fusion = FusionConfig(
        cross_attention_every=blocks[0] + 1,
        heads=HEADS,
        dim_head=first["attn.to_q.weight"].shape[0] // HEADS,
        ff_mult=first["ff.1.weight"].shape[0] // dim,
    )
    adapters = {f"resamplers.image.{name}": tensor for name, tensor in perceiver.items()}
    adapters |= {f"fusion.layers.{blocks.index(block)}.{name}": tensor for (block, name), tensor in gated.items()}
    return Checkpoint(resampler, fusion, media_dim, dim, blocks, adapters, rest)


def _rows(
    state: dict[str, Tensor], model: nn.Module, vocabulary: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The file's embedding, and head where it has one of its own: the language model's rows, and those added.

    Upstream puts `<|endofchunk|>` and `<image>` behind the tokenizer's own tokens, then `<PAD>` where it has none, and
    cuts the language model's spare rows off.
    """
    found: dict[str, Tensor] = {}
    for part, weight in _vocabulary_weights(model).items():
        if (name := next((name for name in _names(model, weight) if name in state), None)) is not None:
            found[part] = state[name]
        elif part == "embedding":
            raise ValueError(f"the checkpoint has no embedding of the language model, {_names(model, weight)[0]}")
    for part, rows in found.items():
        if rows.shape[0] - vocabulary not in (2, 3):
            raise ValueError(
                f"the checkpoint's {part} has {rows.shape[0]} rows, but the tokenizer {vocabulary} tokens: with those "
                f"that OpenFlamingo adds it would have {vocabulary + 2} or {vocabulary + 3}"
            )
    added = {part: rows[vocabulary:] for part, rows in found.items()}
    if _tied(model):
        added["head"] = added["embedding"]
    return {part: rows[:vocabulary] for part, rows in found.items()}, added


def _compare_rest(state: dict[str, Tensor], model: nn.Module) -> None:
    """`ValueError` for a frozen tensor in the file, such as OPT's positions, that is not the language model's own.

    Keys that name no parameter are buffers of other versions of transformers: nothing that was learned.
    """
    vocabulary = {name for weight in _vocabulary_weights(model).values() for name in _names(model, weight)}
    for name, own in model.named_parameters():
        if name in state and name not in vocabulary and not torch.equal(state[name].to(own.dtype), own.cpu()):
            raise ValueError(f"the checkpoint is of another language model: its {name} differs")


def save(model: MultimodalLM, path: str | Path) -> Path:
    """Writes a model as OpenFlamingo's `checkpoint.pt`, whole or not at all; `load` gives the same model back.

    `ValueError` for a model that OpenFlamingo has no place for.
    """
    path = Path(path)
    host = model.language_model
    if reasons := _reasons(model):
        raise ValueError(f"OpenFlamingo has no such model: {'; '.join(reasons)}")
    blocks = next(name for name, module in host.model.named_modules() if module is host.blocks)
    places = {layer: block for block, layer in model.fusion.layer_before.items()}
    state: dict[str, Tensor] = {}
    for name, tensor in model.resamplers["image"].state_dict().items():
        state[f"perceiver.{name}"] = tensor
    for layer, gated in enumerate(model.fusion.layers):
        for name, tensor in gated.state_dict().items():
            state[f"lang_encoder.{blocks}.{places[layer]}.gated_cross_attn_layer.{name}"] = tensor
    vocabulary = len(host.tokenizer)
    count = 2 if host.tokenizer.pad_token is not None else 3
    for part, weight in _vocabulary_weights(host.model).items():
        added = getattr(host.added, part)[:count]
        rows = torch.cat([weight[:vocabulary].float(), added.to(weight.device)])
        state[f"lang_encoder.{_names(host.model, weight)[-1]}"] = rows
    state = {name: tensor.detach().cpu().float().contiguous() for name, tensor in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".saving-") as folder:
        torch.save(state, Path(folder, path.name))
        os.replace(Path(folder, path.name), path)
    return path


def _reasons(model: MultimodalLM) -> list[str]:
    """Why a model cannot be written as OpenFlamingo's."""
    host, resampler, fusion = model.language_model, model.resampler_config, model.fusion_config
    vocabulary, rows = len(host.tokenizer), host.vocabulary.offset
    tests: list[tuple[bool, str]] = [
        (set(model.encoders) != {"image"}, "it sees with one encoder, and hears nothing"),
        (resampler.depth == 0, "its perceiver has layers"),
        (resampler.timed or resampler.stack > 1, "its perceiver neither tells times nor stacks tokens"),
        ({resampler.heads, fusion.heads} != {HEADS}, f"its attentions have {HEADS} heads"),
        (fusion.visibility != "latest", "its text sees the latest picture alone"),
        (vocabulary > rows, f"its tokens have a row each; here {vocabulary} tokens have {rows} rows"),
        (
            _tied(host.model) and not torch.equal(host.added.embedding, host.added.head),
            "its head is its embedding; here added tokens have rows of their own in both",
        ),
    ]
    return [reason for found, reason in tests if found]


def _tied(model: nn.Module) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def _vocabulary_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The embedding, and the head where it is another tensor."""
    weights = {"embedding": model.get_input_embeddings().weight}
    return weights if _tied(model) else weights | {"head": model.get_output_embeddings().weight}


def _names(model: nn.Module, weight: nn.Parameter) -> list[str]:
    """What a parameter is called in this version of transformers, and last, what it is called in files."""
    from transformers.core_model_loading import revert_weight_conversion

    names = [name for name, own in model.named_parameters(remove_duplicate=False) if own is weight]
    return [*names[::-1], *revert_weight_conversion(model, {names[0]: weight})]
