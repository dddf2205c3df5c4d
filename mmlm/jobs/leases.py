"""Leases: a shard is worked on by one process at a time, and by another one when that is dead or silent.

They only save work. That a shard's rows are published once does not depend on them (`mmlm.jobs.files.create`).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

SILENCE = 60.0  # seconds without a sign of life after which a process on another machine is taken for dead


class Leases:
    """The leases in a folder, as one process sees and takes them; a context, which gives signs of life meanwhile.

    A lease is a file with the machine's name in it, which its owner has locked. A process that was killed has no locks,
    which others on its machine notice at once. On other machines, and where the system has no locks, it is known by its
    file, which does not change for `silence` seconds.
    """

    def __init__(self, folder: Path, silence: float = SILENCE) -> None:
        self.folder, self.silence = folder, silence
        self._own: set[Path] = set()
        self._seen: dict[Path, tuple[tuple[int, int], float]] = {}  # a file's state, and since when it has been so
        self._ended = threading.Event()
        self._alive = threading.Thread(target=self._give_signs, daemon=True)

    def __enter__(self) -> Leases:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._alive.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._alive.join()

    @contextmanager
    def take(self, name: str) -> Iterator[bool]:
        """Whether the lease of this name is ours while the block runs. It never waits for another owner."""
        path = self.folder / name
        self._clear(path)
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            yield False
            return
        try:
            _lock(handle, wait=True)  # for a process that looks at it just now
            os.write(handle, MACHINE.encode())
            self._own.add(path)
            yield True
        finally:
            self._own.discard(path)
            if _same(handle, path):  # not the lease of one that took us for dead
                path.unlink(missing_ok=True)
            os.close(handle)

    def end(self) -> None:
        """Removes what is left of all leases, whoever has them, when nothing is to be done any more."""
        for path in self.folder.iterdir():
            path.unlink(missing_ok=True)

    def _clear(self, path: Path) -> None:
        """Removes a lease whose owner is dead or silent."""
        try:
            handle = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return
        try:
            state = os.fstat(handle)
            now = (state.st_ino, state.st_mtime_ns)
            before, since = self._seen.get(path, (None, 0.0))
            if now != before:  # the clocks of two machines differ, so a file's age tells nothing
                self._seen[path] = now, (since := time.monotonic())
            silent = time.monotonic() - since > self.silence
            dead = os.read(handle, 200) == MACHINE.encode() and _lock(handle, wait=False)
            if (silent or dead) and _same(handle, path):  # while it is locked, no other process removes it
                path.unlink(missing_ok=True)
        finally:
            os.close(handle)

    def _give_signs(self) -> None:
        while not self._ended.wait(self.silence / 6):
            for path in list(self._own):
                with suppress(OSError):
                    os.utime(path)


def _machine() -> str:
    """The name of the running system: another one after a start, one for all containers that share its kernel."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


MACHINE = _machine()


def _lock(handle: int, wait: bool) -> bool:
    """Whether the file is locked now; also False where the system or the file system has no locks."""
    if fcntl is None:
        return False
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    return False


def _same(handle: int, path: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(handle), os.stat(path))
    return False
