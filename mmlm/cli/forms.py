"""Forms of an answer on the command line."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any


def add_form_options(verb: argparse.ArgumentParser) -> None:
    """What the answer is held to."""
    group = verb.add_argument_group("form", "what the answer is held to, one of the three")
    group.add_argument("--choice", action="append", metavar="TEXT", help="one of several texts, each with its --choice")
    group.add_argument("--regex", metavar="EXPR", help="what an expression matches")
    group.add_argument("--json-schema", metavar="FILE", type=os.path.expanduser, help="JSON of the schema in a file")


def form_options(args: argparse.Namespace) -> dict[str, Any]:
    """The keywords `choices`, `regex` and `json_schema` that were given; ValueError for a file that is no schema."""
    choices, regex, file = (vars(args).get(name) for name in ("choice", "regex", "json_schema"))
    found = {"choices": choices, "regex": regex, "json_schema": None if file is None else _schema(file)}
    return {name: value for name, value in found.items() if value is not None}


def _schema(file: str) -> Any:
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--json-schema {file}: {error.strerror}; give the file that holds the schema") from None
    except ValueError as error:
        raise ValueError(f"--json-schema {file}: {error}") from None
