"""A model split over the processes (FSDP2), where it does not fit on each device.

A unit is gathered for its own pass and given up again. Units are: each block of the language model, and what is
outside of its blocks; each gated block, with its projection of the media apart, as that runs before the language model
does. Of what trains the rest (resamplers, LoRA, rows, a projector) is in each process: it is small.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.model.fusion.cross_attention import CrossAttention
from mmlm.model.fusion.interface import MediaItems
from mmlm.model.fusion.media_context import CrossAttentionContext
from mmlm.model.guest import is_placed
from mmlm.model.language_model import LanguageModel
from mmlm.training.ranks import anywhere, world


def shard(model: MultimodalLM) -> None:
    """Splits the weights in place, for good: from here on only all processes together can compute with them.

    What trains is that of the first process. ValueError for a single process, for a language model that accelerate has
    placed, and where it has weights of several types, as quantised layers do.
    """
    host = model.language_model
    if world() == 1:
        raise ValueError("shard splits a language model over processes, and there is one: start it with torchrun")
    if is_placed(host.model):
        raise ValueError("shard splits a language model over processes, and this one is placed by its device_map")
    mesh = init_device_mesh(host.device.type, (world(),))
    types = {str(weight.dtype) for weight in host.model.parameters()}
    if len(types) > 1:
        raise ValueError(f"shard needs weights of one type, and the language model has {', '.join(sorted(types))}")
    host.fingerprinted = host.fingerprint()
    # All have to agree on it, and a process finds it out for itself only when it has many labels.
    host.ends_in_head = ends_in_head(host)
    for _, parameter in model.added_parameters():
        dist.broadcast(parameter.data, 0)
    for unit in (*host.blocks, *_trained_units(model)):
        fully_shard(unit, mesh=mesh)
    fully_shard(host.model, mesh=mesh, reshard_after_forward=False)  # the head is the first that backward needs
    if isinstance(model.fusion, CrossAttention):
        _run_all_blocks(model.fusion, model.media_dim, model.device)
    # The root, under which all units share their order and their streams, has no weights of its own.
    units = (host.model, *_trained_units(model))
    ignored = {*model.parameters()} - {weight for unit in units for weight in unit.parameters()}
    fully_shard(model, mesh=mesh, ignored_params=ignored)


@torch.no_grad()
def ends_in_head(host: LanguageModel) -> bool:
    """Whether the language model's logits are its head's, with no soft-cap or scale behind it."""
    ids = torch.zeros(1, 2, dtype=torch.long, device=host.device)
    with host.request(logit_positions=torch.ones_like(ids, dtype=torch.bool)) as request:
        return host(ids, use_cache=False).logits is request.logits


def _trained_units(model: MultimodalLM) -> list[nn.Module]:
    """Inner modules first."""
    blocks = model.fusion.layers if isinstance(model.fusion, CrossAttention) else ()
    return [unit for block in blocks for unit in (block.attn.to_kv, block)]


def _run_all_blocks(fusion: CrossAttention, media_dim: int, device: torch.device) -> None:
    """Lets a process without media attend to an item that no text sees, where another process has media.

    All processes then gather the same weights and give the same gradients away, its own being zeros; where none has
    media, none of them has gradients of attention, as in a single process.
    """
    context = fusion.context

    def together(rows: int, items: MediaItems | None = None, dtype: torch.dtype | None = None) -> CrossAttentionContext:
        if anywhere(items is not None) and items is None:
            first = torch.zeros(1, dtype=torch.long, device=device)
            # It learns, so that gradients arrive in the same order as in the others.
            items = MediaItems(torch.zeros(1, 1, media_dim, device=device, requires_grad=True), first, first)
        return context(rows, items, dtype)

    fusion.context = together


@contextmanager
def gathered(model: MultimodalLM) -> Iterator[None]:
    """Within it each process has all of the weights that are saved; all enter it together."""
    host = model.language_model
    units = [cast(FSDPModule, unit) for unit in (*_trained_units(model), *([host.model] if host.replaced else []))]
    try:
        for unit in units:
            unit.unshard()
        yield
    finally:
        for unit in units:
            unit.reshard()
