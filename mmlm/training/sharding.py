"""A frozen language model split over the processes (FSDP2), where it does not fit on each device.

Each block is a unit, gathered for its own pass and given up again; what is outside of blocks is one more. The weights
that train are not split: they are few beside the language model's, and DDP keeps them equal.
"""

from __future__ import annotations

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from mmlm.model.guest import is_placed
from mmlm.model.language_model import LanguageModel
from mmlm.training.ranks import world


def shard(host: LanguageModel) -> None:
    """Splits the frozen weights in place, for good: from here on only all processes together can compute with them.

    ValueError for a single process, for a model that accelerate has placed, and where a unit has weights of several
    types, as those of quantised layers are.
    """
    if world() == 1:
        raise ValueError("shard splits a language model over processes, and there is one: start it with torchrun")
    if is_placed(host.model):
        raise ValueError("shard splits a language model over processes, and this one is placed by its device_map")
    mesh = init_device_mesh(host.device.type, (world(),))
    types = {str(weight.dtype) for weight in host.model.parameters()}
    if len(types) > 1:
        raise ValueError(f"shard needs weights of one type, and the language model has {', '.join(sorted(types))}")
    host.fingerprinted = host.fingerprint()
    for unit in (*host.blocks, host.model):
        fully_shard(unit, mesh=mesh)
