"""RICES: retrieval of few-shot demonstrations by CLIP similarity (Yang et al. 2022, arXiv 2109.05014)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decoders.values import check_kind
from encoders.clip import ClipImageEncoder
from mmlm.data import Record, RecordSource, read_records
from mmlm.data.cache import TensorCache
from mmlm.prompting.parts import Part
from mmlm.prompting.templates import PromptTemplate, demonstrations
from mmlm.retrieval.vectors import Vectors


class Rices:
    """Pictures with captions or questions. Those most similar to a given picture become its demonstrations.

    source: what `mmlm.data.read_records` takes: a folder with metadata.jsonl, a manifest, tars, or records.
    cache: a folder that keeps the embeddings between runs, in a folder per encoder fingerprint. They are looked up by
        the content of each picture's file: new pictures are embedded, moved or renamed ones are not embedded again.
    ValueError, with the record's key, for a picture that cannot be used.
    """

    def __init__(
        self,
        encoder: ClipImageEncoder,
        source: RecordSource,
        *,
        cache: str | Path | None = None,
    ) -> None:
        self.encoder = encoder
        self.records = read_records(source)
        self.embeddings = _embed_records(encoder, self.records, cache)  # [N, E], unit norm
        self._vectors = Vectors(self.embeddings.shape[1])
        self._vectors.add(range(len(self.records)), self.embeddings.numpy())

    def nearest(self, image: Any, k: int) -> list[Record]:
        """The `k` records (or all, if there are fewer) whose pictures are most similar to `image`, the nearest last.

        Records of equal similarity keep their order, so that the result does not depend on the machine.
        """
        check_kind("k", k, int)
        if k < 0:
            raise ValueError(f"k is the number of demonstrations, 0 or more, not {k}")
        (query,) = self.encoder.embed_images(self.encoder.preprocess(image)[None]).cpu().numpy()
        near, _ = self._vectors.nearest(query, k)
        return [self.records[index] for index in reversed(near)]

    def caption_prompt(self, image: Any, k: int = 4, template: PromptTemplate | None = None) -> list[Part]:
        """A prompt for `model.generate`: `k` pictures with captions, the most similar last, then `image`.

        template: by default `PromptTemplate()`; give `model.template` where the model has its own.
        ValueError where a retrieved record has no caption.
        """
        check_kind("template", template, PromptTemplate | None)
        template = template or PromptTemplate()
        pairs = []
        for record in self.nearest(image, k):
            if not record.captions:
                raise ValueError(f"record {record.key!r} has no caption to demonstrate")
            pairs.append((template.caption_prompt(record.image), record.captions[0]))
        return [*demonstrations(pairs), *template.caption_prompt(image)]

    def question_prompt(
        self, image: Any, question: str, k: int = 4, template: PromptTemplate | None = None
    ) -> list[Part]:
        """A prompt for `model.generate`: `k` answered questions, the most similar picture last, then `question`.

        ValueError where a retrieved record has no question.
        """
        check_kind("template", template, PromptTemplate | None)
        template = template or PromptTemplate()
        pairs = []
        for record in self.nearest(image, k):
            if not record.qa:
                raise ValueError(f"record {record.key!r} has no question and answer to demonstrate")
            asked, answer = record.qa[0]
            pairs.append((template.question_prompt(record.image, asked), answer))
        return [*demonstrations(pairs), *template.question_prompt(image, question)]


def _embed_records(encoder: ClipImageEncoder, records: Sequence[Record], cache: str | Path | None) -> Tensor:
    """Unit-norm embeddings `[N, E]` of the records' pictures, on the CPU. Each is read once, and embedded alone."""
    kept = None if cache is None else TensorCache(Path(cache) / f"rices-{encoder.fingerprint()}")
    known: dict[str, Tensor] = {}
    keys = []
    for record in records:
        data = record.image
        key = hashlib.sha256(data).hexdigest()
        keys.append(key)
        if key in known:
            continue
        if kept is not None and key in kept:
            known[key] = kept[key]
            continue
        known[key] = _embedded(encoder, record.key, data)
        if kept is not None:
            kept.add(key, known[key])
    if kept is not None:
        kept.flush()
    return torch.stack([known[key] for key in keys])


def _embedded(encoder: ClipImageEncoder, name: str, data: bytes) -> Tensor:
    """ValueError, with the record's name, for a picture that cannot be used."""
    try:
        embedding = encoder.embed_images(encoder.preprocess(data)[None])[0].cpu()
    except (OSError, ValueError) as error:
        raise ValueError(f"the picture of record {name!r} cannot be used: {error}") from error
    if not embedding.isfinite().all():
        raise ValueError(f"the picture of record {name!r} is embedded to values that are NaN or infinite")
    return embedding
