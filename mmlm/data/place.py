"""Places on disk where media lie."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from encoders.files import check_regular


@dataclass(frozen=True)
class FileSlice:
    """A whole file, or `size` bytes from `offset` on (a member of a tar).

    changed: when the file was last changed, in nanoseconds, where the place is no longer right once it is again.
    """

    path: Path
    offset: int = 0
    size: int | None = None
    changed: int | None = field(default=None, compare=False)

    @property
    def whole(self) -> bool:
        """Whether it is a whole file."""
        return self.size is None

    def read(self) -> bytes:
        """The bytes. OSError where the file cannot be read, ends too early, or was written again; ValueError for a pipe
        or device.
        """
        check_regular(self.path)
        with open(self.path, "rb") as file:
            self.check(os.fstat(file.fileno()))
            file.seek(self.offset)
            data = file.read(-1 if self.size is None else self.size)
        if self.size is not None and len(data) != self.size:
            raise OSError(f"{self.path} ends {self.size - len(data)} bytes too early; the file is truncated")
        return data

    def check(self, state: os.stat_result) -> None:
        """OSError where the file was written again since the place was found."""
        if self.changed is not None and state.st_mtime_ns != self.changed:
            raise OSError(f"{self.path} was written again since it was read; the same call reads it anew")
