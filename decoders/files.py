"""Files that appear whole or not at all, with the permissions of the user's umask, and are on the disk for certain."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

LEFT = 3600.0  # seconds after which what a writer left behind belongs to nobody


@contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """A folder to write into, from which files are then moved into `folder`. Those of killed processes are removed."""
    remove_left(folder.glob(".saving-*"))
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as parts:
        yield Path(parts)


def remove_left(paths: Iterable[Path]) -> None:
    """Remove unfinished files and folders that nobody has touched for an hour: their writer was killed."""
    for path in paths:
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > LEFT:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a new safetensors file. OSError where that cannot be: the disk is full, for one.

    The library itself has an error of its own for that, and lets the file's owner alone read it.
    """
    path.touch()
    permissions = stat.S_IMODE(path.stat().st_mode)
    try:
        save_file(dict(tensors), path, metadata=metadata)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written ({error}): make room, and give the same again") from error
    path.chmod(permissions)


@contextmanager
def told_when_full(folder: Path) -> Iterator[None]:
    """Where the disk is full, an OSError that names the folder and says what to do: the system's own names nothing."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            f"{folder} cannot be written to ({error.strerror}): make room, and give the same again; what is done stays"
        ) from error


def apply_umask(folder: Path) -> None:
    """Give all files below a folder the permissions of the user's umask, whatever library wrote them."""
    plain = folder / ".permissions"
    plain.touch()
    permissions = stat.S_IMODE(plain.stat().st_mode)
    plain.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(permissions)


def sync(*paths: Path) -> None:
    """Wait until files, or the entries of folders, are on the disk."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
