"""Files on disk, before they are opened."""

from __future__ import annotations

import os
from pathlib import Path


def at_home(path: str | os.PathLike[str]) -> str:
    """The path, with `~` at its beginning for the home folder; a file of that very name goes first."""
    name = os.fspath(path)
    return os.path.expanduser(name) if name.startswith("~") and not os.path.exists(name) else name


def check_regular(path: str | os.PathLike[str]) -> None:
    """FileNotFoundError where there is nothing; ValueError for what is no regular file: a pipe or device may never end.

    A folder is none either.
    """
    place = Path(path)
    if not place.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not place.is_file():
        what = "a folder" if place.is_dir() else "a pipe or device, which may never end"
        raise ValueError(f"{path}: not a regular file but {what}; give the path of one file")
