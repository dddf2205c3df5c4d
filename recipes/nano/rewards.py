"""What nano learns by rewards: to think about notes, those that were looked up and those that it is shown."""

from __future__ import annotations

import random
from typing import Any

from PIL import Image

import mmlm
from mmlm.data import Record, RecordSet
from mmlm.model.config import LoraConfig
from mmlm.prompting.messages import Message
from mmlm.prompting.sources import INSTRUCTION
from mmlm.training.alignment.config import GrpoConfig
from recipes.nano.data import as_png
from recipes.nano.exercises import exercise
from recipes.nano.notes import every_fact, known_notes, written
from recipes.nano.thinking import NOTES, nearest

LONGEST, THOUGHT = 12, 120  # tokens of an answer, and of a thought
NOTES_READ = GrpoConfig(
    rewards={"exact_match": 1.0}, generations=12, max_new_tokens=LONGEST, thinking=THOUGHT, temperature=0.8
)
LORA = LoraConfig(rank=16, alpha=32, reads=True)


def looked_up(count: int, seed: int) -> RecordSet:
    """Questions about one of 1,000 notes, each with the notes that were found for it, as a conversation."""
    rng = random.Random(f"{seed} looked up")
    known = known_notes(rng.sample(every_fact(), NOTES), rng)
    texts, records = [text for text, *_ in known], []
    for number, (text, fact, kind, own) in enumerate(rng.choices(known, k=count)):
        question = fact.asked.format(thing=f"{kind.size} {kind.colour} {kind.shape}")
        found = nearest(texts, question)
        if text in found:
            content = (f"{written(found)}\n{INSTRUCTION}\n\n", question)
            records.append(_asked(str(number), content, f"{own} [{found.index(text) + 1}]"))
    return RecordSet(tuple(records))


def shown(count: int, seed: int) -> RecordSet:
    """Exercises about notes, half of them with a picture, as conversations."""
    made = ((index, exercise("train", index, seed, "notes")) for index in range(count))
    return RecordSet(tuple(_asked(f"shown {index}", one.turns[0].content, one.answer) for index, one in made))


def mixed(count: int, seed: int) -> RecordSet:
    """Both in turn."""
    both = zip(looked_up(count, seed), shown(count, seed + 6), strict=False)
    return RecordSet(tuple(record for pair in both for record in pair)[:count])


def _asked(key: str, content: tuple[Any, ...], answer: str) -> Record:
    parts = tuple(mmlm.Image(as_png(part)) if isinstance(part, Image.Image) else part for part in content)
    return Record(key, messages=(Message("user", parts), Message("assistant", (answer,))))
