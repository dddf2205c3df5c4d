"""A folder that a run writes into belongs to one process at a time."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import IO

import torch

from decoders.files import told_when_full
from mmlm.training.ranks import by_first, join

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

log = logging.getLogger(__name__)

NAME = ".owner"  # the file that is locked; it says who holds it

_owned: ContextVar[frozenset[Path]] = ContextVar("owned folders", default=frozenset())


@contextmanager
def owned(folder: Path, device: torch.device | str = "cpu") -> Iterator[None]:
    """Makes the folder, and keeps other processes and threads from owning it until the block ends.

    OSError, which names the process, its machine and since when, where another one owns it. The lock is the system's
    (flock), so that a process that was killed owns nothing. A block in a block of the same folder does nothing, and a
    folder that was made but not used is removed. Where the system or the file system has no such locks (Windows, some
    network file systems), nobody is refused, and the log says so. Of the processes of a launcher, which are joined here
    for work on the device, the first one owns.
    """
    join(device)
    place = folder.resolve()
    if place in _owned.get():
        yield
        return
    with ExitStack() as stack:
        by_first(lambda: stack.enter_context(_locked(place)) and None)
        before = _owned.set(_owned.get() | {place})
        try:
            with told_when_full(folder):
                yield
        finally:
            _owned.reset(before)


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    made = [own for own in (place, *place.parents) if not own.exists()]
    file = _lock(place / NAME)
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            (place / NAME).unlink()  # while it is locked: whoever waits for it looks whether it is still there
        file.close()
        with suppress(OSError):  # what is in use is not empty
            for own in made:
                own.rmdir()


def _lock(path: Path) -> IO[str]:
    """The open file, locked and with the name of this process in it."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - it stays open as long as the folder is owned
        except (FileExistsError, FileNotFoundError):  # its last owner removes the folder meanwhile
            if path.parent.is_file():
                raise
            continue
        try:
            _flock(file)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                break
        except FileNotFoundError:
            pass  # its last owner has just removed it
        except BlockingIOError:
            file.seek(0)
            owner = file.read() or "just begun"
            file.close()
            raise OSError(
                f"{path.parent} belongs to a run that is still going ({owner}): let it end, stop it, or choose another "
                "output folder"
            ) from None
        file.close()
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now():%Y-%m-%d %H:%M:%S}")
    file.flush()
    return file


def _flock(file: IO[str]) -> None:
    """BlockingIOError where another process has the lock."""
    try:
        if fcntl is None:
            raise OSError("the system has no flock")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        log.warning("%s cannot be locked (%s): take care that no other run writes into this folder", file.name, error)
