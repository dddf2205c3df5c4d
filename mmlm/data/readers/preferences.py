"""Preferences and tasks of reinforcement in records, with the fields that trl, LLaMA-Factory and verl give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmlm.data.readers.conversations import messages_of, names_of
from mmlm.data.readers.fields import Find, record_of
from mmlm.data.records import FileSlice, Record

_MEDIA = ("image", "images", "file_name", "audio", "audios")


def is_preference(fields: Mapping[str, Any]) -> bool:
    """Whether fields are those of a pair of answers, of a judged answer, or of a prompt with what is right."""
    return "rejected" in fields or {"completion", "label"} <= fields.keys() or "prompt" in fields


def preference_of(key: str, fields: Mapping[str, Any], find: Find) -> Record:
    """The record of a preference. ValueError where a field is no good.

    One of {"prompt", "chosen", "rejected"}, {"prompt", "completion", "label"} and {"prompt", "answer"} ("solution", or
    verl's {"reward_model": {"ground_truth"}}), with "image", "images", "audio" or "audios" beside it. Prompts and
    answers are texts or lists of messages; without a prompt, answers describe the picture or write the recording down,
    and lists of messages hold the prompt. A chosen and a rejected message that show a picture or a recording are
    drawings, or speech, for the text of the prompt. In place of "chosen" stands any other text of a record.
    """
    good, answer, rejected = _answers(fields)
    if answer is None:
        return replace(_plain(key, fields, find), rejected=_text(rejected))
    prompt, media = fields.get("prompt"), {name: fields[name] for name in _MEDIA if name in fields}
    if (made := _made(answer)) is not None:
        other = _made(rejected)
        if other is None or other[0] != made[0]:
            raise ValueError('"chosen" shows a medium, and "rejected" does not show one of its kind')
        return _of_media(key, _text(prompt), made, other, find)
    turns = _turns(prompt)
    if isinstance(answer, list):
        turns, answer = [*turns, *answer[:-1]], _text(answer[-1:])
    if isinstance(rejected, list):
        before = rejected[:-1]
        if before and [*_turns(prompt), *before] != turns:
            raise ValueError('"chosen" and "rejected" are not answers to the same messages')
        rejected = _text(rejected[-1:])
    pictures, sounds = (names_of(media, names) for names in (_MEDIA[:3], _MEDIA[3:]))
    if (prompt is None or isinstance(prompt, str)) and not isinstance(fields.get("chosen"), list):
        single = len(pictures) <= 1 and len(sounds) <= 1 and pictures + sounds and "<image>" not in str(prompt)
        if single and "<audio>" not in str(prompt):
            asked = {"question": prompt, "answer": answer} if prompt else {}
            told = {"caption": answer} if pictures else {"transcript": answer}
            places = [_place(own[0], name, find) if own else None
                      for own, name in ((pictures, "image"), (sounds, "audio"))]  # fmt: skip
            record = record_of(key, places[0], asked or told, places[1])
            return replace(record, rejected=rejected, good=good)
    said = {"messages": [*turns, {"role": "assistant", "content": answer}], **media}
    return replace(Record(key, messages=messages_of(said, find)), rejected=rejected, good=good)


def _answers(fields: Mapping[str, Any]) -> tuple[bool | None, Any, Any]:
    """Whether an answer is good, the answer, and the worse one, as far as they are given."""
    if "rejected" in fields:
        return None, fields.get("chosen"), fields["rejected"]
    if "label" in fields and "completion" in fields:
        if not isinstance(fields["label"], bool):
            raise ValueError(f'"label" is {fields["label"]!r:.80}, neither true nor false')
        return fields["label"], fields["completion"], None
    judge = fields.get("reward_model")
    truth = judge.get("ground_truth") if isinstance(judge, Mapping) else None
    right = [fields[name] for name in ("answer", "solution", "completion") if name in fields] + [truth]
    if right[0] is None:
        raise ValueError('a "prompt" without "chosen" and "rejected", "completion" or "answer"')
    return None, right[0] if isinstance(right[0], list) else str(right[0]), None


def _plain(key: str, fields: Mapping[str, Any], find: Find) -> Record:
    """The record that the fields describe without what is rejected."""
    if "messages" in fields:
        return Record(key, messages=messages_of(fields, find))
    pictures, sounds = (names_of(fields, names)[:1] for names in (_MEDIA[:3], _MEDIA[3:]))
    picture, sound = (
        [_place(name, modality, find) for name in own] for own, modality in ((pictures, "image"), (sounds, "audio"))
    )
    return record_of(key, next(iter(picture), None), dict(fields), next(iter(sound), None))


def _place(name: Any, modality: str, find: Find) -> FileSlice | bytes:
    return name if isinstance(name, FileSlice | bytes) else find(name, modality)


def _turns(prompt: Any) -> list[Any]:
    if prompt is None:
        return []
    return prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]


def _text(said: Any) -> str:
    """A text, or that of the one message in a list."""
    if isinstance(said, list) and len(said) == 1 and isinstance(said[0], Mapping):
        content = said[0].get("content")
        said = content[0].get("text") if isinstance(content, list) and len(content) == 1 else content
    if not isinstance(said, str):
        raise ValueError(f"an answer that is no text, nor one message with a text: {said!r:.80}")
    return said.strip()


def _made(answer: Any) -> tuple[str, Any] | None:
    """The modality and the name of the medium that an answer shows; None where it says something."""
    last = answer[-1] if isinstance(answer, list) and answer else None
    content = last.get("content") if isinstance(last, Mapping) else None
    if not isinstance(content, list) or len(content) != 1 or not isinstance(content[0], Mapping):
        return None
    kind = content[0].get("type")
    name = content[0].get(kind, content[0].get("path")) if kind in ("image", "audio") else None
    return None if name is None else (str(kind), name)


def _of_media(key: str, text: str, made: tuple[str, Any], other: tuple[str, Any], find: Find) -> Record:
    better, worse = (_place(name, modality, find) for modality, name in (made, other))
    if made[0] == "image":
        return Record(key, better, (text,), rejected=worse)
    return Record(key, sound=better, transcript=text, rejected=worse)
