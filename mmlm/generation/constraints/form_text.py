"""A text that is held to a form, as a constraint: never anything else, at the token limit too."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor
from torch.nn.functional import pad

from mmlm.generation.constraints.base import RefusedError
from mmlm.generation.constraints.endings import Endings
from mmlm.generation.constraints.spelling import Spelling, spelling_of
from mmlm.generation.forms import Form, limits
from mmlm.generation.result import FinishReason
from mmlm.prompting.processor import Processor

FEW = 64  # so many ids that may come next are each tried before one is forced
PASSED = 16  # so many bytes of a way are passed over to find the rest of it


@dataclass(frozen=True, eq=False)
class FormGrammar:
    """A form made ready for one language model: what the states of all its rows share.

    stops: ids that end a row. matcher: llguidance's, before the text. way: ids that write a whole text, few of them.
    """

    form: Form
    spelling: Spelling
    endings: Endings
    stops: tuple[int, ...]
    matcher: Any
    way: tuple[int, ...]

    @classmethod
    def of(cls, form: Form, processor: Processor, stop_ids: Sequence[int], room: int) -> FormGrammar:
        """The grammar of a form for texts of up to `room` tokens.

        ValueError where so few are too few, and for a form or a tokenizer that cannot be used.
        """
        from llguidance import LLMatcher

        spelling, endings = spelling_of(processor), Endings.of(form)
        matcher = LLMatcher(spelling.tokens, form.grammar, limits=limits(), log_level=0)
        made = cls(form, spelling, endings, tuple(stop_ids), matcher, ())
        checked(matcher.deep_copy())
        ways = list(made._ways(matcher, b"", most=max(4096, 16 * room)))
        if not ways:
            raise ValueError(f"no text of this form was found that {room} tokens could hold: raise max_new_tokens, or "
                             "let the form be shorter")  # fmt: skip
        way = min(ways, key=len)
        if len(way) > room:
            raise ValueError(
                f"the shortest text of this form that was found takes {len(way)} tokens, and max_new_tokens is {room}: "
                f"pass max_new_tokens={len(way)} or more"
            )
        return replace(made, way=way)

    def begin(self, room: int) -> FormText:
        """The state before the text, of which `room` tokens may be written; at least `len(way)`."""
        return FormText(self, self.matcher, b"", room, self.way)

    def way_from(self, matcher: Any, text: bytes, room: int, known: tuple[int, ...]) -> tuple[int, ...] | None:
        """Ids that end the text within `room`, `known` ones where they do; None where none were found."""
        if matcher.is_accepting():
            return ()
        for way in self._rests(known):
            if len(way) <= room and self._ends(matcher, way):
                return way
        return next((way for way in self._ways(matcher, text, 16 * room) if len(way) <= room), None)

    def _rests(self, known: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """A way, and what is left of it behind its first bytes, which the last token may have written in its own way.

        Trying these takes a small part of the time of a search.
        """
        yield known
        spelled = b"".join(self.spelling.bytes[token] for token in known[:PASSED])
        for passed in range(1, min(PASSED, len(spelled)) + 1):
            count, end = 0, 0  # tokens of the way that are passed, the last one perhaps in part
            while end < passed:
                end += len(self.spelling.bytes[known[count]])
                count += 1
            begun = self.spelling.fewest(spelled[passed:end])
            if begun is not None:
                yield (*begun, *known[count:])

    def _ways(self, matcher: Any, text: bytes, most: int) -> Any:
        for ending in self.endings.after(text, most):
            way = self.spelling.fewest(ending)
            if way is not None and self._ends(matcher, way):
                yield tuple(way)

    def _ends(self, matcher: Any, way: Sequence[int]) -> bool:
        return matcher.validate_tokens([*way, self.spelling.end]) == len(way) + 1


@dataclass(frozen=True, eq=False)
class FormText:
    """One row that writes a text of a form.

    matcher: llguidance's, after `text`; it is never changed. room: tokens that may still be written. way: ids that
    complete the text within that room; none where it is complete. Each state has such a way, so no text is cut: a token
    after which none is found is refused. tight: whether there was only just room for the way.
    """

    grammar: FormGrammar
    matcher: Any
    text: bytes
    room: int
    way: tuple[int, ...]
    tight: bool = False
    finished: FinishReason | None = None
    guided: bool = False

    def allowed(self) -> Tensor:
        """Ids that the form allows, bool `[W]`; those that end a row only where the text is complete."""
        return self._allowed

    @functools.cached_property
    def _allowed(self) -> Tensor:
        stops = list(self.grammar.stops)
        ids = self.grammar.spelling.mask(self.matcher)
        checked(self.matcher)
        ids = pad(ids, (0, max(0, 1 + max(stops) - len(ids))))
        ids[stops] = not self.way
        if self.way and len(self.way) == self.room and int(ids.sum()) > FEW:
            ids.zero_()
            ids[self.way[0]] = True
        return ids

    def advance(self, token: int) -> Self:
        """The state after one more token. ValueError for one that is not allowed; RefusedError where the text could not
        be completed behind it.
        """
        tight = self.tight or (bool(self.way) and len(self.way) == self.room and not self.grammar.form.choices)
        end: FinishReason = "length" if tight else "stop"
        if token in self.grammar.stops and not self.way:
            return replace(self, finished=end)
        matcher = self.matcher.deep_copy()
        if not matcher.consume_token(token):
            raise ValueError(f"id {token} may not follow here: {matcher.get_error()[:200]}")
        text, room = self.text + self.grammar.spelling.bytes[token], self.room - 1
        if self.way[:1] == (token,):
            way = self.way[1:]
        else:
            way = self.grammar.way_from(matcher, text, room, self.way)
        if way is None:
            raise RefusedError(self.way[0] if self.way else self.grammar.stops[0])
        complete = not way and matcher.is_stopped()
        return replace(
            self, matcher=matcher, text=text, room=room, way=way, tight=tight, finished=end if complete else None
        )


def checked(matcher: Any) -> None:
    """ValueError where a matcher has given up."""
    if error := matcher.get_error():
        raise ValueError(f"the form is too large to be gone on with ({' '.join(error.split())[:200]}): simplify it")
