"""File names: which suffixes are pictures and sounds, what a pattern stands for, what of an address is secret."""

from __future__ import annotations

import glob
import itertools
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

from encoders.media.sound import SUFFIXES

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")
MAX_NAMES = 100_000  # that the braces of a pattern may stand for

_NAME = 4096  # characters of a path, at most
_BRACES = re.compile(r"\{(?:(\d{1,18})\.\.(\d{1,18})|([^{}]*,[^{}]*))\}")
_USER = re.compile(r"(?<=://)[^\s/?#]*@")
_QUERY = re.compile(r"(https?://[^\s?'\"]*)\?[^\s'\"]*?(?=[);,.:]*(?:[\s'\"]|$))")
FILM_SUFFIXES = ("webm", "mp4")  # of files that may have pictures beside the sound
SOUND_SUFFIXES = (*SUFFIXES, *FILM_SUFFIXES)


_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}  # how such files begin


def packed_by(head: bytes) -> str | None:
    """What has compressed a file that begins with these bytes, if anything has."""
    return next((name for mark, name in _PACKED.items() if head.startswith(mark)), None)


def expand(pattern: str) -> list[Path]:
    """The existing paths of a pattern with `{000..003}`, `{a,b}` and the wildcards * ? [ ] and ** (any folders).

    FileNotFoundError where one of the expanded names matches nothing.
    """
    paths, pattern = [], os.path.expanduser(pattern)
    # A path that exists is used as it is, so that "photos [2]" and "a{1,2}" need no escaping.
    for name in [pattern] if os.path.exists(pattern) else expand_braces(pattern):
        matches = _matches(name)
        if not matches and "://" in name[:32]:
            raise FileNotFoundError(
                f"{without_secrets(name)!r} is an address: tars there are read in training with stream=True, and where "
                "captions, answers or transcripts of --data go into a folder (--output); for anything else, download it"
            )
        if not matches:
            raise FileNotFoundError(f"no file matches {name!r}" + (f" (of {pattern!r})" if name != pattern else ""))
        paths += map(Path, matches)
    return paths


def _matches(name: str) -> list[str]:
    """The existing paths of a name with wildcards, sorted: it itself where it exists. So of its folders."""
    there = name
    while there and not os.path.exists(there):
        there = os.path.dirname(there)
    rest = name[len(there) :]
    if there and not rest:
        return [name]
    return sorted(glob.glob(glob.escape(there) + rest, recursive=True)) if glob.has_magic(rest) else []


def expand_braces(pattern: str) -> list[str]:
    """`a{1..3}` → a1 a2 a3 (leading zeros kept), `{x,y}b` → xb yb; several braces multiply, leftmost slowest.

    ValueError for a pattern that stands for more than `MAX_NAMES` names.
    """
    parts: list[Sequence[str] | range] = []  # what stands between braces, and the choices of each, in turn
    widths, place = [], 0
    for brace in _BRACES.finditer(pattern):
        first, last, choices = brace.groups()
        chosen = choices.split(",") if choices is not None else range(int(first), int(last) + 1)
        parts += [[pattern[place : brace.start()]], chosen]
        widths += [0, len(first or "")]
        place = brace.end()
    counts = [len(part) for part in parts]
    if math.prod(counts) * max(1, len(pattern) // _NAME) > MAX_NAMES:
        raise ValueError(
            f"the pattern {pattern[:80]!r} stands for more than {MAX_NAMES:,} names; write * for a part of the name, "
            "or give several patterns"
        )
    spelled = [[str(own).zfill(width) for own in part] for part, width in zip(parts, widths, strict=True)]
    return ["".join(names) for names in itertools.product(*spelled, [pattern[place:]])]


def without_user(text: str) -> str:
    """A text without the users and passwords in its addresses."""
    return _USER.sub("", text)


def without_secrets(text: str) -> str:
    """The same, and without queries, with which addresses are signed: those of http, as `?` is a wildcard elsewhere."""
    return _QUERY.sub(r"\1", without_user(text))
