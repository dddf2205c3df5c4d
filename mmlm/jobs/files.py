"""Files of a job: each appears whole or not at all, is on the disk for certain, and replaces none by accident."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from decoders.files import sync


def create(path: Path, data: bytes) -> bool:
    """Writes a file that is not there yet; False, and nothing is changed, where there is one."""
    with _written(path, data) as temporary:
        try:
            os.link(temporary, path)  # a rename would replace what another process has just put there
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            if path.exists():
                return False
            os.replace(temporary, path)
    sync(path.parent)
    return True


def replace(path: Path, data: bytes) -> None:
    """Writes a file in place of any that is there."""
    with _written(path, data) as temporary:
        os.replace(temporary, path)
    sync(path.parent)


@contextmanager
def _written(path: Path, data: bytes) -> Iterator[Path]:
    """A file beside the path with this content, removed in the end if it is still there."""
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
    try:
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OSError(
                f"{path} cannot be written ({error.strerror}); what is done stays, and the same command goes on "
                "with it when there is room"
            ) from error
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
