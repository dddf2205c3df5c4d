"""Calls held to the schemas of their tools: what does not fit is written again, and can then only fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.parts import Part
from mmlm.reasoning.tools.arguments import read_arguments
from mmlm.reasoning.tools.offer import Offer, opening
from mmlm.reasoning.tools.reading import RawCall
from mmlm.tasks.generate import generate
from mmlm.tasks.rows import one_result


def fits(offer: Offer, call: RawCall) -> bool:
    """Whether a call names a tool and its arguments are of its schema."""
    parameters = offer.parameters(call.name)
    if parameters is None:
        return False
    try:
        read_arguments(call.arguments, parameters)
    except ValueError:
        return False
    return True


def held(
    model: MultimodalNetwork,
    prompt: Sequence[Part],
    before: str,
    call: RawCall,
    offer: Offer,
    options: Mapping[str, Any],
) -> RawCall:
    """A call that does not fit, written again from where it went wrong: its name as one of the tools', then its
    arguments as JSON of that tool's schema.

    What fits was written freely, and would be the same if it had been held; so nothing is slower for calls that fit.
    before: what was written before the call. The call itself where its form or its schema cannot be held to; then the
    model is told what is wrong.
    """
    if offer.form is None:
        return call
    begun: list[Part] = [*prompt, *([before] if before else [])]
    keywords = {name: value for name, value in options.items() if name not in _NOT_HERE}

    def written(parts: Sequence[Part], **form: Any) -> str:
        return one_result(generate(model, list(parts), **{**keywords, **form})).text.strip()

    try:
        name = call.name
        if offer.parameters(name) is None:
            name = written([*begun, *opening(offer)], choices=offer.names)
        arguments = written([*begun, *opening(offer, name)], json_schema=_plain(offer.parameters(name)))
    except ValueError:  # a schema that cannot be held to, or too few tokens for any arguments
        return call
    return RawCall(name, arguments)


def _plain(schema: Any) -> Any:
    """A schema without `nullable`, which is OpenAPI's word for a type "null" beside others."""
    if isinstance(schema, Mapping):
        own = {key: _plain(value) for key, value in schema.items() if key != "nullable"}
        return {"anyOf": [own, {"type": "null"}]} if schema.get("nullable") is True else own
    return [_plain(value) for value in schema] if isinstance(schema, list) else schema


_NOT_HERE = {  # they could forbid what fits, and a thought has no place in a call
    "stop", "min_new_tokens", "no_repeat_ngram_size", "bad_words_ids", "thinking", "thinking_marks",
}  # fmt: skip
