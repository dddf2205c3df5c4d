"""What can be known to be wrong with a run before a medium is encoded or a weight is loaded."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch


def check_output(folder: str | os.PathLike) -> Path:
    """Makes the folder that a run writes into. OSError, with what to do, where it cannot be written to."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError as error:
        raise NotADirectoryError(f"output: {folder} is a file; choose another folder") from error
    except OSError as error:
        raise type(error)(f"output: {folder} cannot be written to ({error.strerror}); choose another folder") from error
    return folder


def check_device(name: str) -> None:
    """ValueError for a device that torch does not know, or that is not there."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason}); it is cpu, cuda or cuda:N") from error
