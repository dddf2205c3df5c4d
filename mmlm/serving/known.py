"""Media and prompts that came before: what is asked again is neither encoded nor read again."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from encoders.base import Features
from encoders.media.image import content_key
from encoders.media.sound import Audio, audio_key
from mmlm.generation.decoder import Decoder, KeysValues
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.parts import Image, Sound, as_part, modality_of

IN_MEMORY = (bytes, bytearray, PILImage.Image, np.ndarray, Tensor, Audio)
LEAST = 16  # positions of a prompt for which it is worth to begin where another one is
Value = TypeVar("Value")


class Recent(Generic[Value]):
    """What was used last, up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self._kept: OrderedDict[Any, tuple[Value, int]] = OrderedDict()

    def get(self, key: Any) -> Value | None:
        """What is kept under a key."""
        if (found := self._kept.get(key)) is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def put(self, key: Any, value: Value, size: int) -> None:
        """Keeps a value of so many bytes, and forgets those that were not used for longest."""
        self.drop(key)
        if size > self.limit:
            return
        self._kept[key] = (value, size)
        self.size += size
        while self.size > self.limit:
            self.drop(next(iter(self._kept)))

    def drop(self, key: Any) -> None:
        """Forgets a key."""
        if (found := self._kept.pop(key, None)) is not None:
            self.size -= found[1]

    def keys(self) -> list[Any]:
        """All keys."""
        return list(self._kept)


class KnownMedia:
    """Features of media by their content: a picture that is asked about again is not encoded again."""

    def __init__(self, limit: int) -> None:
        self._features = Recent[Features](limit)
        self._lock = threading.Lock()
        self._since = -1
        self._unknown = itertools.count()
        self.hits = 0

    def learn(self, model: MultimodalNetwork, parts: Sequence[Any]) -> None:
        """Encodes the media among the parts of several prompts that are not known yet, together.

        What cannot be encoded is left to its own request, which tells what is wrong.
        """
        with self._lock:
            if self._since != model.changes.count:
                self._features, self._since = Recent[Features](self._features.limit), model.changes.count
            new = {digest: part for part in parts if (digest := digest_of(part)) is not None}
            new = {digest: part for digest, part in new.items() if self._features.get(digest) is None}
            if not self._encode(model, new) and len(new) > 1:
                for digest, part in new.items():
                    self._encode(model, {digest: part})

    def _encode(self, model: MultimodalNetwork, new: dict[str, Any]) -> bool:
        try:
            encoded = model.encode_media(list(new.values()))
        except Exception:
            return False
        for digest, features in zip(new, encoded, strict=True):
            self._features.put(digest, features, features.tokens.nbytes)
        return True

    def known(self, parts: Sequence[Any]) -> tuple[list[Any], list[str]]:
        """The parts with features in the place of known media, and a digest of each medium, which equals no other's
        where its content is not known.
        """
        found, digests = [], list[str]()
        for part in map(as_part, parts):
            if isinstance(part, (Image, Sound)):
                digest = digest_of(part)
                digests.append(digest or f"unknown {next(self._unknown)}")
                with self._lock:
                    features = None if digest is None else self._features.get(digest)
                if features is not None:
                    self.hits += 1
                    part = type(part)(features)
            found.append(part)
        return found, digests


def digest_of(part: Any) -> str | None:
    """The modality and content of a medium in memory, as a key; None for all else.

    Files and streams are left out: what is hashed might not be what is then read. So is what cannot be read: its own
    request tells what is wrong with it.
    """
    try:
        part = as_part(part)
        if not isinstance(part, (Image, Sound)) or not isinstance(part.source, IN_MEMORY):
            return None
        key = content_key if isinstance(part, Image) else audio_key
        return f"{modality_of(part)} {key(part.source)}"
    except (TypeError, ValueError):
        return None


def keys_of(
    ids: Sequence[int], media_ids: Collection[int], digests: Sequence[str], positions: Sequence[int]
) -> list[int]:
    """A number for each position of a prompt: equal for equal ids, and for equal media in their places.

    ids: with media in place. digests, positions: of each medium, and how many positions of the text it takes.
    """
    media = iter([(digest, place) for digest, own in zip(digests, positions, strict=True) for place in range(own)])
    return [_number(*next(media)) if token in media_ids else token for token in ids]


def _number(digest: str, place: int) -> int:
    """A negative number for a position of a medium, which no id has."""
    return -1 - int.from_bytes(hashlib.sha256(f"{digest} {place}".encode()).digest()[:7], "big")


class KnownPrompts:
    """Keys and values of prompts: one that begins like an earlier one, media included, is read from there on."""

    def __init__(self, limit: int) -> None:
        self._kept = Recent[list[KeysValues | None]](limit)
        self._keys: dict[int, Tensor] = {}
        self._since = -1
        self._count = 0

    def longest(self, keys: Sequence[int], since: int) -> list[KeysValues | None] | None:
        """Keys and values `[1, H, t, d]` of each layer for the longest known beginning, less than the whole prompt."""
        if since != self._since:
            return None
        own = torch.tensor(keys)
        best, length = None, LEAST - 1
        for number in self._kept.keys():
            other = self._keys[number]
            shared = min(len(own) - 1, len(other))
            differs = (own[:shared] != other[:shared]).nonzero()
            same = int(differs[0]) if len(differs) else shared
            if same > length:
                best, length = number, same
        if best is None:
            return None
        found = self._kept.get(best)
        assert found is not None, "its key is kept"
        return [None if own is None else (own[0][:, :, :length], own[1][:, :, :length]) for own in found]

    def keep(self, keys: Sequence[int], decoder: Decoder) -> None:
        """Keeps the keys and values of a prompt that was read."""
        length = decoder.length
        if length < LEAST:
            return
        if decoder.since != self._since:
            self._kept, self._keys, self._since = Recent(self._kept.limit), {}, decoder.since
        layers = [None if own is None else (own[0].clone(), own[1].clone()) for own in decoder.keys_values()]
        self._count += 1
        self._kept.put(self._count, layers, sum(part.nbytes for pair in layers for part in pair or ()))
        self._keys[self._count] = torch.tensor(keys)
        alive = set(self._kept.keys())
        self._keys = {number: own for number, own in self._keys.items() if number in alive}
