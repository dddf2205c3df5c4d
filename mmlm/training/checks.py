"""What can be known to be wrong with a run before a medium is encoded or a weight is loaded."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def check_output(folder: str | os.PathLike, name: str = "output") -> Path:
    """The folder that a run writes into. OSError, with what to do, where it cannot be made or written to.

    name: of the setting. It is not made yet: a run that is refused for another reason leaves nothing behind.
    """
    folder = Path(folder).expanduser()
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not place.is_dir():
        raise NotADirectoryError(f"{name}: {place} is a file; choose another folder")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise type(error)(f"{name}: {place} cannot be written to ({error.strerror}); choose another folder") from error
    return folder
