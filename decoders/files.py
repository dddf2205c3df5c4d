"""Files with the permissions of the user's umask, and files that are on the disk for certain."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a new safetensors file. The library itself lets its owner alone read it."""
    path.touch()
    permissions = stat.S_IMODE(path.stat().st_mode)
    save_file(dict(tensors), path, metadata=metadata)
    path.chmod(permissions)


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
