"""Calls read out of what a model writes, piece by piece: however a text is cut, the pieces are those of the whole."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import regex

from mmlm.generation.text import held_back
from mmlm.reasoning.tools.form import CallForm

_NAME = r"(?P<name>[\w.:/-]{1,128})"
_NAMES, _ARGUMENTS = ("name", "tool_name"), ("arguments", "parameters", "args", "input")


@dataclass(frozen=True)
class Written:
    """A piece of what was written.

    text: of the answer; or, where `call` is given, of the arguments of that call, counted from 0. name: of the call, in
    its first piece.
    """

    text: str
    call: int | None = None
    name: str | None = None


@dataclass(frozen=True)
class RawCall:
    """A call as it was written; the arguments may be no JSON."""

    name: str
    arguments: str


class CallReader:
    """Takes pieces of a text, and gives those of the answer and of the calls in it.

    form: of the calls. A call that is JSON in another order of its keys, or with others, is read as well.
    names: of the tools. Where nothing but its JSON tells a call from other text, only these are calls.
    begun: whether the prompt has written the form's opening; with `name`, also this name and what is between.
    What is written behind a call, and is no call, is left out: it would be results that the model invents.
    state: "text"; in a call "header", "arguments", or "value" for one in another form; "refused"; "behind" a call.
    text: what is not settled yet. calls: how many have begun their arguments.
    """

    def __init__(self, form: CallForm, names: Collection[str], *, begun: bool = False, name: str | None = None) -> None:
        self._form, self._names = form, frozenset(names)
        self._mark, self._inner = form.mark, form.opening.lstrip().removeprefix(form.mark)
        self._header = regex.compile(rf"\s*{_loosely(self._inner)}\s*{_NAME}{_loosely(form.between)}\s*(?=\{{)")
        self.text, self.state, self.calls = "", "text", 0
        self._depth: _Depth | None = None
        self._listing = True  # whether what is behind a call may still be a list that goes on
        self._given = False  # whether anything of the answer was given
        self._opened = "" if begun else self._mark  # what is text again if no call follows: white space and a mark
        if begun and name is None:
            self.text, self.state = self._inner, "header"
        elif begun:
            self.text, self.state = f"{self._inner}{name}{form.between}", "header"

    @property
    def place(self) -> int:
        """Which call is being written, 1 the first; 0 for none."""
        return self.calls + (self.state == "header") if self.state in ("header", "arguments") else 0

    def copied(self) -> CallReader:
        """The same, which goes on by itself."""
        made = copy.copy(self)
        made._depth = copy.copy(self._depth)
        return made

    def push(self, piece: str) -> list[Written]:
        """What one more piece settles."""
        self.text += piece
        found: list[Written] = []
        while True:
            before = (self.state, len(self.text))
            found += getattr(self, f"_in_{self.state}")()
            if before == (self.state, len(self.text)):
                return [one for one in found if one.text or one.name]

    def rest(self) -> list[Written]:
        """What is left when no more comes: of what only looked like a call, the text."""
        text, state, self.text, self.state = self.text, self.state, "", "behind"
        if state == "text":
            return self._said(text.rstrip())
        if state in ("header", "value"):
            return self._said((self._opened + text).rstrip())
        return []

    def _said(self, text: str) -> list[Written]:
        self._given = self._given or bool(text.strip())
        return [Written(text)] if text else []

    def _in_text(self) -> list[Written]:
        """Gives out the answer up to a mark, or to what may be the beginning of one; white space waits for more."""
        if not self._mark:
            bare = self.text.lstrip()
            if bare and not self._given and bare[0] in "{[":
                self.text, self.state = bare, "header"
                return []
            kept = len(self.text) - len(self.text.rstrip())
        else:
            before, marked, behind = self.text.partition(self._mark)
            if marked:
                self.text, self.state = behind, "header"
                self._opened = before[len(before.rstrip()) :] + self._mark
                return self._said(before.rstrip())
            kept = held_back(self.text, (self._mark,))
            kept = len(self.text) - len(self.text[: len(self.text) - kept].rstrip())
        ready = self.text[: len(self.text) - kept]
        self.text = self.text[len(ready) :]
        return self._said(ready)

    def _in_header(self) -> list[Written]:
        """Behind a mark: the name and where the arguments begin."""
        if found := self._header.match(self.text):
            if self._mark or found["name"] in self._names:
                self.text, self.state, self._depth = self.text[found.end() :], "arguments", _Depth()
                self.calls += 1
                return [Written("", self.calls - 1, found["name"])]
        elif self._header.fullmatch(self.text, partial=True):
            return []
        bare = self.text.lstrip()
        if not bare:
            return []
        self.state, self._depth = ("value", _Depth()) if bare[0] in "{[" else ("refused", None)
        self.text = bare if bare[0] in "{[" else self.text
        return []

    def _in_refused(self) -> list[Written]:
        """What followed a mark is no call: both are text."""
        self.state = "text"
        return self._said(self._opened)

    def _in_arguments(self) -> list[Written]:
        assert self._depth is not None
        end = self._depth.push(self.text)
        piece, self.text = self.text[:end], self.text[end:]
        if self._depth.closed:
            self.state = "behind"
        return [Written(piece, self.calls - 1)]

    def _in_value(self) -> list[Written]:
        """A JSON value that is a call in another form, or several."""
        depth = _Depth()
        end = depth.push(self.text)
        if not depth.closed:
            return []
        calls = calls_of(self.text[:end])
        if not calls or not (self._mark or all(call.name in self._names for call in calls)):
            text, self.text, self.state = self._opened + self.text[:end], self.text[end:], "text"
            return self._said(text)
        self.text, self.state = self.text[end:], "behind"
        first = self.calls
        self.calls += len(calls)
        return [Written(call.arguments, first + place, call.name) for place, call in enumerate(calls)]

    def _in_behind(self) -> list[Written]:
        """Behind a call: another one, or nothing."""
        if self._mark and self._mark in self.text:
            self.text, self.state, self._listing = self.text.partition(self._mark)[2], "header", True
            return []
        another = regex.match(r"[\s}]*[,;]\s*(?=\{)", self.text)
        if another and self._listing and "{" in self._form.opening:
            self.text = self._inner[: self._inner.rfind("{")] + self.text[another.end() :]
            self.state = "header"
            return []
        if not regex.fullmatch(r"[\s}]*[,;]?\s*", self.text):  # no list of calls that goes on
            self._listing = False
            kept = held_back(self.text, (self._mark,)) if self._mark else 0
            self.text = self.text[len(self.text) - kept :]
        return []


def read_calls(form: CallForm, text: str, names: Collection[str], **begun: Any) -> tuple[str, list[RawCall]]:
    """The answer in a whole text, and the calls in it."""
    reader = CallReader(form, names, **begun)
    pieces = reader.push(text) + reader.rest()
    answer = "".join(piece.text for piece in pieces if piece.call is None)
    named = [piece for piece in pieces if piece.name is not None]
    calls = [
        RawCall(one.name or "", "".join(piece.text for piece in pieces if piece.call == one.call)) for one in named
    ]
    return answer.strip(), calls


def calls_of(text: str) -> list[RawCall]:
    """The calls that a JSON value holds, whatever its keys are called; none where it is no JSON, or no calls."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    found = [_call_of(one) for one in (value if isinstance(value, list) else [value])]
    return [call for call in found if call is not None] if None not in found else []


def _call_of(value: Any) -> RawCall | None:
    if not isinstance(value, Mapping):
        return None
    if isinstance(value.get("function"), Mapping):
        value = value["function"]
    name = next((value[key] for key in _NAMES if isinstance(value.get(key), str)), None)
    arguments = next((value[key] for key in _ARGUMENTS if key in value), None)
    if name is None or not isinstance(arguments, (Mapping, str)):
        return None
    return RawCall(name, arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False))


class _Depth:
    """Where a JSON object or list ends, in pieces."""

    def __init__(self) -> None:
        self._depth, self._quoted, self._escaped, self.closed = 0, False, False, False

    def push(self, text: str) -> int:
        """How many characters of one more piece belong to the value."""
        for place, character in enumerate(text):
            if self._quoted:
                self._quoted = self._escaped or character != '"'
                self._escaped = character == "\\" and not self._escaped
            elif character == '"':
                self._quoted = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    self.closed = True
                    return place + 1
        return len(text)


def _loosely(text: str) -> str:
    """The text as an expression, with as much white space as there is where it has some."""
    return r"\s*".join(regex.escape(piece, literal_spaces=True) for piece in regex.split(r"\s+", text))
