"""MosaicML's first language model (MPT-1B of OpenFlamingo-3B) by the class that transformers has for its successor.

Its own code no longer runs on today's transformers. Names and order of operations are those of the `mosaic_gpt.py` and
`attention.py` that come with mosaicml/mpt-1b-redpajama-200b.
"""

import functools
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import MptConfig, MptForCausalLM, PreTrainedConfig

RENAMED = {  # as MosaicML renamed them itself (llm-foundry, scripts/misc/convert_examples_ckpt.py)
    r"\.ln_": ".norm_",
    r"\.mlp\.mlp_up\.": ".ffn.up_proj.",
    r"\.mlp\.mlp_down\.": ".ffn.down_proj.",
}
ALIKE = ("d_model", "n_heads", "n_layers", "max_seq_len", "vocab_size")
ALIKE_IN_ATTENTION = ("softmax_scale", "alibi_bias_max")
NEEDED = {  # what transformers' class does, and cannot do otherwise; with the config's own defaults
    "mlp_ratio": (4, 4),
    "alibi": (True, False),
    "no_bias": (True, False),
    "prefix_lm": (False, False),
    "attn_clip_qkv": (None, None),
    "logit_scale": (None, None),
}


class MosaicGpt(MptForCausalLM):
    """`MptForCausalLM`, and the LayerNorms of queries and keys that it lacks and MPT-1B has."""

    def __init__(self, config: MptConfig):
        super().__init__(config)
        if config.attn_config.qk_ln:
            for block in self.transformer.blocks:
                attention = block.attn
                for name in ("q_ln", "k_ln"):
                    norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon, bias=False)
                    attention.register_module(name, norm)
                attention.Wqkv.register_forward_hook(functools.partial(_norm_queries_and_keys, attention))

    @classmethod
    def from_pretrained(cls, path: str | Path, **options: Any) -> "MosaicGpt":
        """The model in a folder or of a hub id, by the names of its own code; its `config` is that of `mpt_config`."""
        return super().from_pretrained(path, key_mapping=RENAMED, **options)


def mpt_config(path: str | Path) -> MptConfig:
    """The config of a MosaicGPT in transformers' words. `ValueError` where its class computes otherwise."""
    values = PreTrainedConfig.get_config_dict(path)[0]
    for name, (needed, default) in NEEDED.items():
        if (found := values.get(name, default)) != needed:
            raise ValueError(f"{path} has {name}={found!r}; transformers' MPT computes with {needed!r} alone")
    attention = {name: values[name] for name in ALIKE_IN_ATTENTION if name in values}
    attention["qk_ln"] = values.get("attn_qk_ln", False)
    return MptConfig(
        **{name: values[name] for name in ALIKE if name in values},
        **{name: values[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in values},
        attn_config=attention,
    )


def _norm_queries_and_keys(attention: nn.Module, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
    width = output.shape[-1] // 3
    output[..., :width] = attention.q_ln(output[..., :width])
    output[..., width : 2 * width] = attention.k_ln(output[..., width : 2 * width])
    return output
