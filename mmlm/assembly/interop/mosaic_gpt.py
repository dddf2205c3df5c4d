"""MosaicML's first language model (MPT-1B, used by OpenFlamingo-3B), run by transformers' class for its successor, MPT.

The code that comes with the model no longer runs on current transformers. Names and the order of operations follow
`mosaic_gpt.py` and `attention.py` of mosaicml/mpt-1b-redpajama-200b.
"""

import functools
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from transformers import MptConfig, MptForCausalLM, PreTrainedConfig

RENAMED = {  # MosaicML's own renaming (llm-foundry, scripts/misc/convert_examples_ckpt.py)
    r"\.ln_": ".norm_",
    r"\.mlp\.mlp_up\.": ".ffn.up_proj.",
    r"\.mlp\.mlp_down\.": ".ffn.down_proj.",
}
SAME_NAMES = ("d_model", "n_heads", "n_layers", "max_seq_len", "vocab_size")
SAME_NAMES_IN_ATTENTION = ("softmax_scale", "alibi_bias_max")
NEEDED = {  # the only value that transformers' class supports, and the default of MosaicGPT's config
    "mlp_ratio": (4, 4),
    "alibi": (True, False),
    "no_bias": (True, False),
    "prefix_lm": (False, False),
    "attn_clip_qkv": (None, None),
    "logit_scale": (None, None),
}


class MosaicGpt(MptForCausalLM):
    """`MptForCausalLM` with the LayerNorms of queries and keys that MPT-1B has and it lacks."""

    def __init__(self, config: MptConfig):
        super().__init__(config)
        if cast(Any, config.attn_config).qk_ln:
            for block in self.transformer.blocks:
                attention = cast(Any, block.attn)
                for name in ("q_ln", "k_ln"):
                    norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon, bias=False)
                    attention.register_module(name, norm)
                attention.Wqkv.register_forward_hook(functools.partial(_norm_queries_and_keys, attention))


def mpt_config(path: str | Path) -> MptConfig:
    """The config of a MosaicGPT as an MptConfig. `ValueError` if transformers' MPT cannot compute that model."""
    values = PreTrainedConfig.get_config_dict(path)[0]
    for name, (needed, default) in NEEDED.items():
        if (found := values.get(name, default)) != needed:
            raise ValueError(f"{path} has {name}={found!r}; transformers' MPT supports only {needed!r}")
    attention = {name: values[name] for name in SAME_NAMES_IN_ATTENTION if name in values}
    attention["qk_ln"] = values.get("attn_qk_ln", False)
    return MptConfig(
        **{name: values[name] for name in SAME_NAMES if name in values},
        **{name: values[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in values},
        attn_config=attention,
    )


def _norm_queries_and_keys(attention: Any, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
    """A forward hook of `attention.Wqkv`, whose output `[B, T, 3·D]` holds queries, keys and values."""
    width = output.shape[-1] // 3
    output[..., :width] = attention.q_ln(output[..., :width])
    output[..., width : 2 * width] = attention.k_ln(output[..., width : 2 * width])
    return output
