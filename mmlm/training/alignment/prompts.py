"""The prompts that a policy answers: of texts about media, or of pictures and sounds that are written for a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data.judged import check_prompts
from mmlm.data.readers import read_records
from mmlm.data.records import Record, Text
from mmlm.training.alignment.config import AlignConfig, RolloutConfig
from mmlm.training.alignment.rollouts import Prompt, media_prompt, text_prompt
from mmlm.training.config import TrainConfig
from mmlm.training.examples import Examples, prepare, usable_records
from mmlm.training.identity import digest
from mmlm.training.pairs import texts_of


@dataclass(frozen=True)
class Prompts(Sequence[Prompt]):
    """A prompt for each text of each record; `digest` of texts and media, for the identity of a run.

    thinking: the most tokens of a thought that is asked for before each text, or 0.
    """

    model: MultimodalLM
    examples: Examples | None
    entries: tuple[tuple[int, int], ...] | tuple[tuple[Record, Text], ...]
    writes: str
    digest: str
    thinking: int = 0

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index):  # noqa: ANN001, ANN204 - as Sequence has it
        record, text = self.entries[index]
        if self.examples is not None:
            assert isinstance(record, int) and isinstance(text, int), "of examples, numbers"
            return text_prompt(self.model, self.examples, record, text, self.thinking)
        assert isinstance(record, Record) and isinstance(text, Text), "of media, records"
        return media_prompt(self.model, self.writes, record, text)


def read_prompts(
    model: MultimodalLM,
    data: Any,
    output: Path,
    config: AlignConfig,
    objective: RolloutConfig,
    progress: bool,
    images: Any = None,
) -> Prompts:
    """The prompts of records; for texts their media are encoded once. ValueError where there is none."""
    writes = objective.writes
    settings = TrainConfig(bad_limit=config.bad_limit)
    if writes != "text":
        records = read_records(data, images=images, bad_limit=config.bad_limit)
        found = tuple((own, Text("caption", text)) for own in records for text in texts_of(own, writes))
        if not found:
            raise ValueError("the data hold nothing to draw or to say: no captions of pictures, or transcripts")
        return Prompts(model, None, found, writes, digest([text.answer for _, text in found]))
    cache = Path(config.cache or output) / "features"
    usable = usable_records(model, data, settings, images, judged=True)
    check_prompts(usable)
    examples = prepare(model, usable, cache=cache, config=settings, progress=progress)
    entries = tuple((i, number) for i, record in enumerate(examples.records) for number in range(len(record.texts)))
    return Prompts(model, examples, entries, writes, examples.fingerprint(), objective.thinking)
