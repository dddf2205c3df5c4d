"""OpenFlamingo's checkpoints (Awadalla et al. 2023, arXiv 2308.01390): loaded as a model, and written again.

`open_flamingo_checkpoint.py` reads the file. The names of the language model's tensors are asked of the language model
and of transformers; none are listed here.
"""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from decoders.files import beside, sync
from encoders.base import FrozenEncoder
from mmlm.assembly.assemble import assemble
from mmlm.assembly.forms.named import language_model_config
from mmlm.assembly.frozen import causal_model, image_encoder_of
from mmlm.assembly.interop.download import LANGUAGE_MODEL_FILES, fetch
from mmlm.assembly.interop.open_flamingo_checkpoint import HEADS, read_checkpoint
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.assembly.presets import OPEN_FLAMINGO
from mmlm.assembly.save import load_added
from mmlm.model.fusion.cross_attention import CrossAttention
from mmlm.model.language_model import LanguageModel

IMAGE_ENCODER = "ViT-L-14/openai"  # of all six released models
CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def load(
    checkpoint: str | Path,
    language_model: str | Path | nn.Module,
    image_encoder: str | Path | FrozenEncoder = IMAGE_ENCODER,
    *,
    tokenizer: Any = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> MultimodalLM:
    """The model of a checkpoint and of the frozen parts it was trained with; the parts are given as to `mmlm.assemble`.

    The language model gets the checkpoint's embedding rows, as many as there are, instead of its own; a ready-made
    language model is changed by that. Upstream does not save the head of LLaMA or GPT-J: if a file lacks the head's
    rows of added tokens, these keep the values of a new model. `ValueError` for a file that is not a checkpoint, or
    that was made for other parts.
    """
    read = read_checkpoint(checkpoint)
    encoder = image_encoder_of(image_encoder, final_norm=False, dtype=dtype)
    if encoder.dim != read.media_dim:
        raise ValueError(
            f"the checkpoint was made for image features of size {read.media_dim}; those of "
            f"{encoder.name or 'this encoder'} have size {encoder.dim}"
        )
    if getattr(encoder, "final_norm", False):
        warnings.warn(
            "OpenFlamingo's released models use image tokens from before the last norm: pass an image encoder with "
            "final_norm=False",
            stacklevel=2,
        )
    if not isinstance(language_model, nn.Module):
        read.check(language_model_config(language_model))  # before its weights are read
    own_tokenizer = tokenizer is not None
    lm, tokenizer, name = causal_model(language_model, tokenizer, dtype)
    read.check(_text_config(lm))
    rows, added = _vocabulary_rows(read.language_model, lm, len(tokenizer))
    _compare_rest(read.language_model, lm)
    host = LanguageModel(lm, tokenizer, name, rows=rows, own_tokenizer=own_tokenizer)
    model = assemble(host, encoder, resampler=read.resampler, fusion=read.fusion, dtype=dtype)
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
    """One of `presets.OPEN_FLAMINGO`, downloaded once, after its size was printed. options: those of `load`.

    Parts that are given are not downloaded.
    """
    from open_clip.pretrained import get_pretrained_cfg

    preset = OPEN_FLAMINGO[name]
    wanted: dict[str, Sequence[str]] = {preset["checkpoint"]: ["checkpoint.pt"]}
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


def _text_config(model: Any) -> Any:
    return model.config.get_text_config()


def _vocabulary_rows(
    state: dict[str, Tensor], model: nn.Module, vocabulary: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The file's rows of the embedding and, if there is one, of the head: the language model's own, and the added ones.

    Upstream appends `<|endofchunk|>` and `<image>` to the tokenizer's `vocabulary` tokens, then `<PAD>` if it has no
    padding token, and drops the language model's spare rows.
    """
    found: dict[str, Tensor] = {}
    for part, weight in _vocabulary_weights(model).items():
        if (name := next((name for name in _names(model, weight) if name in state), None)) is not None:
            found[part] = state[name]
        elif part == "embedding":
            raise ValueError(f"the checkpoint lacks the embedding of the language model, {_names(model, weight)[0]}")
    for part, rows in found.items():
        if rows.shape[0] - vocabulary not in (2, 3):
            raise ValueError(
                f"the checkpoint's {part} has {rows.shape[0]} rows, but the tokenizer has {vocabulary} tokens: with "
                f"those that OpenFlamingo adds, {vocabulary + 2} or {vocabulary + 3} rows are expected"
            )
    added = {part: rows[vocabulary:] for part, rows in found.items()}
    if _tied(model):
        added["head"] = added["embedding"]
    return {part: rows[:vocabulary] for part, rows in found.items()}, added


def _compare_rest(state: dict[str, Tensor], model: nn.Module) -> None:
    """`ValueError` if a frozen tensor in the file, such as OPT's positions, differs from the language model's.

    Keys that name no parameter are buffers of other versions of transformers, and hold nothing that was learned.
    """
    vocabulary = {name for weight in _vocabulary_weights(model).values() for name in _names(model, weight)}
    for name, own in model.named_parameters():
        if name in state and name not in vocabulary and not torch.equal(state[name].to(own.dtype), own.cpu()):
            raise ValueError(f"the checkpoint was made for another language model: its {name} differs")


def save(model: MultimodalLM, path: str | Path) -> Path:
    """Writes a model as OpenFlamingo's `checkpoint.pt`, whole or not at all; `load` restores the same model.

    `ValueError` for a model that OpenFlamingo's classes cannot represent.
    """
    path = Path(path)
    host = model.language_model
    if reasons := _reasons(model):
        raise ValueError(f"the model cannot be written as an OpenFlamingo checkpoint: {'; '.join(reasons)}")
    blocks = next(name for name, module in host.model.named_modules() if module is host.blocks)
    fusion = cast(CrossAttention, model.fusion)
    block_before = {layer: block for block, layer in fusion.layer_before.items()}
    state: dict[str, Tensor] = {}
    for name, tensor in model.resamplers["image"].state_dict().items():
        state[f"perceiver.{name}"] = tensor
    for layer, gated in enumerate(fusion.layers):
        for name, tensor in gated.state_dict().items():
            state[f"lang_encoder.{blocks}.{block_before[layer]}.gated_cross_attn_layer.{name}"] = tensor
    vocabulary = len(host.tokenizer)
    count = 2 if host.tokenizer.pad_token is not None else 3
    for part, weight in _vocabulary_weights(host.model).items():
        added = getattr(host.added, part)[:count]
        rows = torch.cat([weight[:vocabulary].float(), added.to(weight.device)])
        state[f"lang_encoder.{_names(host.model, weight)[-1]}"] = rows
    state = {name: tensor.detach().cpu().float().contiguous() for name, tensor in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path.parent) as folder:
        torch.save(state, folder / path.name)
        sync(folder / path.name)
        os.replace(folder / path.name, path)
    return path


def _reasons(model: MultimodalLM) -> list[str]:
    """What prevents a model from being written as an OpenFlamingo checkpoint."""
    host, resampler, fusion = model.language_model, model.resampler_config, model.fusion_config
    vocabulary, rows = len(host.tokenizer), host.vocabulary.offset
    tests: list[tuple[bool, str]] = [
        (fusion.kind != "cross_attention", "its media must join by cross-attention"),
        (set(model.encoders) != {"image"}, "it needs an image encoder and no audio encoder"),
        (resampler.depth == 0, "its resampler needs layers"),
        (resampler.timed or resampler.stack > 1, "its resampler must neither encode times nor stack tokens"),
        ({resampler.heads, fusion.heads} != {HEADS}, f"its attentions need {HEADS} heads"),
        (fusion.visibility != "latest", "its text must attend to the latest image only"),
        (vocabulary > rows, f"each token needs an embedding row, but {vocabulary} tokens have {rows} rows"),
        (
            _tied(host.model) and not torch.equal(host.added.embedding, host.added.head),
            "its head is tied to its embedding, but added tokens have different rows in the two",
        ),
    ]
    return [reason for found, reason in tests if found]


def _tied(model: Any) -> bool:
    """Whether the head of a transformers language model is its embedding."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def _vocabulary_weights(model: Any) -> dict[str, nn.Parameter]:
    """The embedding, and the head if it is another tensor."""
    weights = {"embedding": model.get_input_embeddings().weight}
    return weights if _tied(model) else weights | {"head": model.get_output_embeddings().weight}


def _names(model: Any, weight: nn.Parameter) -> list[str]:
    """The names of a parameter in this version of transformers and, last, its name in files."""
    from transformers.core_model_loading import revert_weight_conversion

    names = [name for name, own in model.named_parameters(remove_duplicate=False) if own is weight]
    return [*names[::-1], *revert_weight_conversion(model, {names[0]: weight})]
