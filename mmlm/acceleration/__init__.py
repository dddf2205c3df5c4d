"""Faster generation: the one switch is `pack(network)`, undone by `unpack(network)`. Nothing else depends on it.

`operators.py` looks up what is private in torch, and `hardware.py` tells which dtypes the processor multiplies.
`kernels.py` multiplies by packed (reordered or quantised) weights on a CPU, `choosing.py` times the kernels,
`copies.py` keeps their copies of the weights, and `packing.py` lets layers use them. `tape.py` records and replays
torch calls on a CPU; `recorded_step.py` records a decoding step, as such a tape or as a CUDA graph. `probes.py` runs
the language model to check that this changes no logits, and `pack.py` puts all of it together.
"""

from mmlm.acceleration.copies import use_packed
from mmlm.acceleration.hardware import multiplies
from mmlm.acceleration.kernels import Weights
from mmlm.acceleration.pack import Acceleration, pack, unpack
from mmlm.acceleration.packing import choose_kernels, pack_layers, unpack_layers

__all__ = [
    "Acceleration", "Weights", "choose_kernels", "multiplies", "pack", "pack_layers", "unpack", "unpack_layers",
    "use_packed",
]  # fmt: skip
