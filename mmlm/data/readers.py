"""Readers: JSONL manifests, folders with metadata.jsonl, WebDataset tars and COCO captions, all to one RecordSet.

A container that cannot be read to its end (a truncated tar, a JSON file that does not parse) is an error, for nobody
can say how many records it lost. A record that cannot be used is counted and named; too many of them are an error.
"""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from encoders.media.sound import SUFFIXES
from mmlm.data.records import BadRecord, FileSlice, Record, RecordSet

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
SOUND_SUFFIXES = (*SUFFIXES, "webm", "mp4")

Found = Iterator[Record | BadRecord]


def read_records(
    source: str | os.PathLike | RecordSet | Sequence,
    *,
    images: str | os.PathLike | None = None,
    bad_limit: float = 0.01,
) -> RecordSet:
    """Read paired data.

    source: one of, or a list of (they are concatenated)
      - `pairs.jsonl`: a line is {"image": "photos/1.jpg", ...} with any of "caption", "captions",
        "question" + "answer", "qa": [{"question", "answer" or "answers"}]; "file_name" and "text" are taken for
        "image" and "caption". Paths are relative to the manifest. Several "answers" are one, said together ("book,
        scissors"); for alternatives, of which one would do, give one "answer" or a "qa" entry for each.
        With or in place of the picture {"audio": "speech/1.flac"}: then "transcript" is what is said in it ("text" too
        where there is no picture), and an "answer" without a "question" answers what the recording asks;
      - a folder with such a `metadata.jsonl` (the Hugging Face ImageFolder layout);
      - WebDataset tars, `train-{000000..000003}.tar` or `train-*.tar`: KEY.jpg (png, …), KEY.flac (wav, mp3, …) or
        both beside KEY.json (fields as above) or KEY.txt (one caption, or what is said). Tars are indexed, so that
        access is random; they must not be compressed;
      - a COCO captions `.json`: {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]};
      - a RecordSet, or Records.
    images: the folder that picture paths of JSONL and COCO files start from; where the file lies by default.
    bad_limit: the share of bad records (0–1) above which BadRecordsError names them.

    A record is bad when its picture or recording is missing, its JSON does not parse, it has no text or an empty one.
    Media are not decoded here; training does that, before its first step, and counts those that fail in the same way.
    """
    if isinstance(source, RecordSet):
        return source.check(bad_limit)
    found = list(_read_any(source, None if images is None else Path(images)))
    records = tuple(item for item in found if isinstance(item, Record))
    bad = tuple(item for item in found if isinstance(item, BadRecord))
    return RecordSet(records, bad).check(bad_limit)


def _read_any(source, images: Path | None) -> Found:
    if isinstance(source, RecordSet):
        yield from source.records
        yield from source.bad
    elif isinstance(source, Record):
        yield source
    elif isinstance(source, (str, os.PathLike)):
        for path in expand(os.fspath(source)):
            yield from _read_path(path, images)
    elif isinstance(source, Iterable) and not isinstance(source, (bytes, dict)):
        for part in source:
            yield from _read_any(part, images)
    else:
        raise TypeError(f"data must be a path, a pattern, Records, or a list of those, not {type(source).__name__}")


def expand(pattern: str) -> list[Path]:
    """Paths of a name that may hold `{000..003}`, `{a,b}` and the wildcards * ? [ ]; all must exist."""
    paths = []
    for name in expand_braces(os.path.expanduser(pattern)):
        # A path that exists is taken as it is, so that "photos [2]" needs no escaping.
        matches = [name] if os.path.exists(name) else sorted(glob.glob(name)) if glob.has_magic(name) else []
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


def _read_path(path: Path, images: Path | None) -> Found:
    if path.is_dir():
        manifest = path / "metadata.jsonl"
        if not manifest.is_file():
            raise FileNotFoundError(f"{path} holds no metadata.jsonl; give a manifest, tars or a COCO captions file")
        return _read_jsonl(manifest, images)
    readers = {".jsonl": _read_jsonl, ".json": _read_coco, ".tar": _read_tar}
    if path.suffix not in readers:
        hint = "; unpack it first" if path.suffix in (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip") else ""
        raise ValueError(f"{path}: not one of .jsonl, .json (COCO captions), .tar or a folder{hint}")
    return readers[path.suffix](path, images)


def _read_jsonl(path: Path, images: Path | None) -> Found:
    folder = path.parent if images is None else images
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path.name}:{number}"
            try:
                fields = _json_object(line)
                name, sound = fields.get("image", fields.get("file_name")), fields.get("audio")
                if not any(isinstance(value, str) and value for value in (name, sound)):
                    raise ValueError('no picture or recording: none of "image", "file_name" and "audio" names a file')
                heard = sound and _file(folder, sound, "recording")
                yield _record(name or sound, name and _file(folder, name), fields, heard)
            except ValueError as error:
                yield BadRecord(where, str(error))


