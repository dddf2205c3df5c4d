"""How a model writes a call of a tool: found out by having its chat template write one, whatever its family."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mmlm.prompting.chat_template import PLACE, Messages, plain, tried
from mmlm.prompting.conversation import turn_end
from mmlm.prompting.processor import Processor
from mmlm.prompting.thinking import after_thinking
from mmlm.prompting.token_ids import token_ids

_NAME, _KEY, _VALUE, _ID = "probe_function", "probe_argument", "probe_value", "probe0001"
_ARGUMENTS = re.compile(rf'\{{\s*"{_KEY}"\s*:\s*"{_VALUE}"\s*\}}')
_TOOL = {
    "type": "function",
    "function": {
        "name": _NAME, "description": "Probes.",
        "parameters": {
            "type": "object", "properties": {_KEY: {"type": "string", "description": "What."}}, "required": [_KEY]
        },
    },
}  # fmt: skip


@dataclass(frozen=True)
class CallForm:
    """A call is `opening`, the name, `between`, the arguments as a JSON object, `closing`."""

    opening: str
    between: str
    closing: str

    @property
    def mark(self) -> str:
        """The beginning of the opening that tells a call from other text; "" where only its JSON does.

        Such a call is looked for at the beginning of an answer alone.
        """
        return re.split(r"[{[]\s*[{\"]", self.opening, maxsplit=1)[0].strip()

    def written(self, name: str, arguments: str) -> str:
        """A call in this form."""
        return f"{self.opening}{name}{self.between}{arguments}{self.closing}"


WORDED = CallForm('<tool_call>{"name": "', '", "arguments": ', "}</tool_call>")
"""The form that models are told of whose chat template knows no tools."""

REACT = CallForm("Action: ", "\nAction Input: ", "\nObservation:")
"""The form of ReAct (Yao et al. 2022, arXiv 2210.03629), for models without a chat template."""


def takes_tools(tokenizer: Any) -> bool:
    """Whether the chat template writes the tools that it is given, and the results of calls."""
    found = _probed(tokenizer)
    return found is not None and _NAME in (found[0] or "") and found[3] is not None and f"{PLACE}1{PLACE}" in found[3]


def takes_several(tokenizer: Any) -> bool:
    """Whether the chat template writes several calls of one message."""
    found = _probed(tokenizer)
    return found is not None and (found[4] or "").count(_VALUE) == 2


def form_of(tokenizer: Any) -> CallForm | None:
    """The form in which the chat template writes calls; None where their arguments are no JSON object."""
    found = _probed(tokenizer)
    if found is None:
        return None
    prompt, answered, called, *_ = found
    begins = [text for text in (prompt, answered and answered.partition(f"{PLACE}1{PLACE}")[0]) if text]
    begins += [text.rstrip().removesuffix("<think>") for text in begins if text.rstrip().endswith("<think>")]
    begun = max((text for text in begins if called and called.startswith(text)), key=len, default=None)
    if called is None or begun is None:
        return None
    opening, named, rest = called[len(begun) :].partition(_NAME)
    arguments = _ARGUMENTS.search(rest)
    if not named or arguments is None or PLACE in opening:
        return None
    ends = [tokenizer.convert_ids_to_tokens(turn_end(tokenizer)) if turn_end(tokenizer) is not None else None]
    closing = rest[arguments.end() :]
    for end in (*ends, tokenizer.eos_token):
        closing = closing.partition(end)[0] if end else closing
    opening = after_thinking(opening).lstrip()
    return CallForm(opening, rest[: arguments.start()], closing.rstrip()) if opening else None


def _probed(tokenizer: Any) -> list[str | None] | None:
    """A prompt with a tool, an answer, a call, its result, and two calls; None where there is no chat template."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    call = {"id": _ID, "type": "function", "function": {"name": _NAME, "arguments": {_KEY: _VALUE}}}
    calling: Messages = [*plain(1), {"role": "assistant", "content": "", "tool_calls": [call]}]
    result = {"role": "tool", "name": _NAME, "tool_call_id": _ID, "content": f"{PLACE}1{PLACE}"}
    twice: Messages = [
        *plain(1),
        {"role": "assistant", "content": "", "tool_calls": [call, call | {"id": "probe0002"}]},
    ]
    asked = [(plain(1), True), (plain(2), False), (calling, False), ([*calling, result], True), (twice, False)]
    return tried(tokenizer, asked, tools=[_TOOL])


def decoding(processor: Processor, form: CallForm | None) -> Callable[[Sequence[int]], str]:
    """Ids → text with the control tokens that calls are written with, and without all others; all where form is None.

    They are hidden elsewhere, where text is for people.
    """
    tokenizer = processor.tokenizer
    hidden = set(tokenizer.all_special_ids)
    if form is None:
        hidden = set()
    else:
        marks = "".join((form.opening, form.between, form.closing))
        hidden -= set(token_ids(tokenizer, marks))

    def decode(ids: Sequence[int]) -> str:
        own = [token for token in ids if token not in processor.vocabulary and token not in hidden]
        return tokenizer.decode(own, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    return decode
