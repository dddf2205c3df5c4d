"""Names of frozen parts in a saved model: a path to a part that lies near the model starts from the model's folder."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Collection
from pathlib import Path

from mmlm.assembly.config import FrozenPart, ModelConfig

# A path, or a path after "ARCHITECTURE/", as image encoders have it.
ABSOLUTE = re.compile(r"((?:[^/]+/)?)(/.*)", re.DOTALL)
RELATIVE = re.compile(r"((?:[^/.][^/]*/)?)(\.\.?/.*)", re.DOTALL)
UPWARDS = 2  # how far up "near" reaches: the folder of a run that holds the model, and the folder of all runs


def path_in(name: str) -> str | None:
    """The path from the root that a name is, or holds; None for hub ids, presets and published weights."""
    match = ABSOLUTE.fullmatch(name)
    return None if match is None else match[2]


def relative_name(name: str, folder: str | Path) -> str:
    """`/runs/1/lm` as `../lm` for a model in `/runs/1/model`; names that are no path, and far ones, as they are."""
    match = ABSOLUTE.fullmatch(name)
    if match is None:
        return name
    start = os.path.realpath(folder)
    path = os.path.relpath(match[2], start)
    above = path.split(os.sep).count(os.pardir)
    near = above <= UPWARDS and len(Path(os.path.commonpath([match[2], start])).parts) > 1
    if not near:
        return name
    return match[1] + (path if above else f"./{path}")


def absolute_name(name: str, folder: str | Path) -> str:
    """The inverse of `relative_name`, wherever the folder is now."""
    match = RELATIVE.fullmatch(name)
    return name if match is None else match[1] + os.path.normpath(os.path.join(os.path.realpath(folder), match[2]))


def with_names(config: ModelConfig, change: Callable[[str], str]) -> ModelConfig:
    """A config in which the name of each frozen part that has one is changed."""
    parts = {
        field.name: dataclasses.replace(part, name=change(part.name))
        for field in dataclasses.fields(config)
        if isinstance(part := getattr(config, field.name), FrozenPart) and part.name is not None
    }
    return dataclasses.replace(config, **parts)


def check_elsewhere(model: str, folder: Path, config: ModelConfig, given: Collection[str]) -> list[str]:
    """What a model of the hub loads from other places than its own folder: "language model from user/name", ….

    given: fields of parts that the caller gives in place of those. ValueError for a part that is named by a path: of
    another machine, or of whatever lies there on this one.
    """
    home, found = Path(os.path.realpath(folder)), []
    for field in dataclasses.fields(config):
        part = getattr(config, field.name)
        if not isinstance(part, FrozenPart) or part.name is None or field.name in given:
            continue
        what, path = field.name.replace("_", " "), path_in(part.name)
        if path is not None and Path(path).is_relative_to(home):
            continue
        if path is not None or Path(part.name).exists() or Path(part.name.partition("/")[2] or ".").is_file():
            raise ValueError(
                f"{model} of the hub names its {what} by the path {part.name!r}, which is not followed: give the part "
                f"with {'codecs' if field.name.endswith(('codec', 'decoder')) else field.name}="
            )
        found.append(f"{what} from {part.name}")
    return found
