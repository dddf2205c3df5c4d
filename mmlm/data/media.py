"""Media without texts, for codecs: all pictures or all recordings of folders, files, tars and paired data."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ImageOps
from torch import Tensor
from tqdm import tqdm

from encoders.files import check_regular
from encoders.media.image import load_image
from encoders.media.sound import load_audio
from encoders.media.source import MediaError
from mmlm.data.readers import expand, read_records
from mmlm.data.readers.paths import IMAGE_SUFFIXES, SOUND_SUFFIXES
from mmlm.data.readers.tar import index_tar
from mmlm.data.records import BadRecord, BadRecordsError, FileSlice, Record, RecordSource

log = logging.getLogger(__name__)


def find_media(
    source: RecordSource | FileSlice | bytes | Sequence[FileSlice | bytes], modality: Literal["image", "audio"]
) -> list[FileSlice | bytes]:
    """Where the media of one modality lie. ValueError for a path that has none.

    source: one of the following, or a list of them: a folder (all files of the modality under it, sorted by name), a
    file or a pattern of files, tars (every member of the modality), what `read_records` reads, or such a place itself.
    """
    if isinstance(source, Record):
        return _of_records([source], modality)
    if isinstance(source, FileSlice | bytes):
        return [source]
    if not isinstance(source, (str, os.PathLike)):
        return [place for part in source for place in find_media(part, modality)]
    found = [place for path in expand(os.fspath(source)) for place in _of_path(path, modality)]
    if not found:
        raise ValueError(f"no {'pictures' if modality == 'image' else 'recordings'} in {source}")
    return found


def _of_path(path: Path, modality: str) -> Sequence[FileSlice | bytes]:
    suffixes = IMAGE_SUFFIXES if modality == "image" else SOUND_SUFFIXES
    if path.is_dir() and not (path / "metadata.jsonl").is_file():
        return [FileSlice(file) for file in sorted(path.rglob("*")) if _suffix(file) in suffixes]
    if not path.is_dir():
        check_regular(path)
    if path.suffix == ".tar":
        members = (member for members in index_tar(path).values() for member in members.items())
        return [place for suffix, places in members if suffix in suffixes for place in places]
    if _suffix(path) in suffixes:
        return [FileSlice(path)]
    return _of_records(read_records(path), modality)


def _of_records(records: Sequence[Record], modality: str) -> list[FileSlice | bytes]:
    return [place for record in records for own, place in record.places if own == modality]


def _suffix(path: Path) -> str:
    return path.suffix[1:].lower()


class Pictures:
    """Pictures in memory, `[3, size, size]` uint8: the middle square of each, scaled. `keys` are hashes of their bytes.

    A picture that is listed several times comes that often in each pass, and is kept in memory once.
    """

    def __init__(self, places: Sequence[FileSlice | bytes], size: int, bad_limit: float = 0.01) -> None:
        def read(data: bytes) -> Tensor:
            picture = ImageOps.fit(load_image(data), (size, size))
            return torch.from_numpy(np.array(picture)).permute(2, 0, 1)

        self.pixels, self.keys = _read_all(places, read, "pictures", bad_limit)

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Sequence[int], draw: torch.Generator) -> Tensor:
        """Pictures `[B, 3, size, size]` in 0..1. `draw` is not used: each picture is whole."""
        return torch.stack([self.pixels[index] for index in torch.as_tensor(indices).tolist()]).float() / 255


class Recordings:
    """Recordings in memory at one sample rate, int16. A batch takes `samples` of each, from a random start.

    `keys` are hashes of their bytes.
    """

    def __init__(
        self, places: Sequence[FileSlice | bytes], sample_rate: int, samples: int, bad_limit: float = 0.01
    ) -> None:
        def read(data: bytes) -> np.ndarray:
            waveform = load_audio(data, sample_rate=sample_rate).waveform
            return (waveform.clip(-1, 1) * 32767).round().astype(np.int16)

        self.samples = samples
        self.sounds, self.keys = _read_all(places, read, "recordings", bad_limit)

    def __len__(self) -> int:
        return len(self.sounds)

    def batch(self, indices: Sequence[int], draw: torch.Generator) -> Tensor:
        """Sound `[B, 1, samples]` in −1..1. Shorter recordings are padded with silence."""
        rows = []
        for index in torch.as_tensor(indices).tolist():
            sound = self.sounds[index]
            start = int(torch.randint(max(0, len(sound) - self.samples) + 1, (1,), generator=draw))
            row = torch.from_numpy(sound[start : start + self.samples].astype(np.float32) / 32767)
            rows.append(F.pad(row, (0, self.samples - len(row))))
        return torch.stack(rows).unsqueeze(1)


Medium = TypeVar("Medium")


def _read_all(
    places: Sequence[FileSlice | bytes], decode: Callable[[bytes], Medium], what: str, limit: float
) -> tuple[list[Medium], list[str]]:
    """The medium at each place, and the hash of its bytes. Each place is read once.

    Media that cannot be used are left out.

    BadRecordsError, with the first of their names, when more than the share `limit` cannot be used.
    """
    found, keys, bad = {}, {}, []
    for index, place in enumerate(tqdm(places, desc=f"reading {what}", mininterval=2, leave=False, disable=None)):
        if place in found:
            continue
        try:
            data = place if isinstance(place, bytes) else place.read()
            found[place], keys[place] = decode(data), hashlib.sha256(data).hexdigest()
        except (MediaError, OSError) as error:
            bad.append(BadRecord(_name(place, index), str(error)))
    if len(bad) > limit * len(places):
        names = "\n".join(f"  {one.key}: {one.reason}" for one in bad[:20])
        raise BadRecordsError(f"{len(bad)} of {len(places)} media cannot be used; repair or remove them:\n{names}", bad)
    if bad:
        log.warning("%d of %d media cannot be used and are left out; the first: %s", len(bad), len(places), bad[0])
    used = [place for place in places if place in found]
    return [found[place] for place in used], [keys[place] for place in used]


def _name(place: FileSlice | bytes, index: int) -> str:
    return f"number {index + 1}" if isinstance(place, bytes) else f"{place.path} (number {index + 1})"
