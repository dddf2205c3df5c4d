"""A byte-level BPE tokenizer, trained on texts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int, output: str | Path) -> PreTrainedTokenizerFast:
    """Train byte-level BPE on `texts` and save it to the folder `output`; returns it as a transformers fast tokenizer.

    Every byte has its own token, so any text can be written whatever the training texts were. `<|endoftext|>` ends a
    text, pads and begins; it is the last of the `vocab_size` ids.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size <= len(alphabet):
        raise ValueError(f"vocab_size must exceed the {len(alphabet)} bytes and the end of text, not {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - 1, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    found = tokenizer.get_vocab_size()
    if found < vocab_size - 1:
        raise ValueError(f"the texts give only {found} tokens; ask for a vocab_size of at most {found + 1}")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(str(output))
    return fast


def add_end_of_text(tokenizer: PreTrainedTokenizerFast) -> None:
    """Make the tokenizer close every text with `<|endoftext|>`, where a contrastive text tower reads its summary."""
    from tokenizers import processors

    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, tokenizer.eos_token_id)]
    )
