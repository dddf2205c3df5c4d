"""The items of a response, made of the message of a chat, and the events of their making, of its deltas."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

PREFIX = {"message": "msg", "function_call": "fc", "reasoning": "rs", "image_generation_call": "ig"}


def items_of(message: Mapping[str, Any], log_probs: Mapping[str, Any] | None, reason: str) -> list[dict[str, Any]]:
    """The items of a whole message: its thought, its text, its calls."""
    events = Events()
    thought, calls = message.get("reasoning"), message.get("tool_calls") or []
    for _ in events.push({"reasoning": thought} if thought else {}, None):
        pass
    for _ in events.push({"content": message.get("content")}, log_probs):
        pass
    for at, call in enumerate(calls):
        for _ in events.push({"tool_calls": [{"index": at, **call}]}, None):
            pass
    for _ in events.rest(reason):
        pass
    return events.items


class Events:
    """Takes the deltas of an answer, and gives the events of its items, which follow one another."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._call = -1  # the index of the call that is being written
        self._open = False  # whether the last item goes on
        self._waiting: list[dict[str, Any]] = []  # log-probabilities before the text that they are of

    def push(self, delta: Mapping[str, Any], log_probs: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
        """The events of one more delta."""
        self._waiting += [] if log_probs is None else log_probs["content"]
        if delta.get("reasoning"):
            yield from self._turn_to("reasoning")
            yield from self._grown("reasoning_text", "text", delta["reasoning"])
        if delta.get("content"):
            yield from self._turn_to("message")
            known, self._waiting = self._waiting, []
            yield from self._grown("output_text", "text", delta["content"], known)
        for call in delta.get("tool_calls") or ():
            if call["index"] != self._call:
                self._call = call["index"]
                yield from self._turn_to("function_call", call_id=call["id"], name=call["function"]["name"])
            if piece := call["function"].get("arguments"):
                self.items[-1]["arguments"] += piece
                yield self._event("function_call_arguments.delta", delta=piece)

        for picture in delta.get("images") or ():
            yield from self._drawn(picture["image_url"]["url"].partition(",")[2])

    def rest(self, reason: str) -> Iterator[dict[str, Any]]:
        """What is left when the answer has ended. An answer without anything in it is an empty text."""
        if not self.items:
            yield from self._turn_to("message")
        if self._waiting and self.items[-1]["type"] == "message":
            self.items[-1]["content"][0]["logprobs"] += self._waiting
        yield from self._ended("incomplete" if reason == "length" else "completed")

    def _drawn(self, picture: str) -> Iterator[dict[str, Any]]:
        """The item of a picture in base64, which comes all at once."""
        yield from self._turn_to("image_generation_call", result=None, output_format="png")
        for name in ("in_progress", "generating"):
            yield self._event(f"image_generation_call.{name}")
        self.items[-1]["result"] = picture
        yield from self._ended("completed")

    def _turn_to(self, kind: str, **fields: str | None) -> Iterator[dict[str, Any]]:
        """The end of the last item, and the beginning of one of this kind, unless the last goes on."""
        if self._open and self.items[-1]["type"] == kind and not fields:
            return
        yield from self._ended("completed")
        item: dict[str, Any] = {
            "id": f"{PREFIX[kind]}_{uuid.uuid4().hex}", "type": kind, "status": "in_progress", **fields
        }  # fmt: skip
        item |= {"role": "assistant", "content": []} if kind == "message" else {}
        item |= {"summary": [], "content": []} if kind == "reasoning" else {}
        item |= {"arguments": ""} if kind == "function_call" else {}
        self.items.append(item)
        self._open = True
        yield {"type": "response.output_item.added", "output_index": len(self.items) - 1, "item": _copy(item)}
        if kind in ("message", "reasoning"):
            part: dict[str, Any] = {"type": "reasoning_text", "text": ""}
            if kind == "message":
                part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            item["content"].append(part)
            yield self._event("content_part.added", content_index=0, part=dict(part))

    def _grown(self, event: str, name: str, piece: str, known: Any = None) -> Iterator[dict[str, Any]]:
        part = self.items[-1]["content"][0]
        part[name] += piece
        more = {} if known is None else {"logprobs": known}
        if known:
            part["logprobs"] = [*part["logprobs"], *known]
        if piece or known:
            yield self._event(f"{event}.delta", content_index=0, delta=piece, **more)

    def _ended(self, status: str) -> Iterator[dict[str, Any]]:
        if not self._open:
            return
        item, self._open = self.items[-1], False
        item["status"] = status
        if item["type"] == "function_call":
            yield self._event("function_call_arguments.done", name=item["name"], arguments=item["arguments"])
        elif item["type"] == "image_generation_call":
            yield self._event("image_generation_call.completed")
        else:
            part = item["content"][0]
            more = {"logprobs": part["logprobs"]} if item["type"] == "message" else {}
            yield self._event(f"{part['type']}.done", content_index=0, text=part["text"], **more)
            yield self._event("content_part.done", content_index=0, part=dict(part))
        yield {"type": "response.output_item.done", "output_index": len(self.items) - 1, "item": _copy(item)}

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        place = {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1}
        return {"type": f"response.{kind}", **place, **fields}


def _copy(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item as it is now."""
    content = item.get("content")
    return {**item, **({} if content is None else {"content": [dict(part) for part in content]})}
