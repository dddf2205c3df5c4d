"""Checkpoints of LlamaGen and taming-transformers → `VQGAN`, with sizes inferred from the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from decoders.codecs.pretrained.vqgan import VQGAN, VQGANConfig
from encoders.guarded import torch_file
from encoders.sizes import RefusedError

# Used in training only: taming's discriminator and LPIPS, LlamaGen's record of recently used codes.
NOT_OF_THE_NETWORK = ("loss.", "quantize.codebook_used")
MIDDLE = ("block_1", "attn_1", "block_2")  # taming's names; LlamaGen's are 0, 1, 2


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file of torch.save, under LlamaGen's "ema" or "model", or Lightning's "state_dict".

    No code in the file is run: anything but tensors and plain data is read as an empty object. ValueError for a file
    without a state dict.
    """
    try:
        # Lightning's checkpoints contain instances of its callbacks, which weights_only alone would refuse.
        contents = torch_file(path, stand_in=Ignored)
    except RefusedError:
        raise
    except (RuntimeError, ValueError, LookupError, AttributeError, EOFError) as error:
        raise ValueError(
            f'{path} is not a file of torch.save in its zip format, or is damaged: {{"state_dict": weights}} is needed'
        ) from error
    for key in ("ema", "model", "state_dict"):
        if isinstance(contents, Mapping) and isinstance(contents.get(key), Mapping):
            return _weights(contents[key], path)
    raise ValueError(f'{path} holds no state dict under "ema", "model" or "state_dict"')


def _weights(found: Mapping[Any, Any], path: str | Path) -> dict[str, Tensor]:
    """A state dict; ValueError for names that are no texts, and for tensors that hold nothing but their sizes."""
    for name, tensor in found.items():
        if not isinstance(name, str):
            raise ValueError(f"{path} holds no state dict: {name!r} is no name")
        if isinstance(tensor, Tensor) and not tensor.numel():
            raise ValueError(f"{path} holds a tensor {name} {list(tensor.shape)} without values")
    return dict(found)


class Ignored:
    """Replaces every class that a checkpoint names, so that the class itself is neither imported nor run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def vqgan_from_weights(weights: Mapping[str, Tensor]) -> VQGAN:
    """A state dict of taming's or LlamaGen's `VQModel` → the network with these weights, in float32.

    The names of the weights tell the two apart. ValueError for other networks, such as taming's Gumbel variant, and for
    missing or unexpected weights.
    """
    from_llamagen = any(name.startswith("encoder.conv_blocks.") for name in weights)
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith(NOT_OF_THE_NETWORK)}
    if not all(isinstance(tensor, Tensor) for tensor in kept.values()):
        raise ValueError("not a state dict of weights: some of its values are not tensors")
    levels = len({name.split(".")[2] for name in kept if re.match(r"encoder\.(down|conv_blocks)\.", name)})
    renamed = {own_name(name, levels): tensor.float() for name, tensor in kept.items()}
    try:
        # LlamaGen normalises codebook entries before it compares and decodes them (`codebook_l2_norm`, on in all
        # releases).
        network = VQGAN(sizes(renamed, levels, unit_entries=from_llamagen))
        network.load_state_dict(renamed)
    except KeyError as error:
        raise ValueError(f"not the weights of taming's or LlamaGen's VQGAN: {error.args[0]!r} is missing") from error
    except RuntimeError as error:
        raise ValueError(f"not the weights of taming's or LlamaGen's VQGAN: {error}") from error
    return network


def own_name(name: str, levels: int) -> str:
    """The name of a weight in taming's or LlamaGen's modules → its name in `VQGAN`."""
    if name == "quantize.embedding.weight":
        return "codebook"
    # taming numbers the decoder's levels from the outermost, though it runs them from the innermost.
    name = re.sub(r"^decoder\.up\.(\d+)\.", lambda found: f"decoder.levels.{levels - 1 - int(found[1])}.", name)
    name = re.sub(r"\.mid\.(\w+_\d)\.", lambda found: f".mid.{MIDDLE.index(found[1])}.", name)
    name = re.sub(r"^(encoder|decoder)\.(down|conv_blocks)\.", r"\1.levels.", name)
    return re.sub(r"\.(down|up)sample\.conv\.", ".resample.1.", name.replace(".res.", ".block."))


def sizes(weights: Mapping[str, Tensor], levels: int, unit_entries: bool) -> VQGANConfig:
    """The sizes of a `VQGAN` with these weights. KeyError with the name of the first weight that is missing."""
    outermost = {name.split(".")[4] for name in weights if name.startswith("encoder.levels.0.block.")}
    codebook_size, codebook_dim = weights["codebook"].shape
    return VQGANConfig(
        stem=len(weights["encoder.conv_in.weight"]),
        widths=tuple(len(weights[f"encoder.levels.{i}.block.0.conv2.weight"]) for i in range(levels)),
        attends=tuple(f"encoder.levels.{i}.attn.0.norm.weight" in weights for i in range(levels)),
        blocks=len(outermost),
        latent_channels=len(weights["encoder.conv_out.weight"]),
        codebook_size=codebook_size,
        codebook_dim=codebook_dim,
        unit_entries=unit_entries,
    )
