"""The guarded door for clients' media: data that came with the request, or addresses of hosts that are allowed.

A client's string never names a file. Limits count over all media of a request, by their headers, before they are
decoded.
"""

from __future__ import annotations

import base64
import binascii
import http.client
from collections.abc import Callable, Collection
from typing import TypeVar

from encoders.media.fetch import fetch
from encoders.media.image import pixels_of
from encoders.media.sound import open_audio
from encoders.media.source import MediaError, check_bytes, read_bytes
from mmlm.serving.errors import ApiError, told
from mmlm.serving.settings import Limits

T = TypeVar("T")

FETCH_SECONDS = 20.0


class MediaDoor:
    """Takes the media of one request. Its methods block while they read, so they are for threads.

    hosts: those from which addresses are fetched. ApiError for what is not taken, with its place in the request.
    """

    def __init__(self, limits: Limits, hosts: Collection[str] = ()) -> None:
        self.limits, self._hosts = limits, hosts
        self._media, self._pixels = 0, 0
        self.seconds = 0.0  # of all recordings so far

    def picture_at(self, address: object, place: str) -> bytes:
        """The encoded picture of a data: URL, or of an address that may be fetched."""
        if not isinstance(address, str):
            raise ApiError(400, f"{place} is a text: a data: URL", place)
        start = address[:8].lower()
        if start.startswith("data:"):
            data = _read(lambda: read_bytes(address, place, self.limits.max_body_bytes, allow_url=False), place)
        elif start.startswith(("http://", "https://")):
            data = self._fetched(address, place)
        else:
            raise ApiError(400, f"{place} is a data: URL with the picture itself", place, "invalid_image_url")
        return self.picture(data, place)

    def picture(self, data: bytes, place: str) -> bytes:
        """An encoded picture, whose pixels are counted by its header."""
        self._count(place)
        self._pixels += _read(lambda: pixels_of(data, place), place)
        if self._pixels > self.limits.max_pixels:
            message = f"{place}: the pictures have more than {self.limits.max_pixels:,} pixels: scale them down"
            raise ApiError(400, message, place, "too_many_pixels")
        return data

    def sound_of(self, text: object, place: str) -> bytes:
        """The encoded recording that is given as base64."""
        if not isinstance(text, str):
            raise ApiError(400, f"{place} is a text: the recording in base64", place)
        try:
            return self.sound(base64.b64decode(text, validate=True), place)
        except (binascii.Error, ValueError):
            raise ApiError(400, f"{place} is no base64", place, "invalid_base64") from None

    def sound(self, data: bytes, place: str) -> bytes:
        """An encoded recording, whose seconds are counted by its header."""
        self._count(place)
        left = self.limits.max_seconds - self.seconds

        def seconds() -> float:
            with open_audio(data, max_seconds=max(left, 1e-3)) as sound:
                return sound.seconds

        self.seconds += _read(seconds, place)
        return data

    def _fetched(self, address: str, place: str) -> bytes:
        if not self._hosts:
            message = f"{place}: this server fetches no addresses: send the picture itself, as a data: URL"
            raise ApiError(400, message, place, "invalid_image_url")
        most = self.limits.max_body_bytes
        try:
            return fetch(address, lambda count: check_bytes(count, place, most), FETCH_SECONDS, self._hosts)
        except (OSError, http.client.HTTPException, ValueError):
            # Why would tell of machines that this one can reach.
            message = f"{place}: the address is not of an allowed host, or cannot be fetched"
            raise ApiError(400, message, place, "invalid_image_url") from None

    def _count(self, place: str) -> None:
        self._media += 1
        if self._media > self.limits.max_media:
            message = f"{place}: more than {self.limits.max_media} pictures and recordings"
            raise ApiError(400, message, place, "too_many_media")


def _read(read: Callable[[], T], place: str) -> T:
    try:
        return read()
    except MediaError as error:
        raise ApiError(400, told(error), place, "invalid_media") from error
