"""VQAv2: a file of questions and, beside it, one of annotations with their answers."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmlm.data.readers.fields import existing_file, record_of, text_of
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
    answers = _most_given(beside, json_of(beside))
    asked: dict[Any, list[dict[str, Any]]] = {}
    for number, question in enumerate(content["questions"], 1):
        where = f"{path.name} questions[{number}]"
        try:
            key, image, words = question_of(question)
            pair = {"question": text_of(words, "question"), "answer": text_of(answers[key], "answer")}
            if not all(pair.values()):
                raise ValueError("an empty question or answer")
            asked.setdefault(image, []).append(pair)
        except (KeyError, TypeError) as error:
            yield BadRecord(where, f"no question with an image_id, a question_id and an answer ({error!r})")
        except ValueError as error:
            yield BadRecord(where, str(error))
    subset = content.get("data_subtype")
    for name, pairs in asked.items():
        try:
            yield record_of(f"{name}", _picture(folder, subset, name), {"qa": pairs})
        except ValueError as error:
            yield BadRecord(f"{path.name} image {name}", str(error))


def question_of(entry: Any) -> tuple[Any, Any, Any]:
    """The id of a question, that of its picture, and its words. KeyError or TypeError for what is no question."""
    return entry["question_id"], entry["image_id"], entry["question"]


def answers_of(entry: Any) -> tuple[Any, tuple[str, ...]]:
    """The id of an annotated question and all answers to it, first the one that is given for the right one: that which
    most people gave. KeyError, TypeError or AttributeError for what is no annotation.
    """
    said = [str(own["answer"] if isinstance(own, Mapping) else own) for own in entry.get("answers") or ()]
    most = entry.get("multiple_choice_answer")
    if most is None and not said:
        raise KeyError("answers")
    best = Counter(said).most_common(1)[0][0] if most is None else str(most)
    if best in said:
        said.remove(best)
    return entry["question_id"], (best, *said)


def _most_given(path: Path, content: Any) -> dict[Any, str]:
    """The answer of each question by its id; annotations that are none are left out."""
    entries = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f'{path} is not a file of VQA annotations: its "annotations" is no list')
    found = {}
    for entry in entries:
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            key, answers = answers_of(entry)
            found[key] = answers[0]
    return found


def _picture(folder: Path, subset: Any, name: Any) -> Any:
    if type(name) is not int or not isinstance(subset, str):
        raise ValueError(f"its picture is {name!r:.40} of {subset!r:.40}, not a number of a subset such as train2014")
    below, *others = picture_names(name, subset)
    return existing_file(folder, below if (folder / below).is_file() else others[0])


def picture_names(number: int, subset: str) -> list[str]:
    """Where COCO's picture of this number may lie: in a folder of its subset ("val2014"), or without one."""
    file = f"COCO_{subset}_{number:012d}.jpg"
    return [f"{subset}/{file}", file]
