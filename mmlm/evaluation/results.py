"""The files of a suite: figures, predictions, every item, and a page to look at."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mmlm.evaluation.judge import Judgement
from mmlm.evaluation.official import results_of
from mmlm.evaluation.page import page

FILES = {"scores": "scores.json", "items": "items.jsonl", "predictions": "predictions.json", "page": "page.html"}


def check_results(folder: str | Path) -> Path:
    """The folder of results. FileExistsError where it holds such files already, before any work is done."""
    from mmlm.training.checks import check_output

    found = check_output(folder)
    if taken := [name for name in FILES.values() for _ in found.rglob(name)]:
        raise FileExistsError(f"output: {found} holds {taken[0]} of an earlier evaluation; choose another folder")
    return found


def write_results(judgement: Judgement, folder: str | Path, title: str) -> Path:
    """Writes the files of FILES into a folder, each whole or not at all, and returns the folder.

    items.jsonl has a line for each item: key, question, predicted, expected and its scores. predictions.json is in the
    official form of the suite. Drawings are drawings/1.png and on, in the order of the items.
    """
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(item.to_dict(), ensure_ascii=False) + "\n" for item in judgement.items]
    predictions = {item.case.key: item.predicted for item in judgement.items}
    _write(folder / FILES["scores"], _json(judgement.to_dict()))
    _write(folder / FILES["items"], "".join(lines))
    _write(folder / FILES["page"], page(judgement, title))
    if judgement.suite not in ("retrieval", "drawing"):
        _write(folder / FILES["predictions"], _json(results_of(judgement.suite, predictions)))
    for number, item in enumerate(judgement.items, 1):
        if item.made is not None:
            (folder / "drawings").mkdir(exist_ok=True)
            (folder / "drawings" / f"{number}.png").write_bytes(item.made)
    return folder


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _write(path: Path, text: str) -> None:
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
