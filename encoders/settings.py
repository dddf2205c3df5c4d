"""What the settings of a model may name: parts of their own library, and files of their own folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from encoders.sizes import RefusedError

ELSEWHERE = re.compile(r"[/~\\]|\.\.|[a-zA-Z]:")  # how a name begins that is no name in the folder
REDIRECTIONS = ("configuration_files", "fast_tokenizer_files")  # keys of such lists


def other_files(settings: Mapping[str, Any], source: Any) -> list[str]:
    """The files that a config.json or tokenizer_config.json puts in its own place, or the tokenizer's.

    `RefusedError` for one outside of the folder. Paths of the machine on which a tokenizer was saved, as many hold them
    (`special_tokens_map_file`, …), are none: transformers does not follow them.
    """
    found = [name for key in REDIRECTIONS for name in settings.get(key) or ()]
    for name in found:
        if not isinstance(name, str) or leads_out(name):
            raise RefusedError(f"the settings of {source} name {name!r}, which is no file of its folder")
    return found


def check_tokenizer_class(settings: Mapping[str, Any], source: Any) -> None:
    """`RefusedError` where what is named as a tokenizer is another class of transformers, which may ask for code."""
    import transformers
    from transformers.utils.import_utils import DummyObject

    name = settings.get("tokenizer_class")
    known = getattr(transformers, name, None) if isinstance(name, str) else None
    if known is None and (name is None or isinstance(name, str)):
        return  # nothing, or a name that the loader does not know either
    if isinstance(known, DummyObject):
        return  # of a package that is missing, which the loader tells
    if not (isinstance(known, type) and issubclass(known, transformers.PreTrainedTokenizerBase)):
        raise RefusedError(f"{source} names as its tokenizer {name!r}, which is none")


def leads_out(name: str) -> bool:
    """Whether the name of a file leads out of its folder."""
    return bool(ELSEWHERE.match(name)) or ".." in re.split(r"[/\\]", name)
