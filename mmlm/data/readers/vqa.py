"""VQAv2: a file of questions and, beside it, one of annotations with their answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmlm.data.readers.fields import existing_file, record_of
from mmlm.data.records import BadRecord, Record


def read_vqa(
    path: Path, content: dict[str, Any], folder: Path, json_of: Callable[[Path], Any]
) -> Iterator[Record | BadRecord]:
    """A record of each picture that is asked about, with all its questions and the answer that most people gave.

    path: NAME_OpenEnded_NAME_questions.json, whose JSON is `content`; its answers lie beside it, in
        NAME_NAME_annotations.json. folder: of the pictures, COCO_SUBSET_NUMBER.jpg, or of a folder SUBSET with them.
    FileNotFoundError without the annotations; ValueError where these are others.
    """
    beside = path.with_name(path.name.replace("OpenEnded_", "").replace("questions", "annotations"))
    if beside == path or not beside.is_file():
        raise FileNotFoundError(f"{path} holds questions, and no {beside} with their answers is there")
    answers = _answers(beside, json_of(beside))
    asked: dict[Any, list[dict[str, Any]]] = {}
    for number, question in enumerate(content["questions"], 1):
        where = f"{path.name} questions[{number}]"
        try:
            pair = {"question": question["question"], "answer": answers[question["question_id"]]}
            asked.setdefault(question["image_id"], []).append(pair)
        except (KeyError, TypeError) as error:
            yield BadRecord(where, f"no question with an image_id, a question_id and an answer ({error!r})")
    subset = content.get("data_subtype")
    for name, pairs in asked.items():
        try:
            yield record_of(f"{name}", _picture(folder, subset, name), {"qa": pairs})
        except ValueError as error:
            yield BadRecord(f"{path.name} image {name}", str(error))


def _answers(path: Path, content: Any) -> dict[Any, Any]:
    """The answer of each question by its id."""
    entries = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f'{path} is not a file of VQA annotations: its "annotations" is no list')
    return {
        entry["question_id"]: entry.get("multiple_choice_answer")
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("question_id"), (int, str))
    }


def _picture(folder: Path, subset: Any, name: Any) -> Any:
    if type(name) is not int or not isinstance(subset, str):
        raise ValueError(f"its picture is {name!r:.40} of {subset!r:.40}, not a number of a subset such as train2014")
    below, *others = picture_names(name, subset)
    return existing_file(folder, below if (folder / below).is_file() else others[0])


def picture_names(number: int, subset: str) -> list[str]:
    """Where COCO's picture of this number may lie: in a folder of its subset ("val2014"), or without one."""
    file = f"COCO_{subset}_{number:012d}.jpg"
    return [f"{subset}/{file}", file]
