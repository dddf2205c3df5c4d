"""CLIP and SigLIP as transformers saves them, as open_clip's models."""

from __future__ import annotations

from typing import Any

import open_clip
import transformers
from open_clip.model import CLIPTextCfg, CLIPVisionCfg, set_model_preprocess_cfg
from torch import Tensor, nn

from encoders.clip_forms.pictures import CLIP_DEFAULTS, SIGLIP_DEFAULTS, picture_settings, transform_of
from encoders.clip_forms.renaming import clip_weights, siglip_weights
from encoders.clip_forms.siglip_tower import SiglipTower
from encoders.guarded import from_pretrained
from encoders.model_files import read_settings
from encoders.sizes import RefusedError

READY_MADE = "make the model yourself, and pass it as ClipImageEncoder(model, preprocess, tokenizer=…)"
FORMS = ("clip", "siglip")  # model types that are read
ACTIVATIONS = {  # transformers' name → open_clip's quick_gelu and act_kwargs, and timm's name
    "quick_gelu": (True, None, "quick_gelu"),
    "gelu": (False, None, "gelu"),
    "gelu_pytorch_tanh": (False, {"approximate": "tanh"}, "gelu_tanh"),
}


def transformers_model(source: str) -> tuple[nn.Module, Any]:
    """The model in a folder or hub id, and its preprocessing. `RefusedError` for another kind of model."""
    kind = _model_type(source)
    config = from_pretrained(transformers.AutoConfig, source, READY_MADE)
    upstream = transformers.CLIPModel if kind == "clip" else transformers.SiglipModel
    build, convert, defaults = (
        (_clip, clip_weights, CLIP_DEFAULTS) if kind == "clip" else (_siglip, siglip_weights, SIGLIP_DEFAULTS)
    )
    size = _pair(config.vision_config.image_size)
    transform, described = transform_of(picture_settings(source), defaults, size)
    read, report = from_pretrained(
        upstream, source, READY_MADE, dtype="auto", output_loading_info=True, ignore_mismatched_sizes=True
    )
    # transformers would draw them anew
    if lacking := sorted([*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])]):
        raise RefusedError(f"its weights lack {len(lacking)} tensors of its config, first {lacking[0]}")
    model = build(config)
    model.load_state_dict(convert(read.state_dict()))
    set_model_preprocess_cfg(model, described)
    return model, transform


class TransformersTokenizer:
    """A tokenizer of transformers as open_clip calls its own: texts → ids [N, L], filled up to the model's context."""

    def __init__(self, tokenizer: Any, context_length: int, lower: bool) -> None:
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.lower = lower

    def __call__(self, texts: list[str], context_length: int | None = None) -> Tensor:
        """context_length: the number of ids for each text; None for the model's."""
        return self.tokenizer(
            [text.lower() for text in texts] if self.lower else texts,
            max_length=context_length or self.context_length,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).input_ids


def transformers_tokenizer(source: str, remedy: str) -> TransformersTokenizer:
    """The tokenizer of a folder or hub id. remedy: what the message advises where it is code."""
    config = from_pretrained(transformers.AutoConfig, source, remedy)
    tokenizer = from_pretrained(transformers.AutoTokenizer, source, remedy)
    # SigLIP's own lowers texts itself. SigLIP 2 learned from lowered texts too, and its tokenizer is Gemma's.
    lower = _model_type(source) == "siglip" and getattr(tokenizer, "do_lower_case", True)
    return TransformersTokenizer(tokenizer, config.text_config.max_position_embeddings, lower)


def _model_type(source: str) -> str:
    kind = (read_settings(source, "config.json") or {}).get("model_type")
    if kind == "siglip2":
        raise RefusedError(
            "it is a SigLIP 2 for grids of any shape (NaFlex), and patch tokens need one grid: take a SigLIP 2 of one "
            "size, such as google/siglip2-base-patch16-224"
        )
    if kind not in FORMS:
        raise RefusedError(f"its model_type is {kind!r}; what is read of transformers is {' and '.join(FORMS)}")
    return kind


def _clip(config: Any) -> nn.Module:
    vision, text = config.vision_config, config.text_config
    quick_gelu, act_kwargs, _ = _activation(vision)
    if quick_gelu != _activation(text)[0]:
        raise RefusedError("it has QuickGELU in one tower alone, which open_clip does not build")
    largest = text.eos_token_id in (2, text.vocab_size - 1)  # of all ids, the end mark's; old configs say 2
    return open_clip.CLIP(
        config.projection_dim,
        CLIPVisionCfg(
            layers=vision.num_hidden_layers,
            width=vision.hidden_size,
            head_width=vision.hidden_size // vision.num_attention_heads,
            mlp_ratio=_ratio(vision),
            patch_size=vision.patch_size,
            image_size=_pair(vision.image_size),
            act_kwargs=act_kwargs,
            norm_kwargs={"eps": vision.layer_norm_eps},
        ),
        _text(text, **({} if largest else {"pool_type": "eos", "eos_id": text.eos_token_id})),
        quick_gelu=quick_gelu,
    )


def _siglip(config: Any) -> nn.Module:
    vision, text = config.vision_config, config.text_config
    if not vision.vision_use_head:
        raise RefusedError("its image tower has no head, and so no embeddings of pictures")
    model = open_clip.CustomTextCLIP(
        text.projection_size,
        CLIPVisionCfg(layers=0, width=64),  # nothing: the tower of any size takes its place
        _text(text, no_causal_mask=True, proj_bias=True, pool_type="last"),
        quick_gelu=_activation(text)[0],
        init_logit_bias=-10,
    )
    model.visual = SiglipTower(
        _pair(vision.image_size),
        patch_size=vision.patch_size,
        embed_dim=vision.hidden_size,
        depth=vision.num_hidden_layers,
        num_heads=vision.num_attention_heads,
        mlp_ratio=_ratio(vision),
        norm_eps=vision.layer_norm_eps,
        act_layer=_activation(vision)[2],
    )
    return model


def _text(text: Any, **other: Any) -> CLIPTextCfg:
    return CLIPTextCfg(
        context_length=text.max_position_embeddings,
        vocab_size=text.vocab_size,
        width=text.hidden_size,
        heads=text.num_attention_heads,
        layers=text.num_hidden_layers,
        mlp_ratio=_ratio(text),
        act_kwargs=_activation(text)[1],  # pyright: ignore[reportArgumentType]  # whose default is None
        norm_kwargs={"eps": text.layer_norm_eps},
        **other,
    )


def _activation(tower: Any) -> tuple[bool, dict[str, str] | None, str]:
    if tower.hidden_act not in ACTIVATIONS:
        raise RefusedError(f"its activation is {tower.hidden_act!r}; those that are known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[tower.hidden_act]


def _ratio(tower: Any) -> float:
    """Such that open_clip and timm, which multiply by it and cut off, come to the same width."""
    return (tower.intermediate_size + 0.5) / tower.hidden_size


def _pair(size: Any) -> tuple[int, int]:
    return tuple(size) if isinstance(size, list | tuple) else (size, size)
