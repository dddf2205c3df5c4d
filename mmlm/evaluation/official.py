"""Files in official form: COCO captions, VQAv2 questions and annotations, transcripts, and results for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from encoders.files import check_regular
from mmlm.data.readers.vqa import answers_of, picture_names, question_of
from mmlm.data.records import FileSlice, Record, Text
from mmlm.evaluation.cases import Case, Key

ID = {"captions": "image_id", "vqa": "question_id", "asr": "id"}
TEXT = {"captions": "caption", "vqa": "answer", "asr": "text"}
"""The fields of a result, by suite."""
FORM = {"images": "COCO captions", "questions": "VQAv2's questions", "annotations": "annotations of COCO or VQAv2"}
"""What a file is that holds such a list."""

T = TypeVar("T")


def read_predictions(path: str | Path, suite: str) -> dict[Key, str]:
    """Results in official form, a JSON list, or JSON lines: `[{"image_id", "caption"}]`, `[{"question_id", "answer"}]`,
    `[{"id", "text"}]`. Of transcripts, also lines `ID the words` (.txt), as Kaldi and LibriSpeech have them.

    ValueError where an entry has another form, or two have one id.
    """
    path = _checked(path)
    if suite == "asr" and path.suffix == ".txt":
        return _unique(path, (_id_and_words(line) for line in _lines(path)))
    entries = _entries(path)
    names = (ID[suite], "audio") if suite == "asr" else (ID[suite],)
    texts = (TEXT[suite], "transcript") if suite == "asr" else (TEXT[suite],)
    return _unique(path, (_result(path, number, entry, names, texts) for number, entry in enumerate(entries, 1)))


def read_transcripts(path: str | Path) -> list[Case]:
    """What is said in recordings, in the forms of `read_predictions`."""
    found = read_predictions(path, "asr")
    return [Case(key, (text,), unit=key) for key, text in found.items() if text.strip()]


def read_captions(path: str | Path, images: str | Path | None = None) -> list[Case]:
    """A COCO captions file: `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}`.

    images: the folder of the pictures; without it the cases have none, and predictions alone can be judged.
    FileNotFoundError, with their number and the first of their names, where pictures are missing.
    """
    path = _checked(path)
    content = _object(path)
    names = _fields(path, content, "images", lambda one: (one["id"], str(one.get("file_name", one["id"]))))
    captions: dict[Key, list[str]] = {}
    for image, caption in _fields(path, content, "annotations", lambda one: (one["image_id"], one["caption"].strip())):
        captions.setdefault(image, []).extend([caption] * bool(caption))
    if blank := [image for image, own in captions.items() if not own]:
        raise ValueError(f"{path}: {len(blank)} images have empty captions alone; first {blank[0]}: remove them")
    named = dict(names)
    if unknown := [image for image in captions if image not in named]:
        raise ValueError(f"{path}: {len(unknown)} images with captions are not among its images; first {unknown[0]}")
    places = _pictures({image: [named[image]] for image in captions}, images)
    found = []
    for image, own in captions.items():
        place = places.get(image)
        record = None if place is None else Record(str(named[image]), place, tuple(own))
        found.append(Case(image, tuple(own), None, image, place, None, record, Text("caption", own[0])))
    return found


def read_vqa(
    annotations: str | Path, questions: str | Path | None = None, images: str | Path | None = None
) -> list[Case]:
    """VQAv2's annotations, `{"annotations": [{"question_id", "image_id", "answers": [{"answer"}]}]}`, with the file of
    questions, `{"questions": [{"question_id", "image_id", "question"}]}`, and the folder of the pictures.

    Pictures are `COCO_val2014_000000000042.jpg` and the like, or `42.jpg`. Errors are those of `read_captions`.
    """
    path = _checked(annotations)
    content = _object(path)
    given = _fields(path, content, "annotations", lambda one: (*answers_of(one), one["image_id"]))
    answers = {key: (image, said) for key, said, image in given}
    asked: dict[Key, str] = {}
    if questions is not None:
        file = _checked(questions)
        asked = {key: str(words) for key, _, words in _fields(file, _object(file), "questions", question_of)}
        if missing := [key for key in answers if key not in asked]:
            raise ValueError(
                f"{len(missing)} of {len(answers)} annotated questions are not in {file}: first {missing[0]}"
            )
    subset = str(content.get("data_subtype", ""))
    places = _pictures({image: _coco_names(image, subset) for image, _ in answers.values()}, images)
    found = []
    for key, (image, said) in answers.items():
        place, question = places.get(image), asked.get(key)
        text = None if question is None else Text("question", said[0], question)
        record = None if place is None or question is None else Record(str(image), place, (), ((question, said[0]),))
        found.append(Case(key, said, question, image, place, None, record, text))
    return found


def results_of(suite: str, predictions: Mapping[Key, str]) -> list[dict[str, Any]]:
    """Predictions in the form that `read_predictions` reads."""
    return [{ID.get(suite, "id"): key, TEXT.get(suite, "text"): text} for key, text in predictions.items()]


def _coco_names(image: Key, subset: str) -> list[str]:
    plain = [f"{image}{suffix}" for suffix in ("", ".jpg", ".png")]
    if not isinstance(image, int):
        return plain
    subsets = [subset] if subset else ["val2014", "train2014", "test2015"]
    return [*(name for own in subsets for name in picture_names(image, own)), f"{image:012d}.jpg", *plain]


def _pictures(names: Mapping[Key, list[str]], folder: str | Path | None) -> dict[Key, FileSlice]:
    """The first of the names of each picture that is a file in the folder."""
    if folder is None:
        return {}
    home = Path(folder).expanduser()
    if not home.is_dir():
        raise FileNotFoundError(f"{home}: no such folder of pictures")
    found, missing = {}, []
    for image, choices in names.items():
        place = next((home / name for name in choices if (home / name).is_file()), None)
        if place is None:
            missing.append(choices[0])
        else:
            found[image] = FileSlice(place)
    if missing:
        raise FileNotFoundError(f"{len(missing)} of {len(names)} pictures are not in {home}: first {missing[0]}")
    return found


def _id_and_words(line: str) -> tuple[Key, str]:
    key, *words = line.split(None, 1)
    return key, "".join(words).strip()


def _result(path: Path, number: int, entry: Any, names: Iterable[str], texts: Iterable[str]) -> tuple[Key, str]:
    fields = entry if isinstance(entry, dict) else {}
    key = next((fields[name] for name in names if name in fields), None)
    text = next((fields[name] for name in texts if name in fields), None)
    if not isinstance(key, int | str) or not isinstance(text, str):
        wanted = " and ".join(f'"{" or ".join(own)}"' for own in (names, texts))
        raise ValueError(f"{path}: entry {number} has no {wanted}: {str(entry)[:80]}")
    return key, text


def _unique(path: Path, pairs: Iterable[tuple[Key, str]]) -> dict[Key, str]:
    found: dict[Key, str] = {}
    for key, text in pairs:
        if key in found:
            raise ValueError(f"{path}: two entries are of {key!r}")
        found[key] = text
    if not found:
        raise ValueError(f"{path} has no entries")
    return found


def _checked(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    check_regular(path)
    return path


def _entries(path: Path) -> list[Any]:
    if path.suffix == ".jsonl":
        return [_parsed(path, line) for line in _lines(path)]
    content = _parsed(path, _text(path))
    if not isinstance(content, list):
        raise ValueError(f"{path} is no list of results")
    return content


def _object(path: Path) -> dict[str, Any]:
    content = _parsed(path, _text(path))
    return content if isinstance(content, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # with the mark that some programs put first
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}); save it as that") from error


def _lines(path: Path) -> list[str]:
    """The lines that are not empty. Some characters of texts, such as U+2028, end a line for `splitlines` alone."""
    return [line for line in _text(path).split("\n") if line.strip()]


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error})") from error


def _fields(path: Path, content: dict[str, Any], name: str, of: Callable[[dict[str, Any]], T]) -> list[T]:
    """What `of` takes from each entry of a list. ValueError where there is no such list, or an entry lacks a field."""
    entries, found = content.get(name), []
    if not isinstance(entries, list) or not entries:
        raise ValueError(f'{path} has no "{name}", so it is no file of {FORM[name]}')
    for number, entry in enumerate(entries, 1):
        try:
            found.append(of(entry))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: {name}[{number}] lacks a field ({error!r})") from error
    return found
