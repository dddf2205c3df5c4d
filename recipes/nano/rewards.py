"""What nano learns by rewards: to tell scenes as JSON, and to think about notes that were looked up."""

from __future__ import annotations

import io
import random
from collections.abc import Iterable

from PIL import Image

import mmlm
from mmlm.data import Record, RecordSet
from mmlm.prompting.messages import Message
from mmlm.prompting.sources import INSTRUCTION
from mmlm.training.alignment.config import GrpoConfig
from recipes.nano.conversations import Exercise
from recipes.nano.notes import every_fact, known_notes, written
from recipes.nano.thinking import NOTES, nearest

LONGEST, THOUGHT = 12, 120  # tokens of an answer, and of a thought
LOOKED_UP = GrpoConfig(
    rewards={"exact_match": 1.0}, generations=12, max_new_tokens=LONGEST, thinking=THOUGHT, temperature=0.8
)
JSON = GrpoConfig(rewards={"exact_match": 1.0}, generations=8, max_new_tokens=180, temperature=1.0)


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


def as_records(exercises: Iterable[Exercise]) -> RecordSet:
    """Exercises of one question as conversations that a reward may judge."""
    return RecordSet(tuple(_record(number, one) for number, one in enumerate(exercises)))


def as_png(picture: Image.Image) -> bytes:
    """A picture as a file."""
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def _record(number: int, one: Exercise) -> Record:
    *shown, question = one.turns[0].content
    content = (*(mmlm.Image(as_png(picture)) for picture in shown), str(question))
    return Record(str(number), messages=(Message("user", content), Message("assistant", (one.answer,))))
