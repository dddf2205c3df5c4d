"""WebDataset tars, indexed so that any member can be read alone."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from mmlm.data.readers.fields import json_object, record_of
from mmlm.data.readers.paths import IMAGE_SUFFIXES, SOUND_SUFFIXES
from mmlm.data.records import BadRecord, FileSlice, Record


def read_tar(path: Path) -> Iterator[Record | BadRecord]:
    """The records of a tar. Members of one key are one record."""
    for key, members in index_tar(path).items():
        where = f"{path.name} {key}"
        try:
            twice = [suffix for suffix, slices in members.items() if len(slices) > 1]
            if twice:
                raise ValueError(f"several members are named {key}.{twice[0]}")
            pictures = [suffix for suffix in members if suffix in IMAGE_SUFFIXES]
            sounds = [suffix for suffix in members if suffix in SOUND_SUFFIXES]
            if not pictures + sounds:
                raise ValueError(f"no picture and no recording (members: {', '.join(members)})")
            for several, name in ((pictures, "pictures"), (sounds, "recordings")):
                if len(several) > 1:
                    raise ValueError(f"{len(several)} {name} (members: {', '.join(members)})")
            if not members.keys() & {"json", "txt"}:
                raise ValueError(f"no text: neither {key}.json nor {key}.txt")
            fields = json_object(members["json"][0].read()) if "json" in members else {}
            if "txt" in members:
                fields["text"] = members["txt"][0].read().decode("utf-8").strip()
            picture, sound = (members[own[0]][0] if own else None for own in (pictures, sounds))
            yield record_of(key, picture, fields, sound)
        except ValueError as error:
            yield BadRecord(where, str(error))


def index_tar(path: Path) -> dict[str, dict[str, list[FileSlice]]]:
    """{key: {suffix: where the members lie}}, in the order of the tar. A key is the name up to its first dot.

    ValueError where the tar is damaged, compressed or truncated.
    """
    index: dict[str, dict[str, list[FileSlice]]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, name = os.path.split(member.name)
                if not member.isfile() or name.startswith("."):
                    continue
                stem, _, suffix = name.partition(".")
                place = FileSlice(path, member.offset_data, member.size)
                index.setdefault(os.path.join(folder, stem), {}).setdefault(suffix.lower(), []).append(place)
    except tarfile.TarError as error:
        raise ValueError(f"{path} is damaged or not a plain tar ({error}); fetch or write it again") from error
    # tarfile does not notice a file that is cut between two members. Only the zeros at the end of a tar show it.
    with open(path, "rb") as file:
        file.seek(-min(1024, path.stat().st_size), os.SEEK_END)
        if file.read().strip(b"\0"):
            raise ValueError(f"{path} has no end mark: it is truncated; fetch or write it again")
    return index
