"""Texts with the codes of what is to be drawn or said for them; codes are computed once and kept on disk."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from decoders.codecs.base import MediaCodec
from decoders.codecs.checkpoint import codec_fingerprint
from encoders.media.sound import load_audio
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data.cache import TensorCache
from mmlm.data.readers import read_records
from mmlm.data.records import Record, RecordSet
from mmlm.generation.media import picture_tensor
from mmlm.training.features import film_of
from mmlm.training.identity import digest
from mmlm.training.ranks import is_first, merged, own, world
from mmlm.training.reporting import Counter

log = logging.getLogger(__name__)

BAD_LIMIT = 0.01  # share of media that may be unusable


@dataclass(frozen=True)
class Pair:
    """Codes of a picture [K, h, w] or a recording [K, T], and the texts that it may be drawn or said for."""

    modality: str
    codes: Tensor
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Pairs(Sequence[Pair]):
    """Pairs in their order, and the digest of their texts and of the bytes of their media."""

    pairs: tuple[Pair, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index):  # noqa: ANN001, ANN204 - as Sequence has it
        return self.pairs[index]


def read_pairs(
    model: MultimodalLM,
    data: Any,
    cache: Path,
    max_seconds: float,
    progress: bool = True,
    bad_limit: float = BAD_LIMIT,
) -> Pairs:
    """Pairs of records, pictures first; their codes are computed once and kept in the folder `cache`.

    data: anything `mmlm.data.read_records` takes. Recordings longer than `max_seconds` are left out, with a warning.
    ValueError where no record has a text and a medium that the model has a codec for.
    """
    records = read_records(data)
    if (film := next((record for record in records if film_of(record) is not None), None)) is not None:
        raise ValueError(f"{film.key} is a film, and drawing is learned from pictures: leave films out")
    found: list[Pair] = []
    digests: list[str] = []
    for modality, codec in model.codecs.items():
        drawn = [record for record in records if texts_of(record, modality)]
        if not drawn:
            continue
        codes, bad, keys = codes_of(drawn, cast(MediaCodec, codec), cache, max_seconds, progress)
        RecordSet(tuple(drawn)).without(bad).check(bad_limit)
        if bad:
            place, reason = next(iter(bad.items()))
            key = drawn[place].key
            log.warning("%d of %d media cannot be used and are left out; %s: %s", len(bad), len(drawn), key, reason)
        if skipped := sum(not row.shape[-1] for row in codes) - len(bad):
            log.warning("%d of %d recordings are longer than %g s and are left out", skipped, len(drawn), max_seconds)
        for record, row in zip(drawn, codes, strict=True):
            if row.shape[-1]:
                whole = row.unflatten(1, codec.grid) if codec.grid else row
                found.append(Pair(modality, whole, texts_of(record, modality)))
        digests.append(digest(keys, [texts_of(record, modality) for record in drawn]))
    if not found:
        raise ValueError("the data hold nothing to draw or to say: pictures with captions, recordings with transcripts")
    return Pairs(tuple(found), digest(digests))


def texts_of(record: Record, modality: str) -> tuple[str, ...]:
    """The texts for which a medium of this modality is drawn or said."""
    if modality == "image":
        return record.captions if record.source is not None and record.sound is None else ()
    return (record.transcript,) if record.sound is not None and record.transcript else ()


@torch.no_grad()
def codes_of(
    records: Sequence[Record], codec: MediaCodec, folder: Path, max_seconds: float, progress: bool
) -> tuple[list[Tensor], dict[int, str], list[str]]:
    """The codes [K, n] of the records' media, why media cannot be used, by index, and the hashes of their bytes.

    n is 0 where a recording is too long, or a medium cannot be used. Each medium is read once, so that what is encoded
    is what was hashed, and encoded alone, so that its codes depend on nothing else.
    """
    kept = TensorCache(folder / f"{codec.modality}-{codec_fingerprint(codec)}-{max_seconds:g}")
    device = next((tensor.device for tensor in codec.state_dict().values()), torch.device("cpu"))
    none = torch.empty(codec.num_codebooks, 0, dtype=torch.int32)
    bad: dict[int, str] = {}
    keys: dict[int, str] = {}
    mine = own(range(len(records)))  # processes that train together share the work and the cache
    with Counter(len(mine), f"codes of {codec.modality}s", progress and is_first()) as counter:
        for index in mine:
            counter.update()
            record, keys[index] = records[index], ""
            try:
                data = record.image if codec.modality == "image" else record.audio
                keys[index] = key = hashlib.sha256(data).hexdigest()
                made = None if key in kept else _encode(data, codec, max_seconds, device)
            except (OSError, ValueError) as error:
                bad[index] = str(error)
                continue
            if made is not None:
                kept.add(key, made.int())
    kept.flush()
    bad, keys = merged(bad), merged(keys)
    kept = kept if world() == 1 else TensorCache(kept.folder)
    return [none.long() if index in bad else kept[key].long() for index, key in keys.items()], bad, [*keys.values()]


def _encode(data: bytes, codec: MediaCodec, max_seconds: float, device: torch.device) -> Tensor:
    """Codes [K, n] of a picture or a recording; none of one that is longer than `max_seconds`."""
    if codec.size is not None:
        return codec.encode(picture_tensor(data, codec.size).to(device)).codes[0].flatten(1)
    assert codec.sample_rate is not None, "it is a codec of sound"
    sound = torch.from_numpy(load_audio(data, sample_rate=codec.sample_rate).waveform)
    if len(sound) > max_seconds * codec.sample_rate:
        return torch.empty(codec.num_codebooks, 0, dtype=torch.long)
    return codec.encode(sound.clamp(-1, 1)[None, None].to(device)).codes[0]
