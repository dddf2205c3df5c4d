"""Names of weights: transformers' CLIP and SigLIP in the names of open_clip."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# What takes whose place in a name, one after the other.
BLOCK = {
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".self_attn.qkv.": ".attn.in_proj_",
    ".self_attn.out_proj.": ".attn.out_proj.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
}
TEXT = {
    "text_model.embeddings.token_embedding.": "token_embedding.",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.encoder.layers.": "transformer.resblocks.",
    "text_model.final_layer_norm.": "ln_final.",
    "text_model.head.": "text_projection.",  # SigLIP's
    **BLOCK,
}
VISION = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.": "visual.conv1.",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.": "visual.ln_pre.",
    "vision_model.encoder.layers.": "visual.transformer.resblocks.",
    "vision_model.post_layernorm.": "visual.ln_post.",
    **BLOCK,
}
TIMM_VISION = {
    "vision_model.embeddings.patch_embedding.": "visual.trunk.patch_embed.proj.",
    "vision_model.embeddings.position_embedding.weight": "visual.trunk.pos_embed",
    "vision_model.encoder.layers.": "visual.trunk.blocks.",
    "vision_model.post_layernorm.": "visual.trunk.norm.",
    "vision_model.head.probe": "visual.trunk.attn_pool.latent",
    "vision_model.head.attention.out_proj.": "visual.trunk.attn_pool.proj.",
    "vision_model.head.layernorm.": "visual.trunk.attn_pool.norm.",
    "vision_model.head.": "visual.trunk.attn_pool.",
    ".layer_norm1.": ".norm1.",
    ".layer_norm2.": ".norm2.",
    ".self_attn.qkv.": ".attn.qkv.",
    ".self_attn.out_proj.": ".attn.proj.",
}


def clip_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of transformers' CLIPModel as those of open_clip's CLIP."""
    found = _renamed(_joined(weights), {**TEXT, **VISION})
    # Matrices in open_clip, linear layers in transformers
    found["text_projection"] = found.pop("text_projection.weight").T
    found["visual.proj"] = found.pop("visual_projection.weight").T
    return found


def siglip_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of transformers' SiglipModel as those of open_clip's CustomTextCLIP around a tower of timm's."""
    joined = _joined(weights)
    for kind in ("weight", "bias"):  # timm keeps the projection of the query, which comes of the probe alone, apart
        query, key, value = joined.pop(f"vision_model.head.attention.in_proj_{kind}").chunk(3)
        joined |= {f"vision_model.head.q.{kind}": query, f"vision_model.head.kv.{kind}": torch.cat([key, value])}
    text = _renamed({name: value for name, value in joined.items() if name.startswith("text_model.")}, TEXT)
    found = {f"text.{name}": value for name, value in text.items()}
    found |= _renamed({name: value for name, value in joined.items() if name.startswith("vision_model.")}, TIMM_VISION)
    found["visual.trunk.pos_embed"] = found["visual.trunk.pos_embed"][None]
    return found | {name: weights[name].reshape(()) for name in ("logit_scale", "logit_bias")}


def _joined(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values of each layer as one tensor, `self_attn.qkv`."""
    found = {}
    for name, value in weights.items():
        if ".q_proj." in name:
            parts = [weights[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            found[name.replace(".q_proj.", ".qkv.")] = torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            found[name] = value
    return found


def _renamed(weights: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    found = {}
    for name, value in weights.items():
        for old, new in names.items():
            name = name.replace(old, new)
        found[name] = value
    return found
