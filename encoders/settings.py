"""What the settings of a model may name: parts of their own library, and files of their own folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from encoders.sizes import RefusedError

ELSEWHERE = re.compile(r"[/~\\]|\.\.|[a-zA-Z]:")  # how a name begins that is no name in the folder
REDIRECTIONS = ("configuration_files", "fast_tokenizer_files")  # other files in place of those that were checked


def check_settings(settings: Mapping[str, Any], source: Any) -> None:
    """`RefusedError` for a config.json or tokenizer_config.json that puts other files in the place of checked ones."""
    for key in REDIRECTIONS:
        if settings.get(key):
            raise RefusedError(f"the settings of {source} name other files to be read ({key}), which are not followed")
    for key, value in settings.items():
        if key.endswith("_file") and isinstance(value, str) and leads_out(value):
            raise RefusedError(f"the settings of {source} name a file outside of its folder: {key} {value!r}")


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
