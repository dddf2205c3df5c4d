"""MultimodalLM: the network with its verbs, its switch for speed, and saving, as methods."""

from pathlib import Path

from mmlm.acceleration.kernels import Weights
from mmlm.acceleration.pack import pack, unpack
from mmlm.assembly.config import ModelConfig
from mmlm.assembly.describe import described
from mmlm.assembly.save import config_of, push_to_hub, save
from mmlm.generation.log_probs import log_probs
from mmlm.model.network import MultimodalNetwork
from mmlm.reasoning.agent import solve
from mmlm.tasks.answer import answer
from mmlm.tasks.ask import ask
from mmlm.tasks.attention_maps import attention_maps
from mmlm.tasks.caption import caption
from mmlm.tasks.chat import chat, chat_prompt
from mmlm.tasks.draw import draw
from mmlm.tasks.generate import generate, stream
from mmlm.tasks.speak import speak
from mmlm.tasks.transcribe import transcribe


class MultimodalLM(MultimodalNetwork):
    """Any frozen CLIP, any frozen Whisper and any frozen causal language model: what `assemble` and `load` give.

    The verbs are the functions of `mmlm.tasks` and `mmlm.reasoning`, with the model as their first argument.
    """

    generate = generate
    stream = stream
    caption = caption
    answer = answer
    transcribe = transcribe
    ask = ask
    chat = chat
    chat_prompt = chat_prompt
    solve = solve
    draw = draw
    speak = speak

    log_probs = log_probs
    attention_maps = attention_maps
    push_to_hub = push_to_hub

    def save(self, folder: str | Path, *, bundle: bool = False) -> Path:
        """Writes what was added, and the names of the frozen parts or, bundled, these too: see `mmlm.assembly.save`."""
        with self.changes.passing():
            return save(self, folder, bundle=bundle)

    def __repr__(self) -> str:
        return described(self)

    def config(self) -> ModelConfig:
        """What rebuilds this model, with fingerprints of its frozen parts."""
        return config_of(self)

    def pack(self, weights: Weights = "exact") -> "MultimodalLM":
        """Makes generation faster: see `mmlm.acceleration.pack`. Returns the model."""
        pack(self, weights)
        return self

    def unpack(self) -> "MultimodalLM":
        """Takes back `pack`."""
        unpack(self)
        return self
