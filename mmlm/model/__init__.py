"""The network: frozen encoders and a frozen language model, and the modules that join them.

`MultimodalNetwork` is the whole, with its forward pass and its `Output`. `LanguageModel` extends any causal language
model by hooks: added token rows, codes, LoRA, and a callback for each pass. `PerceiverResampler` turns media features
into latents, and `mmlm.model.fusion` lets the text see them. The configs hold the sizes of what is added.
`Changes` has passes and changes of a model take turns, and `OwnDraws` gives random numbers that are a thread's own.
"""

from mmlm.model.acceleration import Acceleration, RecordedSteps
from mmlm.model.added_rows import AddedRows, CodeRows
from mmlm.model.blocks import find_blocks
from mmlm.model.changes import Changes, ModelChangedError
from mmlm.model.code_places import CodePlaces
from mmlm.model.config import FusionConfig, LoraConfig, ResamplerConfig
from mmlm.model.draws import OwnDraws
from mmlm.model.fusion.interface import Fusion, MediaContext
from mmlm.model.language_model import LanguageModel
from mmlm.model.layouts import layouts_of
from mmlm.model.lora import LoraAdapters
from mmlm.model.modules import ModuleMap, ModuleSequence
from mmlm.model.network import MultimodalNetwork
from mmlm.model.output import Output
from mmlm.model.request import ForwardCallback
from mmlm.model.resampler import PerceiverResampler

__all__ = [
    "Acceleration",
    "AddedRows",
    "Changes",
    "CodePlaces",
    "CodeRows",
    "ForwardCallback",
    "Fusion",
    "FusionConfig",
    "LanguageModel",
    "LoraAdapters",
    "LoraConfig",
    "MediaContext",
    "ModelChangedError",
    "ModuleMap",
    "ModuleSequence",
    "MultimodalNetwork",
    "Output",
    "OwnDraws",
    "PerceiverResampler",
    "RecordedSteps",
    "ResamplerConfig",
    "find_blocks",
    "layouts_of",
]
