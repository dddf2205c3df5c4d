"""Shards: tars on this machine or elsewhere, of which any piece can be read alone."""

from __future__ import annotations

import glob
import logging
import os
import tarfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from encoders.files import check_regular
from mmlm.data.readers.paths import expand, expand_braces, without_secrets

_CHANGES = """
    ETag etag md5Hash checksum blob_id xet_hash sha mtime LastModified last_modified modificationTime modified modify
    updated created Content-MD5 Digest Last-Modified
""".split()
"""What file systems of fsspec tell that differs when a file was written again; the first of these is taken."""


CHECKED = 10.0
"""Seconds for which a tar at an address is taken for the one that was found, before its server is asked again."""

PAUSES = (0.5, 2.0, 8.0, 30.0)
"""Seconds between one try and the next where an address does not answer as it should."""

T = TypeVar("T")

_CHANGED = "it was written again meanwhile"

log = logging.getLogger(__name__)


class UnreachableError(OSError):
    """A shard that cannot be read, or not any more: it is gone, it is not the one that was found, nobody answers."""


@dataclass(frozen=True)
class Shard:
    """A tar. url: its path or its address. size: in bytes. version: another one after it was written again."""

    url: str
    size: int
    version: str

    @property
    def name(self) -> str:
        """Its path, or its address without secrets: for messages, and for what is written."""
        return without_secrets(self.url)

    def read(self, offset: int, size: int) -> bytes:
        """A piece of it. UnreachableError that names it where it is gone, or is not the one that was found."""
        try:
            if is_remote(self.url):
                system, path = _system(self.url)
                data = retried(lambda: system.cat_file(path, start=offset, end=offset + size), self.name)
                _check(self, int(time.monotonic() / CHECKED))
            else:
                with open(self.url, "rb") as file:
                    if _local(self.url, os.fstat(file.fileno())) != self:
                        raise OSError(_CHANGED)
                    file.seek(offset)
                    data = file.read(size)
        except Exception as error:  # each file system has its own
            why = without_secrets(str(error))
            raise UnreachableError(
                f"{self.name} cannot be read any more ({why}); when it is there again, the same call goes on"
            ) from error
        if len(data) > size:
            raise UnreachableError(f"{self.name}: its server gives no piece of it, but the whole: download it")
        if len(data) < size:
            raise UnreachableError(f"{self.name} ends {size - len(data)} bytes too early; fetch or write it again")
        return data

    def now(self) -> Shard:
        """What lies there now: another one where it was written again. Errors are each file system's own."""
        if not is_remote(self.url):
            return _local(self.url, os.stat(self.url))
        system, path = _system(self.url)
        system.invalidate_cache(path)  # what was listed before is not what is there
        about = retried(lambda: system.info(path), self.name)
        return Shard(self.url, about["size"], _version(about))

    def open(self) -> AbstractContextManager[BinaryIO]:
        """The whole of it, to be read from start to end."""
        if not is_remote(self.url):
            return open(self.url, "rb")  # noqa: SIM115 - for a `with` of the caller
        system, path = _system(self.url)
        return cast(Any, system.open(path, "rb"))


@lru_cache(maxsize=1024)
def _check(shard: Shard, period: int) -> None:
    """OSError where a shard is not the one that was found; a server is asked once in a period."""
    if shard.now() != shard:
        raise OSError(_CHANGED)


def retried(read: Callable[[], T], name: str) -> T:
    """Reads at an address; where an error may pass, again after each of `PAUSES`, with a warning. Else it is raised."""
    for pause in PAUSES:
        try:
            return read()
        except Exception as error:  # each file system has its own
            if not may_pass(error):
                raise
            cause = error.__cause__ or error
            why = without_secrets(str(cause)) or type(cause).__name__
            log.warning("%s: %s; it is read again in %g s", name, why, pause)
        time.sleep(pause)
    return read()


