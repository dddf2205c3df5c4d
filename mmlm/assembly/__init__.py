"""How a model is put together, kept and found.

`mmlm.assemble` makes a new model of frozen parts, `mmlm.load` reads a saved one, `extended` adds codecs or LoRA; the
first two are exported there alone, since the modules here that define them have the same names. `MultimodalLM` is the
network with its verbs as methods; it is defined here, after the rooms whose functions it offers. `config`, `names`,
`save`, `bundle`, `frozen`, `codecs` and `presets` serve these; `interop/` reads and writes models of other projects.
"""

from typing import TYPE_CHECKING

from mmlm._lazy import lazy_names

if TYPE_CHECKING:
    from mmlm.assembly.codecs import Codecs
    from mmlm.assembly.config import ModelConfig
    from mmlm.assembly.extend import extended
    from mmlm.assembly.multimodal_lm import MultimodalLM

__all__ = ["Codecs", "ModelConfig", "MultimodalLM", "extended"]

__getattr__ = lazy_names(
    __name__,
    {
        "Codecs": "mmlm.assembly.codecs",
        "ModelConfig": "mmlm.assembly.config",
        "MultimodalLM": "mmlm.assembly.multimodal_lm",
        "extended": "mmlm.assembly.extend",
    },
)
