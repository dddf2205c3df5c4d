"""Texts with the codes of what is to be drawn or said for them; codes are computed once and kept on disk."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from decoders.codecs.base import MediaCodec
from decoders.codecs.checkpoint import codec_fingerprint
from encoders.media.sound import load_audio
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data.readers import read_records
from mmlm.data.records import FileSlice, Record, RecordSet
from mmlm.generation.media import picture_tensor
from mmlm.training.features import film_of
from mmlm.training.identity import digest, media_digest
from mmlm.training.reporting import Counter

log = logging.getLogger(__name__)

ENCODED_AT_ONCE = 64
BAD_LIMIT = 0.01  # share of media that may be unusable
ABOUT = "about"


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


def read_pairs(model: MultimodalLM, data: Any, cache: Path, max_seconds: float, progress: bool = True) -> Pairs:
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
        own = [record for record in records if _texts(record, modality)]
        if not own:
            continue
        media = media_digest([_place(record, modality) for record in own])
        path = cache / f"{modality}-{codec_fingerprint(codec)}-{media}-{max_seconds:g}.safetensors"
        kept = _read(path)
        if kept is None:
            _encode(own, cast(MediaCodec, codec), path, max_seconds, progress)
            kept = _read(path)
            assert kept is not None, "it reads back as it was written"
        codes, bad = kept
        RecordSet(tuple(own)).without(bad).check(BAD_LIMIT)
        if bad:
            place, reason = next(iter(bad.items()))
            key = own[place].key
            log.warning("%d of %d media cannot be used and are left out; %s: %s", len(bad), len(own), key, reason)
        if skipped := sum(not row.shape[-1] for row in codes) - len(bad):
            log.warning("%d of %d recordings are longer than %g s and are left out", skipped, len(own), max_seconds)
        for record, row in zip(own, codes, strict=True):
            if row.shape[-1]:
                whole = row.unflatten(1, codec.grid) if codec.grid else row
                found.append(Pair(modality, whole, _texts(record, modality)))
        digests.append(digest(media, [_texts(record, modality) for record in own]))
    if not found:
        raise ValueError("the data hold nothing to draw or to say: pictures with captions, recordings with transcripts")
    return Pairs(tuple(found), digest(digests))


def _texts(record: Record, modality: str) -> tuple[str, ...]:
    if modality == "image":
        return record.captions if record.source is not None and record.sound is None else ()
    return (record.transcript,) if record.sound is not None and record.transcript else ()


def _place(record: Record, modality: str) -> FileSlice | bytes:
    place = record.source if modality == "image" else record.sound
    assert place is not None, "records without such a medium have no texts for it"
    return place


def _read(path: Path) -> tuple[list[Tensor], dict[int, str]] | None:
    """The codes of all records, and why media cannot be used; None where there are none, or their file is damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as kept:
            about, codes = json.loads(kept.metadata()[ABOUT]), kept.get_tensor("codes")
        if about["checksum"] != digest(codes):
            return None
        return list(codes.long().split(about["lengths"], dim=-1)), {int(k): v for k, v in about["bad"].items()}
    except (SafetensorError, TypeError, ValueError, KeyError):
        return None  # they are made again


@torch.no_grad()
def _encode(records: Sequence[Record], codec: MediaCodec, path: Path, max_seconds: float, progress: bool) -> None:
    """Writes the codes of all records, side by side, [K, n] int32, and the length of each.

    It is 0 where a recording is too long, or a medium cannot be used. A medium that comes several times, to be seen as
    often in each pass, is encoded once.
    """
    places = [_place(record, codec.modality) for record in records]
    first = {place: record for place, record in zip(reversed(places), reversed(records), strict=True)}
    device = next((tensor.device for tensor in codec.state_dict().values()), torch.device("cpu"))
    once, rows, reasons = list(first.items()), {}, {}
    with Counter(len(once), f"codes of {codec.modality}s", progress) as counter:
        for start in range(0, len(once), ENCODED_AT_ONCE):
            chunk, pictures = once[start : start + ENCODED_AT_ONCE], {}
            for place, record in chunk:
                try:
                    if codec.size is not None:
                        pictures[place] = picture_tensor(record.image, codec.size)
                    else:
                        rows[place] = _sound_codes(record, codec, max_seconds, device)
                except (OSError, ValueError) as error:
                    rows[place], reasons[place] = torch.empty(codec.num_codebooks, 0, dtype=torch.long), str(error)
            if pictures:
                batch = torch.cat(list(pictures.values()))
                encoded = codec.encode(batch.to(device)).codes.flatten(2).cpu()
                rows |= zip(pictures, encoded, strict=True)
            counter.update(len(chunk))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    codes = torch.cat([rows[place] for place in places], dim=1).int()
    bad = {index: reasons[place] for index, place in enumerate(places) if place in reasons}
    lengths = [rows[place].shape[1] for place in places]
    about = {"lengths": lengths, "bad": bad, "checksum": digest(codes)}
    save_file({"codes": codes}, partial, metadata={ABOUT: json.dumps(about)})
    os.replace(partial, path)


def _sound_codes(record: Record, codec: MediaCodec, max_seconds: float, device: torch.device) -> Tensor:
    """Codes [K, T] of a recording; none where it is longer than `max_seconds`."""
    assert codec.sample_rate is not None, "it is a codec of sound"
    sound = torch.from_numpy(load_audio(record.audio, sample_rate=codec.sample_rate).waveform)
    if len(sound) > max_seconds * codec.sample_rate:
        return torch.empty(codec.num_codebooks, 0, dtype=torch.long)
    return codec.encode(sound.clamp(-1, 1)[None, None].to(device)).codes[0].cpu()
