"""Features of a frozen encoder, computed once and kept on disk for later epochs and later runs.

A cache folder is named by the encoder's fingerprint, which covers its weights and its preprocessing, and by the type
that it computes in. It holds the tokens [S, D] of each picture or recording under the hash of its bytes, in 16 bits
(`halved`). Each is encoded alone, so that its features depend on nothing else: what is made anew has the same bits. A
film is encoded as its frames are, with the time of each token beside the tokens.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from encoders.base import Features, FrozenEncoder
from encoders.media.image import content_key
from encoders.media.sound import audio_key
from encoders.media.video import NUM_FRAMES, load_video
from mmlm.data.cache import TensorCache
from mmlm.data.check import film_at
from mmlm.data.records import FileSlice, Record, RecordSet
from mmlm.model.features import video_features
from mmlm.training.ranks import is_first, merged, own, world
from mmlm.training.reporting import Counter
from mmlm.training.rounding import form_of, halved, made_type

Entry = TypeVar("Entry")

FRAMES = f"-{NUM_FRAMES}-frames"  # ends the keys of films
TIMES = ".times"  # ends the names of the times of a film's tokens
MEASURED = 32  # media whose size tells that of all
APART = 1 << 32  # between the keys of media that follow each other in a record; no set has as many records


class StoredFeatures(Mapping[int, Features]):
    """Features [1, S, D] by the key of a medium, read from the cache when they are asked for.

    OSError where their file was damaged since.
    """

    def __init__(self, encoder: FrozenEncoder, cache: TensorCache, keys: dict[int, str]) -> None:
        self.encoder, self.cache, self.names = encoder, cache, keys

    def __getitem__(self, medium: int) -> Features:
        key = self.names[medium]
        tokens = self.cache[key].to(made_type(self.encoder))
        times = self.cache[key + TIMES] if key.endswith(FRAMES) else self.encoder.token_times(len(tokens))
        return Features(tokens.unsqueeze(0), None, None if times is None else times.unsqueeze(0))

    def tokens(self, index: int) -> int:
        """S of the features of a record, which are not read."""
        return self.cache.shape(self.names[index])[0]

    def __iter__(self) -> Iterator[int]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def renumbered(self, kept: Sequence[int]) -> StoredFeatures:
        """The same after all but the `kept` records are gone."""
        return StoredFeatures(self.encoder, self.cache, renumbered(self.names, kept))


class CachedFeatures(NamedTuple):
    """By the key of a medium: features [1, S, D], hashes of its bytes. By the index of a record: why it is bad."""

    features: StoredFeatures
    bad: dict[int, str]
    keys: dict[int, str]


def cached_features(
    records: RecordSet, encoder: FrozenEncoder, folder: Path, *, bad_limit: float = 0.01, progress: bool = True
) -> CachedFeatures:
    """Features of the picture, or the recording, of each record that has one.

    They come from the cache or, where it lacks them, from the encoder; each medium is read once, so that what is
    encoded is what was hashed. Processes that train together share the work and the cache. Media that cannot be read
    or decoded, or that are encoded to NaN, are bad. BadRecordsError if these are more than `bad_limit` of all records,
    OSError if the disk has no room for the features.
    """
    cache = TensorCache(folder_of(encoder, folder))
    medium = {"image": "picture", "audio": "recording"}[encoder.modality]
    places: dict[int, tuple[int, FileSlice | bytes]] = {
        key_of(record, index, number): (index, place)
        for index, record in enumerate(records)
        for number, (modality, place) in enumerate(record.places)
        if modality == encoder.modality
    }
    room = Room(cache.folder, (len({place for _, place in places.values()}) - len(cache)) // world())
    keys: dict[int, str] = {}
    bad: dict[int, str] = {}
    known: dict[str, str] = {}  # by key, what is wrong with a medium
    mine = own(list(places.items()))
    with Counter(len(mine), f"features of {medium}s", progress and is_first()) as counter:
        for name, (index, place) in mine:
            counter.update()
            try:
                source, key = read_medium(place, encoder)
            except (OSError, ValueError) as error:
                bad[index] = f"the {medium} cannot be read ({error})"
                continue
            keys[name] = key
            if key not in known:
                stored = all(part in cache for part in _names(key))
                known[key] = "" if stored else encode_medium(cache, room, encoder, key, source)
            if known[key]:
                bad[index] = f"the {medium} {known[key]}"
    cache.flush()
    bad, keys = merged(bad), merged(keys)
    records.without(bad).check(bad_limit)
    good = {name: key for name, key in keys.items() if places[name][0] not in bad}
    whole = cache if world() == 1 else TensorCache(cache.folder)
    return CachedFeatures(StoredFeatures(encoder, whole, good), bad, keys)


def folder_of(encoder: FrozenEncoder, folder: Path) -> Path:
    """Where the cache in a folder keeps what this encoder makes."""
    form = form_of(encoder).replace("torch.", "").replace(" ", "-")
    return Path(folder) / f"{encoder.modality}-{encoder.fingerprint()}-{form}"


def key_of(record: Record, index: int, number: int) -> int:
    """The key of medium `number` in the `places` of record `index`: that index where it is the one of its kind."""
    return number * APART + index if record.script else index


def film_of(record: Record) -> Path | None:
    """The film that a record has in the place of a picture, by the suffix of its file."""
    return None if record.source is None else film_at(record.source)


def renumbered(entries: Mapping[int, Entry], kept: Sequence[int]) -> dict[int, Entry]:
    """Entries by the key of a medium, after all but the `kept` records are gone."""
    numbers = {old: new for new, old in enumerate(kept)}
    places = ((*divmod(key, APART), entry) for key, entry in entries.items())
    return {number * APART + numbers[index]: entry for number, index, entry in places if index in numbers}


def _names(key: str) -> list[str]:
    """The names of the tensors that are kept of a medium."""
    return [key, key + TIMES] if key.endswith(FRAMES) else [key]


def read_medium(place: FileSlice | bytes, encoder: FrozenEncoder) -> tuple[bytes | Path, str]:
    """The bytes of a medium, or the path of a film, which may be too large for memory, and the hash of its content."""
    film = film_at(place) if encoder.modality == "image" else None
    if film is not None:
        return film, audio_key(film) + FRAMES
    data = place if isinstance(place, bytes) else place.read()
    return data, audio_key(data) if encoder.modality == "audio" else content_key(data)


def encode_medium(cache: TensorCache, room: Room, encoder: FrozenEncoder, key: str, source: bytes | Path) -> str:
    """Puts the features of a medium into the cache; returns what is wrong with it, or nothing."""
    try:
        if isinstance(source, Path):
            features = video_features(encoder, load_video(source))
            if audio_key(source) + FRAMES != key:
                return "changed while it was read"
        else:
            (features,) = encoder.encode_items([encoder.preprocess(source)])
    except (OSError, ValueError, ImportError) as error:
        return f"cannot be decoded ({error})"
    tokens = halved(features.tokens[0])
    room.check(tokens.nbytes)
    try:
        cache.add(key, tokens)
        if key.endswith(FRAMES):
            assert features.times is not None, "frames have times"
            cache.add(key + TIMES, features.times[0])
    except ValueError as error:
        return str(error)
    return ""


class Room:
    """What the disk has room for, beside what is still to be encoded: `missing` media, at least."""

    def __init__(self, folder: Path, missing: int) -> None:
        self.folder, self.missing = folder, missing
        self.free, self.count, self.size = shutil.disk_usage(folder).free, 0, 0

    def check(self, size: int) -> None:
        """OSError if the features of all need more than there is, by the mean of those encoded so far."""
        self.count, self.size = self.count + 1, self.size + size
        needed = self.size // self.count * self.missing
        if self.count >= min(MEASURED, self.missing) and needed > self.free:
            raise OSError(
                f"the features need about {needed / 1e9:.1f} GB, and {self.folder} has room for {self.free / 1e9:.1f} "
                "GB: choose another cache folder, or features='ahead', which keeps none"
            )
