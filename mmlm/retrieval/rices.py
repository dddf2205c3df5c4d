"""RICES: retrieval of few-shot demonstrations by CLIP similarity (Yang et al. 2022, arXiv 2109.05014)."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from decoders.values import check_kind
from encoders.clip import ClipImageEncoder
from mmlm.data import Record, RecordSource, read_records
from mmlm.prompting.parts import Part
from mmlm.prompting.templates import PromptTemplate, demonstrations


class Rices:
    """Pictures with captions or questions. Those most similar to a given picture become its demonstrations.

    source: what `mmlm.data.read_records` takes: a folder with metadata.jsonl, a manifest, tars, or records.
    cache: a folder that keeps the embeddings between runs, in one file per encoder fingerprint. They are looked up by
        the content of each picture's file: new pictures are embedded, moved or renamed ones are not embedded again.
    batch_size: pictures that are embedded at once.
    """

    def __init__(
        self,
        encoder: ClipImageEncoder,
        source: RecordSource,
        *,
        cache: str | Path | None = None,
        batch_size: int = 64,
    ) -> None:
        self.encoder = encoder
        self.records = read_records(source)
        self.embeddings = _embed_records(encoder, self.records, cache, batch_size)  # [N, E], unit norm

    def nearest(self, image: Any, k: int) -> list[Record]:
        """The `k` records (or all, if there are fewer) whose pictures are most similar to `image`, the nearest last.

        Records of equal similarity keep their order, so that the result does not depend on the machine.
        """
        check_kind("k", k, int)
        if k < 0:
            raise ValueError(f"k is the number of demonstrations, 0 or more, not {k}")
        query = self.encoder.embed_images(self.encoder.preprocess(image)[None]).cpu()
        order = (self.embeddings @ query[0]).sort(descending=True, stable=True).indices[:k]
        return [self.records[index] for index in reversed(order.tolist())]

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


def _embed_records(
    encoder: ClipImageEncoder, records: Sequence[Record], cache: str | Path | None, batch_size: int
) -> Tensor:
    """Unit-norm embeddings `[N, E]` of the records' pictures, on the CPU."""
    path = None if cache is None else Path(cache) / f"rices-{encoder.fingerprint()}.safetensors"
    known = {} if path is None else _read_cache(path)
    digests = [hashlib.sha256(record.image).hexdigest()[:32] for record in records]
    missing = {digest: index for index, digest in enumerate(digests) if digest not in known}
    for chunk in _chunks(list(missing.items()), batch_size):
        pictures = torch.stack([encoder.preprocess(records[index].decode()) for _, index in chunk])
        embeddings = encoder.embed_images(pictures).cpu()
        known |= {digest: embedding for (digest, _), embedding in zip(chunk, embeddings, strict=True)}
    if path is not None and missing:
        _write_cache(path, known)
    return torch.stack([known[digest] for digest in digests])


def _chunks(items: list, size: int) -> Iterator[list]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _read_cache(path: Path) -> dict[str, Tensor]:
    """Embeddings by content digest. A file that is missing or unreadable counts as an empty cache."""
    try:
        stored = load_file(path)
        digests = [bytes(row).hex() for row in stored["digests"].numpy()]
        return dict(zip(digests, stored["embeddings"], strict=True))
    except (FileNotFoundError, SafetensorError, KeyError, ValueError):
        return {}


def _write_cache(path: Path, known: dict[str, Tensor]) -> None:
    digests = torch.tensor([list(bytes.fromhex(digest)) for digest in known], dtype=torch.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A unique name, so that two runs that fill the same cache at once do not write to the same file.
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    os.close(handle)
    save_file({"digests": digests, "embeddings": torch.stack(list(known.values()))}, unfinished)
    os.replace(unfinished, path)
