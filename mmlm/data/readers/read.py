"""`read_records`: one RecordSet from any source of paired data."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from encoders.files import check_regular
from mmlm.data.readers.json_file import read_json
from mmlm.data.readers.jsonl import read_jsonl
from mmlm.data.readers.parquet import read_parquet
from mmlm.data.readers.paths import expand
from mmlm.data.readers.tar import read_tar
from mmlm.data.records import BadRecord, BadRecordsError, Record, RecordSet, RecordSource


def read_records(
    source: RecordSource,
    *,
    images: str | os.PathLike[str] | None = None,
    bad_limit: float = 0.01,
) -> RecordSet:
    """Read paired data.

    source: one of the following, or a list of them, which is concatenated
      - `pairs.jsonl`: each line is {"image": "photos/1.jpg", ...} with any of "caption", "captions",
        "question" + "answer", "qa": [{"question", "answer" or "answers"}]. "file_name" and "text" also work for
        "image" and "caption". Paths are relative to the manifest. A list of "answers" is joined to one answer ("book,
        scissors"). For alternatives, any of which is right, give an "answer" or a "qa" entry for each.
        {"audio": "speech/1.flac"} stands beside "image" or in place of it. Then "transcript" is what is said in it
        ("text" also works where there is no picture), and an "answer" without a "question" answers the question that
        the recording asks;
      - a folder with such a `metadata.jsonl` (the Hugging Face ImageFolder layout);
      - WebDataset tars, `train-{000000..000003}.tar` or `train-*.tar`: KEY.jpg (png, …), KEY.flac (wav, mp3, …) or
        both, with KEY.json (fields as above) or KEY.txt (one caption, or what is said). Tars are indexed for random
        access, so they must not be compressed;
      - a COCO captions `.json`: {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]};
      - VQAv2's `…_questions.json`, with `…_annotations.json` beside it; LLaVA's list of conversations, a `.json`;
      - a `.parquet` with columns of pictures and recordings, as the `datasets` library writes them (needs pyarrow);
      - a RecordSet, or Records.
    images: the folder that picture paths of JSONL and COCO files are relative to. By default the file's own folder.
    bad_limit: the share of bad records (0–1) above which BadRecordsError is raised, with their names.

    Lines, tars and rows may also hold conversations of several turns and media ("messages" or "conversations"), and
    documents of texts and pictures ("texts" + "images", "text_list" + "image_info"): see docs/data.md.

    A record is bad if its picture or recording is missing, its JSON does not parse, or it has no text or an empty one.
    Media are not decoded here. Training decodes them before its first step and counts those that fail in the same way.
    FileNotFoundError where no file matches; ValueError where a file is damaged or of another format.
    """
    if isinstance(source, RecordSet):
        return source.check(bad_limit)
    found = list(_read_any(source, None if images is None else Path(images)))
    if not found and isinstance(source, str | os.PathLike):
        raise BadRecordsError(f"there are no records to use in {os.fspath(source)}")
    records = tuple(item for item in found if isinstance(item, Record))
    bad = tuple(item for item in found if isinstance(item, BadRecord))
    return RecordSet(records, bad).check(bad_limit)


def _read_any(source: RecordSource, images: Path | None) -> Iterator[Record | BadRecord]:
    if isinstance(source, RecordSet):
        yield from source.records
        yield from source.bad
    elif isinstance(source, Record):
        yield source
    elif isinstance(source, (str, os.PathLike)):
        for path in expand(os.fspath(source)):
            yield from read_path(path, images)
    elif isinstance(source, Iterable) and not isinstance(source, (bytes, dict)):
        for part in source:
            yield from _read_any(part, images)
    else:
        raise TypeError(f"data must be a path, a pattern, Records, or a list of those, not {type(source).__name__}")


def read_path(path: Path, images: Path | None = None) -> Iterator[Record | BadRecord]:
    """The records of one file or folder, and the bad ones, in turn; see `read_records`."""
    if path.is_dir():
        manifest = path / "metadata.jsonl"
        if not manifest.is_file():
            raise FileNotFoundError(f"{path} holds no metadata.jsonl; give a manifest, tars or a COCO captions file")
        return read_jsonl(manifest, images)
    check_regular(path)
    if path.suffix == ".jsonl":
        return read_jsonl(path, images)
    if path.suffix == ".json":
        return read_json(path, images)
    if path.suffix == ".parquet":
        return read_parquet(path, images)
    if path.suffix == ".tar":
        return read_tar(path)
    hint = "; unpack it first" if path.suffix in (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip") else ""
    raise ValueError(f"{path}: not one of .jsonl, .json (COCO, VQAv2, LLaVA), .parquet, .tar or a folder{hint}")