def _read_coco(path: Path, images: Path | None) -> Found:
    folder = path.parent if images is None else images
    try:
        content = json.loads(path.read_bytes())
        names = {image["id"]: image["file_name"] for image in content["images"]}
        annotations = [(annotation["image_id"], annotation.get("caption")) for annotation in content["annotations"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a COCO captions file ({type(error).__name__}: {error})") from error
    if len(names) != len(content["images"]):
        raise ValueError(f"{path}: {len(content['images']) - len(names)} images share the id of another")
    captions: dict[Any, list] = {image_id: [] for image_id in names}
    for image_id, caption in annotations:
        if image_id in captions:
            captions[image_id].append(caption)
        else:
            yield BadRecord(f"{path.name} image {image_id}", "a caption for an image that the file does not list")
    for image_id, name in names.items():
        try:
            if not isinstance(name, str) or not name:
                raise ValueError(f"its file_name is {name!r}")
            yield _record(name, _file(folder, name), {"captions": captions[image_id]})
        except ValueError as error:
            yield BadRecord(f"{path.name} image {image_id}", str(error))


def _read_tar(path: Path, images: Path | None) -> Found:
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
            fields = _json_object(members["json"][0].read()) if "json" in members else {}
            if "txt" in members:
                fields["text"] = members["txt"][0].read().decode("utf-8").strip()
            picture, sound = (members[own[0]][0] if own else None for own in (pictures, sounds))
            yield _record(key, picture, fields, sound)
        except ValueError as error:
            yield BadRecord(where, str(error))


def index_tar(path: Path) -> dict[str, dict[str, list[FileSlice]]]:
    """{key: {suffix: places}} of a tar, in its order. WebDataset's keys: the name up to its first dot."""
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
    # tarfile takes a file cut between two members for a whole one; only the block of zeros at the end tells.
    with open(path, "rb") as file:
        file.seek(-min(1024, path.stat().st_size), os.SEEK_END)
        if file.read().strip(b"\0"):
            raise ValueError(f"{path} has no end mark: it is truncated; fetch or write it again")
    return index


def _file(folder: Path, name: Any, medium: str = "picture") -> FileSlice:
    if not isinstance(name, str):
        raise ValueError(f"the name of a {medium} is {name!r}")
    path = folder / name
    try:
        found = path.is_file()
    except OSError as error:  # a name too long for any file: a data: URL, for one
        raise ValueError(f"no {medium} at {str(path)[:80]}… ({error.strerror})") from error
    if not found:
        raise ValueError(f"no {medium} at {path}")
    return FileSlice(path)


def _json_object(text: str | bytes) -> dict:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise ValueError(f"unreadable JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError(f"the JSON is a {type(fields).__name__}, not an object")
    return fields


def _record(key: str, picture: FileSlice | None, fields: dict, sound: FileSlice | None = None) -> Record:
    transcript, reply = fields.get("transcript"), None
    described = ("caption", "text")
    if picture is None and transcript is None:
        transcript, described = fields.get("text"), ("caption",)
    captions = [fields[name] for name in described if name in fields]
    captions += _list(fields, "captions")
    pairs = [(item.get("question"), item.get("answer", item.get("answers"))) if isinstance(item, dict) else item
             for item in _list(fields, "qa")]
    if sound is not None and "question" not in fields and "answer" in fields:
        reply = _text(fields["answer"], "answer")
    elif "question" in fields or "answer" in fields or "answers" in fields:
        pairs.append((fields.get("question"), fields.get("answer", fields.get("answers"))))
    qa = []
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise ValueError('an entry of "qa" is neither {"question", "answer"} nor a pair')
        question, answer = pair
        # Several answers are one: all of them together ("book, scissors").
        answers = answer if isinstance(answer, list) and answer else [answer]
        qa.append((_text(question, "question"), ", ".join(_text(one, "answer") for one in answers)))
    transcript = None if transcript is None else _text(transcript, "transcript")
    captions = tuple(_text(caption, "caption") for caption in captions)
    return Record(key, picture, captions, tuple(qa), sound, transcript, reply)


def _list(fields: dict, name: str) -> list:
    value = fields.get(name, [])
    if not isinstance(value, list):
        raise ValueError(f'"{name}" is not a list')
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a {what} that is not text" if value is not None else f"a {what} is missing")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a {what} that is not valid Unicode") from error
    return value.strip()
