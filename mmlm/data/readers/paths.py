"""File names: which suffixes are pictures and sounds, and which files a pattern stands for."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from encoders.media.sound import SUFFIXES

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")
SOUND_SUFFIXES = (*SUFFIXES, "webm", "mp4")


def expand(pattern: str) -> list[Path]:
    """The existing paths of a pattern with `{000..003}`, `{a,b}` and the wildcards * ? [ ] and ** (any folders).

    FileNotFoundError where one of the expanded names matches nothing.
    """
    paths = []
    for name in expand_braces(os.path.expanduser(pattern)):
        # A path that exists is used as it is, so that "photos [2]" needs no escaping.
        matches = (
            [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else []
        )
        if not matches:
            raise FileNotFoundError(f"no file matches {name!r}" + (f" (of {pattern!r})" if name != pattern else ""))
        paths += map(Path, matches)
    return paths


def expand_braces(pattern: str) -> list[str]:
    """`a{1..3}` → a1 a2 a3 (leading zeros kept), `{x,y}b` → xb yb; several braces multiply, leftmost slowest."""
    brace = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if brace is None:
        return [pattern]
    first, last, choices = brace.groups()
    if choices is None:
        choices = [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
    else:
        choices = choices.split(",")
    tails = expand_braces(pattern[brace.end() :])
    return [pattern[: brace.start()] + choice + tail for choice in choices for tail in tails]
