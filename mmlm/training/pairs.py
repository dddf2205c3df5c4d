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
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from decoders.codecs.base import MediaCodec
from decoders.codecs.checkpoint import codec_fingerprint
from encoders.media.sound import load_audio
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data.readers import read_records
from mmlm.data.records import FileSlice, Record
from mmlm.generation.media import picture_tensor
from mmlm.training.identity import digest, media_digest

log = logging.getLogger(__name__)

ENCODED_AT_ONCE = 64


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
    found: list[Pair] = []
    digests: list[str] = []
    for modality, codec in model.codecs.items():
        own = [record for record in records if _texts(record, modality)]
        if not own:
            continue
        media = media_digest([_place(record, modality) for record in own])
        path = cache / f"{modality}-{codec_fingerprint(codec)}-{media}-{max_seconds:g}.safetensors"
        if not path.exists():
            _encode(own, cast(MediaCodec, codec), path, max_seconds, progress)
        with safe_open(path, "pt") as kept:
            lengths = json.loads(kept.metadata()["lengths"])
            codes = kept.get_tensor("codes").long().split(lengths, dim=-1)
        if skipped := lengths.count(0):
            log.warning("%d of %d recordings are too long and are left out", skipped, len(own))
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


@torch.no_grad()
def _encode(records: Sequence[Record], codec: MediaCodec, path: Path, max_seconds: float, progress: bool) -> None:
    """Writes the codes of all records, side by side, [K, n] int32, and the length of each; 0 where it is too long.

    A medium that comes several times, to be seen as often in each pass, is encoded once.
    """
    places = [_place(record, codec.modality) for record in records]
    first = {place: record for place, record in zip(reversed(places), reversed(records), strict=True)}
    device = next((tensor.device for tensor in codec.state_dict().values()), torch.device("cpu"))
    rows: list[Tensor] = []
    once = list(first.values())
    with tqdm(total=len(once), desc=f"codes of {codec.modality}s", disable=not progress, mininterval=2) as bar:
        for start in range(0, len(once), ENCODED_AT_ONCE):
            chunk = once[start : start + ENCODED_AT_ONCE]
            if codec.size is not None:
                batch = torch.cat([picture_tensor(record.image, codec.size) for record in chunk])
                rows += codec.encode(batch.to(device)).codes.flatten(2).cpu().unbind()
            else:
                rows += [_sound_codes(record, codec, max_seconds, device) for record in chunk]
            bar.update(len(chunk))
    encoded = dict(zip(first, rows, strict=True))
    rows = [encoded[place] for place in places]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    lengths = json.dumps([row.shape[1] for row in rows])
    save_file({"codes": torch.cat(rows, dim=1).int()}, partial, metadata={"lengths": lengths})
    os.replace(partial, path)


def _sound_codes(record: Record, codec: MediaCodec, max_seconds: float, device: torch.device) -> Tensor:
    """Codes [K, T] of a recording; none where it is longer than `max_seconds`."""
    assert codec.sample_rate is not None, "it is a codec of sound"
    sound = torch.from_numpy(load_audio(record.audio, sample_rate=codec.sample_rate).waveform)
    if len(sound) > max_seconds * codec.sample_rate:
        return torch.empty(codec.num_codebooks, 0, dtype=torch.long)
    return codec.encode(sound.clamp(-1, 1)[None, None].to(device)).codes[0].cpu()
