"""Reading OpenFlamingo's `checkpoint.pt`: which sizes it has, and what its tensors are called here.

It holds the perceiver (`perceiver.*`), the gated blocks inside the language model's list of blocks
(`lang_encoder.<path>.<i>.gated_cross_attn_layer.*`), and the embedding, whose last rows are those of the added tokens.
Sizes are derived from the tensors, and `<path>` may be any. Layout of open_flamingo/src/flamingo.py and
open_flamingo/train/train_utils.py, version 2.0.1.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from encoders.guarded import torch_file
from mmlm.model.config import FusionConfig, ResamplerConfig

HEADS = 8  # of all attentions; the one size that no tensor shows
WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
GATED = re.compile(r"lang_encoder\.(?:.+\.)?(\d+)\.gated_cross_attn_layer\.(.+)")
ALIASES = re.compile(r"lang_encoder\.(?:gated_cross_attn_layers|old_decoder_blocks)\.")  # second names of tensors


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    media_dim, dim: sizes of the image features and of the language model's hidden states; blocks: numbers of the blocks
    that have a gated block before them; adapters: tensors by their names in mmlm; language_model: by its own names.
    """

    resampler: ResamplerConfig
    fusion: FusionConfig
    media_dim: int
    dim: int
    blocks: list[int]
    adapters: dict[str, Tensor]
    language_model: dict[str, Tensor]

    def check(self, config: Any) -> None:
        """`ValueError` unless the checkpoint was made for a language model with this text config."""
        every = self.fusion.cross_attention_every
        if config.hidden_size != self.dim:
            raise ValueError(
                f"the checkpoint was made for a language model of hidden size {self.dim}; this one "
                f"({config.model_type}) has {config.hidden_size}"
            )
        if self.blocks != list(range(every - 1, config.num_hidden_layers, every)):
            raise ValueError(
                f"the checkpoint has gated blocks before blocks {self.blocks}, which does not match a language model "
                f"with {config.num_hidden_layers} blocks"
            )


def read_checkpoint(path: str | Path) -> Checkpoint:
    """A checkpoint as released, or as upstream's training writes it: in a dict, with `module.` before its keys.

    The file is memory-mapped: it takes no memory until its tensors are copied. Only tensors are unpickled.
    `FileNotFoundError` without the file, `ValueError` if it is not such a checkpoint.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        state = torch_file(path, mmap=True)
    except Exception as error:  # of many types, depending on what is wrong with the file
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read as a file of tensors; pickled code is not loaded: {reason}") from error
    while isinstance(state, dict) and (inner := state.get("model_state_dict", state.get("model"))) is not None:
        state = inner
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} does not contain a state dict")
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
            f"{path} is not an OpenFlamingo checkpoint: it has no perceiver.* or no gated_cross_attn_layer keys; its "
            f"first keys are {list(state)[:3]}"
        )
    if timed := sorted(perceiver.keys() & {"frame_embs", "media_time_embs"}):
        raise ValueError(f"{path} has learned embeddings for video frames, which mmlm does not support: {timed}")
    try:
        return _checkpoint(perceiver, gated, rest)
    except KeyError as error:
        raise ValueError(f"{path} is incomplete: it lacks {error.args[0]}") from error
    except (IndexError, ZeroDivisionError) as error:
        raise ValueError(f"{path} is damaged: a tensor has another shape than an OpenFlamingo's") from error


def _checkpoint(
    perceiver: dict[str, Tensor], gated: dict[tuple[int, str], Tensor], rest: dict[str, Tensor]
) -> Checkpoint:
    """From tensors by their names in the perceiver, in each gated block, and in the language model."""
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
