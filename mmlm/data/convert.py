"""From any format to WebDataset tars, or to a folder with metadata.jsonl. What is begun is gone on with, or refused."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from decoders.files import told_when_full
from mmlm.data.check import film_at
from mmlm.data.readers import read_records
from mmlm.data.records import BadRecord, FileSlice, Record, RecordSet, RecordSource
from mmlm.data.streams.versions import versions_within
from mmlm.data.written import fields_of, suffix_of

Form = Literal["tar", "jsonl"]

_JOB = "conversion.json"


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote into the folder `output`: good records, and bad ones, which were left out."""

    output: Path
    records: int
    bad: int


def convert_data(
    source: RecordSource,
    output: str | os.PathLike[str],
    *,
    form: Form = "tar",
    images: str | os.PathLike[str] | None = None,
    shard_size: int = 1000,
    bad_limit: float = 0.01,
    told: Callable[[int, int], object] = lambda done, total: None,
) -> Converted:
    """Writes a source, as `read_records` takes it, into the new folder `output`.

    form: "tar" for WebDataset tars of `shard_size` records each, 000000.tar and so on; "jsonl" for media beside a
        metadata.jsonl. Bad records are left out and named in bad_records.jsonl.
    told: is called with the number of records that are written, and that of all.
    The folder appears when it is complete. Until then it is OUTPUT.partial, which the same call goes on with.
    ValueError where `output` is there, or OUTPUT.partial is of another conversion; BadRecordsError above `bad_limit`.
    """
    output = Path(output)
    if form not in ("tar", "jsonl"):
        raise ValueError(f"form is 'tar' or 'jsonl', not {form!r}")
    if shard_size < 1:
        raise ValueError(f"shard_size must be at least 1, not {shard_size}")
    if output.exists():
        raise ValueError(f"{output} is there already: give the name of a new folder")
    records = read_records(source, images=images, bad_limit=bad_limit)
    partial = output.with_name(output.name + ".partial")
    with told_when_full(partial):
        good = _write(records, partial, form, shard_size, told)
        good.check(bad_limit)
        _finish(partial, good.bad)
        os.replace(partial, output)
    return Converted(output, records.total - len(good.bad), len(good.bad))


def _write(
    records: RecordSet, partial: Path, form: Form, shard_size: int, told: Callable[[int, int], object]
) -> RecordSet:
    """Writes what is not written yet. As many records as could be written, and all that are bad."""
    data = {"data": records.fingerprint(), "files": versions_within(records)}
    _begin(partial, {**data, "form": form, "shard_size": shard_size})
    write = _write_tar if form == "tar" else _write_lines
    bad: list[BadRecord] = []
    for number, start in enumerate(range(0, len(records), shard_size)):
        done = partial / f".{number:06d}.done"
        if not done.exists():
            found = write(partial, number, records[start : start + shard_size], start)
            _write_whole(done, json.dumps([dataclasses.astuple(one) for one in found]).encode())
        bad += [BadRecord(*one) for one in json.loads(done.read_bytes())]
        told(min(start + shard_size, len(records)), len(records))
    left = records.records[: len(records) - len(bad)]  # as many: two may have one key
    return RecordSet(left, (*records.bad, *bad))


def _begin(partial: Path, job: dict[str, object]) -> None:
    mark = partial / _JOB
    if partial.exists() and not mark.exists() and any(partial.iterdir()):
        raise ValueError(f"{partial} is in the way: remove it, or give another output")
    partial.mkdir(parents=True, exist_ok=True)
    if not mark.exists():
        _write_whole(mark, json.dumps(job).encode())
    if json.loads(mark.read_bytes()) != job:
        raise ValueError(
            f"{partial} was begun with other data or settings: remove it, or give the same again to go on with it"
        )


def _finish(partial: Path, bad: Sequence[BadRecord]) -> None:
    """Joins the lines, names what is bad, and takes the marks away."""
    parts = sorted(partial.glob(".*.lines"))
    if parts:
        _write_whole(partial / "metadata.jsonl", b"".join(part.read_bytes() for part in parts))
    if bad:
        lines = [json.dumps(dataclasses.asdict(one), ensure_ascii=False) + "\n" for one in bad]
        _write_whole(partial / "bad_records.jsonl", "".join(lines).encode(errors="backslashreplace"))
    for path in (*parts, *partial.glob(".*.done"), *partial.glob(".*.tmp"), partial / _JOB):
        path.unlink(missing_ok=True)


def _write_tar(folder: Path, number: int, records: Sequence[Record], start: int) -> list[BadRecord]:
    """One tar, whole or not at all, and the records that it lacks."""
    temporary = folder / f".{number:06d}.tmp"
    with tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as tar:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))

        bad = _each(records, start, add, members=True)
    os.replace(temporary, folder / f"{number:06d}.tar")
    return bad


def _write_lines(folder: Path, number: int, records: Sequence[Record], start: int) -> list[BadRecord]:
    """Media of some records, and their lines in a file of their own."""
    lines: list[bytes] = []
    (folder / "media").mkdir(exist_ok=True)

    def add(name: str, data: bytes) -> None:
        if name.endswith(".json"):
            lines.append(data + b"\n")
        else:
            _write_whole(folder / name, data)

    bad = _each(records, start, add, members=False)
    _write_whole(folder / f".{number:06d}.lines", b"".join(lines))
    return bad


def _each(records: Sequence[Record], start: int, add: Callable[[str, bytes], None], members: bool) -> list[BadRecord]:
    """Adds the media of each record and its fields, and returns the records whose media cannot be read."""
    bad = []
    for number, record in enumerate(records, start):
        key = f"{number:09d}" if members else f"media/{number:09d}"
        try:
            media = [_medium(place, members) for _, place in record.places]
            several = bool(record.script)
            names = [f"{index}.{suffix}" if several else suffix for index, (suffix, _) in enumerate(media)]
            fields = fields_of(record, names if members else [f"{key}.{name}" for name in names], members)
        except (OSError, ValueError) as error:
            bad.append(BadRecord(record.key, str(error)))
            continue
        for name, (_, data) in zip(names, media, strict=True):
            add(f"{key}.{name}", data)
        add(f"{key}.json", json.dumps(fields, ensure_ascii=False).encode())
    return bad


def _medium(place: FileSlice | bytes, members: bool) -> tuple[str, bytes]:
    """Its suffix and bytes."""
    if members and film_at(place) is not None:
        raise ValueError('in tars a film is read as its sound: write it with form="jsonl"')
    data = place if isinstance(place, bytes) else place.read()
    return suffix_of(place, data), data


def _write_whole(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name.lstrip('.')}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
