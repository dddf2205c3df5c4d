"""What a pickle would take to read, told by its opcodes before anything is made of it.

torch's reader of tensors and plain data runs no code, but it makes what the file says: a buffer of any length, or
tuples within tuples whose hash takes longer than a life.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from encoders.sizes import RefusedError

MOST_BYTES = 1 << 26  # of a pickle beside its tensors
MOST_ITEMS = 1_000_000  # of a tuple with all that it holds
PICKLES = 5  # in a file of the old form: magic number, version, system, content, names of storages
MAKERS = ("bytearray", "Tensor")  # of memory that the file has no bytes for
WRITE, READ = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), ("GET", "BINGET", "LONG_BINGET")


def check_pickle(path: str | Path) -> None:
    """`RefusedError` for a file of torch.save whose pickle would take memory or time beyond its size.

    Other files are not looked at: the loader tells what they are.
    """
    with open(path, "rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                for entry in archive.infolist():
                    if entry.filename.endswith(".pkl"):
                        if entry.file_size > MOST_BYTES:
                            raise RefusedError(f"{path} has {entry.file_size / 1e6:.0f} MB beside its tensors")
                        _check(io.BytesIO(archive.read(entry)), path)
            return
        file.seek(0)
        for _ in range(PICKLES):
            if not _check(file, path):
                return


def _check(file: BinaryIO, path: str | Path) -> bool:
    """Follows one pickle from where the file stands; False where none begins there."""
    stack: list[Any] = []  # of each value: how many items it has, all told, or the name of what it stands for
    memo: dict[int, Any] = {}
    try:
        for opcode, argument, _ in pickletools.genops(file):
            name = opcode.name
            if name in WRITE:
                memo[len(memo) if argument is None else int(str(argument))] = stack[-1]
            elif name in READ:
                stack.append(memo[int(str(argument))])
            elif name == "MARK":
                stack.append(pickletools.markobject)
            else:
                taken = list(_taken(stack, opcode))
                if name in ("REDUCE", "NEWOBJ", "OBJ", "INST") and str(taken[-1:] and taken[-1]).endswith(MAKERS):
                    raise RefusedError(f"{path} asks for a {taken[-1]} of any size, which is no saved tensor")
                if name in ("GLOBAL", "STACK_GLOBAL"):
                    value: Any = str(argument).replace(" ", ".") if argument else ".".join(map(str, reversed(taken)))
                elif name in ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE"):
                    value = str(argument)
                else:
                    value = 1 + sum(items for items in taken if isinstance(items, int)) if "TUPLE" in name else 1
                    if value > MOST_ITEMS:
                        raise RefusedError(f"{path} holds a tuple of more than {MOST_ITEMS:,} items")
                stack += [value] * len(opcode.stack_after)
    except (ValueError, IndexError, KeyError) as error:
        if isinstance(error, RefusedError):
            raise
        return False
    return True


def _taken(stack: list[Any], opcode: Any) -> Iterator[Any]:
    """What an opcode takes from the stack, the last first."""
    before = opcode.stack_before
    if pickletools.markobject in before:
        while stack and (value := stack.pop()) is not pickletools.markobject:
            yield value
        before = before[: before.index(pickletools.markobject)]
    for _ in before:
        yield stack.pop()