def may_pass(error: BaseException) -> bool:
    """Whether another try may help: what is gone, forbidden or damaged stays so."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:  # of http: all errors; of S3: its own
        return may_pass(error.__cause__)
    lasting = (
        FileNotFoundError, PermissionError, ImportError, LookupError, TypeError, ValueError, RecursionError,
        tarfile.TarError,
    )  # fmt: skip
    status = _status(error)
    refused = status is not None and 400 <= status < 500 and status not in (408, 425, 429)
    return not refused and not isinstance(error, lasting)


def _status(error: BaseException) -> int | None:
    """The number with which a server has answered by http, where the error tells it as aiohttp or botocore do."""
    status, response = getattr(error, "status", None), getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status if isinstance(status, int) else None


def find_shards(source: str | os.PathLike[str]) -> list[Shard]:
    """The tars of a path, a pattern or an address, in the order of their names.

    source: with `{000..003}`, `{a,b}` and wildcards; an address of any kind that fsspec reads (s3://, gs://, hf://,
        https://), whose package must be installed.
    FileNotFoundError where there is none; ValueError for a pipe, for addresses within others (`reference::s3://…`,
    which may bring programs along), and for what is no .tar.
    """
    name = os.fspath(source)
    if name.startswith("pipe:"):
        raise ValueError(f"{name}: a pipe can only be read from its start: give the address itself, such as s3://…")
    if "::" in name:
        within = without_secrets(name)
        raise ValueError(f"{within}: addresses within others are not followed: give that of the tars themselves")
    found = _remote(name) if is_remote(name) else [_found(path) for path in expand(name)]
    if wrong := [shard for shard in found if not shard.url.partition("?")[0].endswith(".tar")]:
        raise ValueError(f"{wrong[0].name}: only plain .tar files are read in pieces: `mmlm data convert` writes them")
    return found


def is_remote(name: str) -> bool:
    """Whether it is an address, rather than a path."""
    return "://" in name[:32]


def _found(path: Path) -> Shard:
    check_regular(path)
    return _local(str(path), path.stat())


def _local(url: str, about: os.stat_result) -> Shard:
    return Shard(url, about.st_size, str(about.st_mtime_ns))


def _remote(pattern: str) -> list[Shard]:
    found = []
    for url in expand_braces(pattern):
        system, path = _system(url)
        name, why = without_secrets(url), ""
        try:
            system.invalidate_cache()  # what it has listed before may have been written again
            paths = sorted(system.glob(path)) if glob.has_magic(path) and not url.startswith("http") else [path]
            abouts = [(own, system.info(own)) for own in paths]
        except FileNotFoundError as error:
            abouts, why = [], without_secrets(f" ({error.__cause__})") if error.__cause__ else ""  # of http: all errors
        except Exception as error:  # each file system has its own
            reason = without_secrets(str(error))
            raise OSError(
                f"{name} cannot be reached ({type(error).__name__}: {reason}); see that its host answers, and that the "
                "package which reads it finds credentials: in the environment, or where its cloud's own tools keep them"
            ) from error
        if not abouts:
            among = f" (of {without_secrets(pattern)})" if url != pattern else ""
            raise FileNotFoundError(f"no shard at {name}{among}{why}")
        for own, about in abouts:
            if not isinstance(about.get("size"), int):
                raise ValueError(f"{name}: its server tells no size, so that no piece of it can be read: download it")
            # The path in a file system lacks its host, where an address names one.
            whole = url.removesuffix(path) + own if url.endswith(path) else str(system.unstrip_protocol(own))
            found.append(Shard(whole, about["size"], _version(about)))
    return found


def _version(about: dict[str, Any]) -> str:
    """What a file system tells of a file that differs when it was written again; empty where it tells nothing."""
    return next((str(about[key]) for key in _CHANGES if about.get(key) is not None), "")


def _system(url: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it. ImportError names the package that it needs."""
    from fsspec.core import url_to_fs

    return url_to_fs(url)
