"""Calls held to their tools while they are written: from its opening on, a call names a tool, and its arguments are
JSON of that tool's schema.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor

from mmlm.generation.answer_text import AnswerText
from mmlm.generation.constraints.base import RefusedError
from mmlm.generation.constraints.form_text import checked
from mmlm.generation.constraints.spelling import Spelling, spelling_of
from mmlm.generation.forms import check_grammar, json_rule, limits
from mmlm.generation.result import FinishReason
from mmlm.generation.text import PartialText, held_back
from mmlm.model.network import MultimodalNetwork
from mmlm.reasoning.tools.form import CallForm, decoding
from mmlm.reasoning.tools.offer import Offer
from mmlm.reasoning.tools.reading import CallReader, Written

_SPACE = r"[ \t\r\n]{0,4}"  # where a form has white space, and before it; more would never end
_REST = "rest: /(?s:.*)/"  # the last token of a call may hold what comes behind it
_ANYTHING = json_rule({"type": "object"})


@dataclass(frozen=True, eq=False)
class Calls:
    """What calls are held to, made ready for one language model: what the states of all rows share.

    names: of the tools. open: bool `[V]`, the ids that may stand in a call. control: ids of the control tokens that do,
    by their spelling. whole: a matcher of a call, from behind its mark on. own: of the arguments of each tool.
    stops: ids that end a row.
    """

    form: CallForm
    names: tuple[str, ...]
    spelling: Spelling
    decode: Callable[[Sequence[int]], str]
    control: Mapping[str, int]
    open: Tensor
    whole: Any
    own: Mapping[str, Any]
    stops: tuple[int, ...]

    @classmethod
    def of(cls, model: MultimodalNetwork, offer: Offer) -> Calls | None:
        """Those of the tools of an offer; None where none are offered, and where neither the form of calls nor the
        tokenizer can be held to anything. A schema that cannot be kept lets any object through; see `check_schema`.
        """
        form, processor = offer.form, model.processor
        if form is None or not offer.tools:
            return None
        try:
            spelling = spelling_of(processor)
        except ValueError:
            return None
        added = getattr(processor.tokenizer, "added_tokens_decoder", {})
        marks = {token: added[token].content for token in processor.control_ids if token in added}
        control = {mark: token for token, mark in marks.items() if mark.strip() and mark in form.written("", "")}
        open_ids = spelling.written.clone()
        open_ids[list(control.values())] = True
        rules = {name: _rule_of(offer.parameters(name)) for name in offer.names}
        inner = form.opening.lstrip().removeprefix(form.mark)
        calls = [f"{_written_as(inner + name + form.between, control)} args{at}" for at, name in enumerate(rules)]
        arguments = [f"args{at}: {rule}" for at, rule in enumerate(rules.values())]
        alternatives = " | ".join(f"call{at}" for at in range(len(calls)))
        whole = [f"start: ({alternatives}) rest", *(f"call{at}: {call}" for at, call in enumerate(calls)), *arguments]
        try:
            own = {
                name: _matcher(spelling, ["start: args rest", f"args: {rule}", _REST]) for name, rule in rules.items()
            }
            return cls(
                form, tuple(rules), spelling, decoding(processor, form), control, open_ids,
                _matcher(spelling, [*whole, _REST]), own, tuple(model.language_model.stop_ids),
            )  # fmt: skip
        except ValueError:  # schemas that are together too large
            return None

    def begin(self, thinking: bool = False, *, begun: bool = False, name: str | None = None) -> HeldCalls:
        """The state before an answer. thinking: whether it begins in a thought that nobody asked for. begun, name: as
        `CallReader` takes them.
        """
        reader = CallReader(self.form, self.names, begun=begun, name=name)
        state = HeldCalls(self, PartialText(self.decode), AnswerText(thinking), reader)
        return replace(state, matcher=self.after(self.whole, reader.text)) if begun else state

    def ids(self, text: str) -> list[int] | None:
        """Ids that spell a part of a call; None where none do."""
        found = list[int]()
        for piece in _pieces(text, self.control):
            own = [self.control[piece]] if piece in self.control else self.spelling.fewest(piece.encode())
            if own is None:
                return None
            found += own
        return found

    def after(self, matcher: Any, text: str) -> Any:
        """A matcher after a text; None where that does not fit."""
        ids, made = self.ids(text), matcher.deep_copy()
        return made if ids is not None and made.try_consume_tokens(ids) == len(ids) else None


@dataclass(frozen=True, eq=False)
class HeldCalls:
    """One row whose calls are held; all else it writes freely, and a call may be cut off by the token limit.

    text, answer, reader: what was written, as whoever reads the calls will read it. They and `matcher`, llguidance's in
    a call that is held, are never changed.
    """

    calls: Calls
    text: PartialText
    answer: AnswerText
    reader: CallReader
    matcher: Any = None
    finished: FinishReason | None = None
    guided: bool = False

    def allowed(self) -> Tensor | None:
        """In a call, the ids that go on with it, bool `[V]`; elsewhere all."""
        return None if self.matcher is None else self.calls.spelling.mask(self.matcher, self.calls.open)

    def advance(self, token: int) -> Self:
        """The state after one more token; RefusedError for one that opens a call and goes on with it wrongly."""
        if token in self.calls.stops:
            return self
        text, piece = self.text.push(token)
        answer, reader = self.answer.copied(), self.reader.copied()
        written = reader.push(answer.push(piece))
        state = replace(self, text=text, answer=answer, reader=reader)
        if self.matcher is None or reader.place != self.reader.place:
            return replace(state, matcher=self._opened(reader, written))
        matcher = self.matcher.deep_copy()
        if not matcher.consume_token(token):
            raise ValueError(f"id {token} may not follow in a call: {matcher.get_error()[:200]}")
        checked(matcher)
        return replace(state, matcher=matcher)

    def _opened(self, reader: CallReader, written: Sequence[Written]) -> Any:
        """The matcher of a call that has just been opened. A call that nothing but its JSON tells from other text is
        one once its name is known.
        """
        calls, form = self.calls, self.calls.form
        if not reader.place or (reader.state == "header" and not form.mark):
            return None
        if reader.state == "header":
            matcher, begun, rest = calls.whole, reader.text, form.mark
        else:
            own = [piece for piece in written if piece.call == reader.calls - 1]
            name = next((piece.name for piece in own if piece.name is not None), "")
            matcher, begun, rest = calls.own.get(name), "".join(piece.text for piece in own), "{"
        found = None if matcher is None else calls.after(matcher, begun)
        if found is None:
            instead = calls.ids(rest[held_back(self.reader.text, (rest,)) :])
            raise RefusedError(instead[0] if instead else calls.stops[0])
        return found


def check_schema(schema: Mapping[str, Any], name: str) -> None:
    """ValueError that names the tool and the keyword, for parameters that calls cannot be held to."""
    check_grammar(f"start: body\nbody: {json_rule(_plain(schema))}", f"the parameters of {name}")


def _rule_of(schema: Any) -> str:
    try:
        check_schema(schema, "a tool")
    except ValueError:
        return _ANYTHING
    return json_rule(_plain(schema))


def _matcher(spelling: Spelling, rules: Sequence[str]) -> Any:
    """A matcher before a text of a grammar. ValueError for one that takes too much."""
    from llguidance import LLMatcher

    made = LLMatcher(spelling.tokens, "\n".join(rules), limits=limits(), log_level=0)
    checked(made)
    return made


def _pieces(text: str, control: Mapping[str, int]) -> list[str]:
    """A text in control tokens and what is between."""
    if not control:
        return [text] if text else []
    return [piece for piece in re.split(f"({'|'.join(map(re.escape, control))})", text) if piece]


def _written_as(text: str, control: Mapping[str, int]) -> str:
    """What stands before the arguments of a call, as a grammar has it: with as much white space, within limits, as is
    wanted where there is some.
    """
    found = list[str]()
    for piece in _pieces(text, control):
        if piece in control:
            found.append(f"<[{control[piece]}]>")
            continue
        words = [re.escape(word).replace("/", r"\/") for word in re.split(r"\s+", piece)]
        found.append(f"/{_SPACE if words[0] and not found else ''}{_SPACE.join(words)}/")
    return " ".join(found)


def _plain(schema: Any) -> Any:
    """A schema without `nullable`, which is OpenAPI's word for a type "null" beside others."""
    if isinstance(schema, Mapping):
        own = {key: _plain(value) for key, value in schema.items() if key != "nullable"}
        return {"anyOf": [own, {"type": "null"}]} if schema.get("nullable") is True else own
    return [_plain(value) for value in schema] if isinstance(schema, list) else schema
