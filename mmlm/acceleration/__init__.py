"""Faster generation: the one switch is `pack(network)`, undone by `unpack(network)`. Nothing else depends on it.

`hardware.py` tells which dtypes the processor multiplies; `kernels.py` multiplies by packed (reordered or quantised)
weights on a CPU; `packing.py` lets layers use these kernels. `tape.py` records and replays torch calls on a CPU;
`recorded_step.py` records a decoding step, as such a tape or as a CUDA graph. `probes.py` runs the language model to
check that this changes no logits, and `pack.py` puts all of it together.
"""

from mmlm.acceleration.hardware import multiplies
from mmlm.acceleration.kernels import Weights
from mmlm.acceleration.pack import Acceleration, pack, unpack
from mmlm.acceleration.packing import pack_layers, unpack_layers, use_packed

__all__ = ["Acceleration", "Weights", "multiplies", "pack", "pack_layers", "unpack", "unpack_layers", "use_packed"]
