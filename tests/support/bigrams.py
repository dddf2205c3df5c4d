"""A language model whose next token depends on the last one alone, as a table says: what it writes is known by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import transformers

from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.model.language_model import LanguageModel
from support import families, parts

END = "\0"
"""The end token, in a table."""

FAR = -60.0  # logit of what a table does not name

Table = Mapping[str, str | Mapping[str, float]]
"""The last character, or control token → the next one, or several with their probabilities."""


class Bigrams(transformers.LlamaForCausalLM):
    """Keeps keys and values like any other model, and gives the logits of its table."""

    table: torch.Tensor

    def forward(self, input_ids=None, **kwargs):
        output = super().forward(input_ids=input_ids, **kwargs)
        shown = self.table[input_ids[:, -output.logits.shape[1] :].clamp(max=len(self.table) - 1)]
        output.logits[:] = FAR
        output.logits[..., : shown.shape[-1]] = shown
        return output


def tokenizer(special: tuple[str, ...] = (), template: str | None = None, added: tuple[str, ...] = ()) -> Any:
    """Bytes, an end token, and control tokens."""
    made = families.tokenizer()
    made.add_special_tokens({"additional_special_tokens": [*special]})
    made.add_tokens([*added])
    made.chat_template = template
    return made


def bigrams(table: Table, own: Any = None, otherwise: str = "?") -> MultimodalLM:
    """A model of a table; after what it does not name comes `otherwise`."""
    own = own or tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=272, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=512, bos_token_id=None, eos_token_id=own.eos_token_id,
    )  # fmt: skip
    language_model = Bigrams(config).eval()

    def id_of(token: str) -> int:
        (found,) = [own.eos_token_id] if token == END else own(token, add_special_tokens=False)["input_ids"]
        return found

    logits = torch.full((272, 272), FAR)
    logits[:, id_of(otherwise)] = 0
    for last, following in table.items():
        row = {following: 1.0} if isinstance(following, str) else following
        logits[id_of(last)] = FAR
        for token, probability in row.items():
            logits[id_of(last), id_of(token)] = math.log(probability)
    language_model.table = logits
    return MultimodalLM(LanguageModel(language_model, own), parts.image_encoder(), parts.RESAMPLER, parts.fusion())
