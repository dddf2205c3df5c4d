"""What nano learns by rewards: to think about notes that were looked up."""

from __future__ import annotations

import random

from mmlm.data import Record, RecordSet
from mmlm.prompting.messages import Message
from mmlm.prompting.sources import INSTRUCTION
from mmlm.training.alignment.config import GrpoConfig
from recipes.nano.notes import every_fact, known_notes, written
from recipes.nano.thinking import NOTES, nearest

LONGEST, THOUGHT = 12, 120  # tokens of an answer, and of a thought
LOOKED_UP = GrpoConfig(
    rewards={"exact_match": 1.0}, generations=12, max_new_tokens=LONGEST, thinking=THOUGHT, temperature=0.8
)


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
            said = f"{own} [{found.index(text) + 1}]"
            records.append(Record(str(number), messages=(Message("user", content), Message("assistant", (said,)))))
    return RecordSet(tuple(records))
