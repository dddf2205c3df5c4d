"""A small Llama-type language model from nothing but texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from decoders.files import apply_umask
from encoders.guarded import from_pretrained
from mmlm.training import LossObjective, Trainer, TrainerConfig
from mmlm.training.identity import digest
from mmlm.training.shuffle import Shuffle

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


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
    optimizer: str = "adamw"  # or "muon": fewer steps, each a quarter longer
    seed: int = 0
    device: str = "cpu"


def train_language_model(
    config: LanguageModelTrainConfig,
    documents: Sequence[Sequence[str]],
    tokenizer_folder: str | Path,
    output: str | Path,
    start: str | Path | None = None,
) -> LlamaForCausalLM:
    """Train on documents, lists of texts of which each ends with the end of text; save to the folder `output`.

    start: a language model to go on from, in place of a new one of the config's size.
    Documents are shuffled and packed end to end into rows of `sequence_length` tokens. Resumes from
    `output/checkpoints`. Returns the model; `AutoModelForCausalLM.from_pretrained(output)` and
    `AutoTokenizer.from_pretrained(output)` read it back.
    """
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    output = Path(output)
    tokenizer = from_pretrained(AutoTokenizer, tokenizer_folder, "take one that is files alone")
    rows = pack(tokenizer, documents, config.sequence_length, config.seed)
    torch.manual_seed(config.seed)
    if start is not None:
        model = from_pretrained(LlamaForCausalLM, start, "take one that is files alone", dtype=torch.float32)
    else:
        model = LlamaForCausalLM(
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
    model = model.to(config.device)
    order = Shuffle(len(rows), config.batch_size, config.seed)

    def loss_at(step: int) -> Tensor:
        batch = rows[order.batch(step)].to(config.device).long()
        return model(input_ids=batch, labels=batch).loss

    def save(folder: Path) -> Path:
        model.eval().save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))
        apply_umask(folder)
        return folder

    settings = TrainerConfig(
        steps=config.steps, learning_rate=config.learning_rate, optimizer=config.optimizer, seed=config.seed
    )
    identity = {"config": asdict(config), "data": digest(rows)}
    Trainer(LossObjective("language model", model, loss_at, save, identity), settings, output).fit()
    return model


def pack(tokenizer: PreTrainedTokenizerFast, documents: Sequence[Sequence[str]], length: int, seed: int) -> Tensor:
    """Documents in random order, each text with its end of text, cut into rows [N, length] of ids (int16 or int32)."""
    order = torch.randperm(len(documents), generator=torch.Generator().manual_seed(seed)).tolist()
    dtype = torch.int16 if len(tokenizer) < 2**15 else torch.int32
    pieces = []
    for start in range(0, len(order), 10_000):
        texts = [text for i in order[start : start + 10_000] for text in documents[i]]
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
        pieces.append(torch.tensor([token for ids in encoded for token in (*ids, tokenizer.eos_token_id)], dtype=dtype))
    stream = torch.cat(pieces)
    if len(stream) < length:
        raise ValueError(f"the texts hold {len(stream)} tokens, fewer than one row of {length}")
    return stream[: len(stream) // length * length].view(-1, length)
