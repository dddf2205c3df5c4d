"""A small Llama-type language model from nothing but texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recipes.pretrain.loop import Schedule, Shuffle, run


@dataclass(frozen=True)
class LanguageModelTrainConfig:
    """Size and schedule of the language model; the defaults suit a few thousand words on a CPU."""

    hidden_size: int = 256
    num_layers: int = 4
    num_heads: int = 4
    intermediate_size: int = 688
    max_positions: int = 2048
    sequence_length: int = 128
    batch_size: int = 16
    steps: int = 900
    learning_rate: float = 2e-3
    seed: int = 0
    device: str = "cpu"


Text = str | tuple[str, str]
"""A text, or one whose first part is given (a question) and only the second learned (its answer)."""


def train_language_model(
    config: LanguageModelTrainConfig,
    documents: Sequence[Sequence[Text]],
    tokenizer_folder: str | Path,
    output: str | Path,
    start: str | Path | None = None,
):
    """Train on documents, lists of texts of which each ends with the end of text; save to the folder `output`.

    Documents are shuffled and packed end to end into rows of `sequence_length` tokens. `start`: a folder with weights
    to go on from; random ones without it. Resumes from `output/checkpoint.pt`. Returns the model;
    `AutoModelForCausalLM.from_pretrained(output)` and `AutoTokenizer.from_pretrained(output)` read it back.
    """
    from transformers import AutoTokenizer, LlamaForCausalLM

    output = Path(output)
    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_folder))
    rows, learned = pack(tokenizer, documents, config.sequence_length, config.seed)
    torch.manual_seed(config.seed)
    model = new_model(config, tokenizer) if start is None else LlamaForCausalLM.from_pretrained(str(start))
    model = model.to(config.device)
    order = Shuffle(len(rows), config.batch_size, config.seed)

    def loss_at(step: int) -> Tensor:
        chosen = order.batch(step)
        ids = rows[chosen].long()
        labels = ids.masked_fill(~learned[chosen], -100)
        return model(input_ids=ids.to(config.device), labels=labels.to(config.device)).loss

    run(model, loss_at, Schedule(config.steps, config.learning_rate), output, "language model")
    model.save_pretrained(str(output))
    tokenizer.save_pretrained(str(output))
    return model


def new_model(config: LanguageModelTrainConfig, tokenizer):
    """A Llama of random weights (torch's global generator) for this tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_positions,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=None,  # the end of text also pads; a pad id of its own would blank its embedding
        )
    )


def pack(tokenizer, documents: Sequence[Sequence[Text]], length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Documents in random order, each text with its end of text, cut into rows of ids [N, length] (int16 or int32).

    Beside them bool [N, length]: which ids are to be learned, the end of text included.
    """
    order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(seed)).tolist()
    dtype = torch.int16 if len(tokenizer) < 2**15 else torch.int32
    ids, learned = [], []
    for start in range(0, len(order), 10_000):
        texts = [text for i in order[start : start + 10_000] for text in documents[i]]
        pairs = [("", text) if isinstance(text, str) else text for text in texts]
        halves = (list(half) for half in zip(*pairs, strict=True))
        given, said = (tokenizer(half, add_special_tokens=False)["input_ids"] for half in halves)
        for before, after in zip(given, said, strict=True):
            ids += (*before, *after, tokenizer.eos_token_id)
            learned += [False] * len(before) + [True] * (len(after) + 1)
    if len(ids) < length:
        raise ValueError(f"the texts hold {len(ids)} tokens, fewer than one row of {length}")
    whole = len(ids) // length * length
    return torch.tensor(ids[:whole], dtype=dtype).view(-1, length), torch.tensor(learned[:whole]).view(-1, length)
