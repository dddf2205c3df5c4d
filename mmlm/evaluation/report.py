"""`mmlm eval`: the figures of a model on a set of records, each beside that of a control."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

from mmlm.data import RecordSource, read_records
from mmlm.evaluation.medium import MediumReport, measure
from mmlm.evaluation.metrics.upstream import check_scorers
from mmlm.evaluation.trials import MEDIUM, Trials, check_enough, encoded, media_of, modalities_of
from mmlm.generation.options import GenerationKeywords, takes_options

if TYPE_CHECKING:
    from mmlm.assembly.multimodal_lm import MultimodalLM

NOT_SCRIPTS = "pictures and recordings with captions, questions or transcripts of their own are compared"
BAD_LIMIT = 0.01  # the share of bad records that is left out without an error, as `read_records` has it


@dataclass(frozen=True)
class Report:
    """What `evaluate` measured: of pictures, of recordings, or of both. `print` shows it as a table for each."""

    image: MediumReport | None = None  # None where the data has no texts about pictures
    audio: MediumReport | None = None  # None where the data has no texts about recordings
    bad_records: int = 0  # left out because they could not be read
    scripts: int = 0  # conversations and documents, which are left out

    def to_dict(self) -> dict[str, Any]:
        """Numbers and texts alone, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        found = [str(own) for own in (self.image, self.audio) if own is not None]
        if self.bad_records:
            found.append(f"{self.bad_records} more records could not be read and were left out.")
        if self.scripts:
            found.append(f"{self.scripts} conversations and documents were left out: {NOT_SCRIPTS}.")
        return "\n\n".join(found)


@takes_options
def evaluate(
    model: MultimodalLM | str | Path | Callable[[], MultimodalLM],
    data: RecordSource,
    *,
    limit: int | None = None,
    batch_size: int = 32,
    **generation: Unpack[GenerationKeywords],
) -> Report:
    """Measure `model` on `data`, each figure beside that of the same model with wrong pictures or recordings.

    model: a model, what `mmlm.load` takes, or a function that loads one: after everything else has been checked.
    data: records, or what `mmlm.data.read_records` takes. Media that cannot be decoded are bad records, too. Where a
        record has both media, each is exchanged in its turn.
    limit: use only the first `limit` records, at least 2.
    generation: options of the captions, transcripts and answers, by the names of `GenerationOptions`. `seed` also draws
        the wrong media and the interval; it is 0 by default.
    Captions are scored only where two or more media have captions, because CIDEr needs them.
    ValueError where the data have media that the model has no encoder for, or fewer than two of a kind.
    """
    if limit is not None and limit < 2:
        raise ValueError(f"limit must leave at least two records to compare, not {limit}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    if generation.get("num_return_sequences", 1) != 1:
        raise ValueError("num_return_sequences must be 1: one text per medium is scored")
    seed = generation.get("seed") or 0
    generation["seed"] = seed
    everything = read_records(data)
    chosen = everything[:limit]
    modalities = modalities_of(chosen)
    if not modalities:
        raise ValueError(f"the data hold nothing to compare: {NOT_SCRIPTS}")
    for modality in modalities:
        check_enough(chosen, modality)
    if sum(bool(record.captions) for record in chosen) > 1:
        check_scorers()  # fails now if pycocoevalcap is missing, not after the work
    model = _loaded(model, media_of(chosen))
    for name in media_of(chosen):
        if name not in model.encoders:
            raise ValueError(
                f"the data hold {MEDIUM[name]}s, but the model has no {name} encoder: assemble it with one"
            )
    features, bad = encoded(model, chosen, batch_size)
    left_out = everything.without(bad).check(BAD_LIMIT).bad
    kept = [number for number in range(len(chosen)) if number not in bad]
    records = [chosen[number] for number in kept]
    features = {name: [own[number] for number in kept] for name, own in features.items()}
    reports = {
        name: measure(Trials(model, records, features, name, batch_size, seed), dict(generation)) for name in modalities
    }
    return Report(**reports, bad_records=len(left_out), scripts=sum(bool(record.script) for record in chosen))


def _loaded(model: MultimodalLM | str | Path | Callable[[], MultimodalLM], encoders: list[str]) -> MultimodalLM:
    if isinstance(model, (str, Path)):
        from mmlm.assembly.load import load

        return load(model, encoders=encoders)
    return cast("MultimodalLM", model() if inspect.isfunction(model) else model)
