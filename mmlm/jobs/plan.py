"""What a job is: its shards, and what must be the same for it to be gone on with."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mmlm.data.find import sources_in
from mmlm.data.readers.jsonl import Piece
from mmlm.data.readers.paths import without_secrets
from mmlm.data.records import BadRecord
from mmlm.data.streams import Shard
from mmlm.data.streams.shards import is_remote
from mmlm.data.streams.versions import check_version, version_changed, versions_of
from mmlm.jobs.files import create
from mmlm.jobs.items import OTHERS, Item, Modality, Source, items, pieces
from mmlm.jobs.leases import Leases
from mmlm.jobs.remote import RemoteTar, make_indexes, remote_shards

NAME = "job.json"
INDEXES = "index"  # the folder of the indexes of tars at addresses
WAIT = 0.5  # seconds between looks at what another process does

SUFFIXES = {"image": (".tar", ".jsonl", ".json"), "audio": (".tar", ".jsonl")}  # .json: COCO captions


@dataclass(frozen=True)
class Job:
    """What is to be done, as job.json keeps it.

    identity: what it is done with, as JSON: "verb", "options", and "model" when it is known.
    """

    data: str
    modality: Modality
    identity: Mapping[str, Any]
    shard_size: int

    @cached_property
    def sources(self) -> Sequence[Path | Shard]:
        """The files of the data, or its tars at addresses, in order.

        Errors are those of `sources_in` and `remote_shards`, and ValueError for another format.
        """
        if is_remote(self.data):
            return remote_shards(self.data)
        found, known = list(sources_in(self.data)), SUFFIXES[self.modality]
        if (other := next((path for path in found if path.suffix not in known), None)) is not None:
            raise ValueError(f"{other}: a job reads {', '.join(known)} and folders with a metadata.jsonl; {OTHERS}")
        return found

    def described(self) -> dict[str, Any]:
        """The identity with that of the data, which are the `versions_of` its files."""
        return json.loads(
            json.dumps({**self.identity, "data": versions_of(self.sources), "shard_size": self.shard_size})
        )


@dataclass(frozen=True)
class Plan:
    """The shards of a job, each as (number of its source, piece of it). versions: of the sources, as `version_of`."""

    sources: Sequence[Source]
    shards: Sequence[tuple[int, Piece]]
    versions: Sequence[dict[str, Any]]

    @property
    def total(self) -> int:
        """How many items there are."""
        return sum(piece.count for _, piece in self.shards)

    def items(self, shard: int, modality: Modality, suffixes: Sequence[str]) -> list[Item | BadRecord]:
        """The items of a shard; see `mmlm.jobs.items.items`."""
        source, piece = self.shards[shard]
        return items(self.sources[source], piece, modality, suffixes)

    def check(self, shard: int) -> None:
        """UnreachableError where the source of a shard is not the one that the job was opened with."""
        number, _ = self.shards[shard]
        source = self.sources[number]
        check_version(source.shard if isinstance(source, RemoteTar) else source, self.versions[number])


def check_job(folder: Path, job: Job) -> bool:
    """Whether the folder holds this job already. ValueError, which names what differs, where it holds another one.

    What an identity leaves out is not compared.
    """
    return _is_held(folder, job.described())


def open_job(
    folder: Path,
    job: Job,
    leases: Leases,
    model: Callable[[], Mapping[str, Any]],
    counted: Callable[[int, int], object] = lambda done, total: None,
) -> Plan:
    """The plan of the job that the folder holds, which is made if there is none; errors are those of `check_job`.

    Where several processes begin at once, one makes it and the others wait. ValueError where there are no items.
    model: what identifies the model, which is loaded for it only when all else is known to be right.
    counted: is told how many of how many tars at addresses are indexed.
    """
    sources = [RemoteTar(one, folder / INDEXES) if isinstance(one, Shard) else one for one in job.sources]
    while not check_job(folder, job):
        with leases.take("plan") as ours:
            if ours:
                described = job.described()  # before anything is read of what it describes
                make_indexes([one for one in sources if isinstance(one, RemoteTar)], counted)
                shards = [
                    [number, *astuple(piece)]
                    for number, source in enumerate(sources)
                    for piece in pieces(source, job.shard_size)
                ]
                if not shards:
                    raise ValueError(f"{without_secrets(job.data)} holds no records")
                made = {**described, "model": model(), "shards": shards}
                create(folder / NAME, json.dumps(made).encode())
        if not ours:
            model()  # meanwhile
            time.sleep(WAIT)
    described = {**job.described(), "model": model()}
    _is_held(folder, described)
    kept = _kept(folder)
    assert kept is not None, "it was there before"
    return Plan(sources, [(source, Piece(*piece)) for source, *piece in kept["shards"]], [*described["data"].values()])


def _is_held(folder: Path, described: Mapping[str, Any]) -> bool:
    known = _kept(folder)
    if known is None:
        return False
    differences = [_difference(name, known.get(name), now) for name, now in described.items()]
    if any(differences):
        raise ValueError(
            f"{folder} holds another job ({'; '.join(filter(None, differences))}). To go on with it, give what it was "
            "begun with; for a new job, choose another folder"
        )
    return True


def _kept(folder: Path) -> dict[str, Any] | None:
    """What job.json holds; None where it is not there. ValueError for a folder that is in use for something else."""
    path = folder / NAME
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict) or not isinstance(found.get("shards"), list):
            raise ValueError("it holds no shards")
        return found
    except FileNotFoundError:
        own = ("leases", INDEXES)
        if folder.is_dir() and any(not name.startswith(".") for name in os.listdir(folder) if name not in own):
            raise ValueError(f"{folder} holds files of something else: choose another folder") from None
        return None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): choose another folder") from error


def _difference(name: str, before: Any, now: Any) -> str:
    """What differs, in words; empty where nothing does."""
    if before == now:
        return ""
    if isinstance(before, dict) and isinstance(now, dict):
        changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        told = [_told(key, before.get(key), now.get(key)) for key in changed[:3]]
        return f"{name}: {', '.join(told)}{f', and {len(changed) - 3:,} more' * (len(changed) > 3)}"
    return _told(name, before, now)


def _told(name: str, before: Any, now: Any) -> str:
    if isinstance(before, dict) or isinstance(now, dict):
        return version_changed(name, before, now)
    return f"{name} was {_in_words(before)}, now {_in_words(now)}"


def _in_words(value: Any) -> str:
    """A value of an option: a text as it is, without the signs of JSON."""
    if value is None or isinstance(value, bool):
        return {None: "not given", True: "on", False: "off"}[value]
    return ", ".join(map(str, value))[:80] if isinstance(value, list) else str(value)[:80]
