"""What the settings of a model may name: parts of their own library, and files of their own folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from encoders.hub import split_revision
from encoders.model_files import read_json
from encoders.sizes import RefusedError, values_in

ELSEWHERE = re.compile(r"[/~\\]|\.\.|[a-zA-Z]:")  # how a name begins that is no name in the folder
REDIRECTIONS = ("configuration_files", "fast_tokenizer_files")  # keys of such lists
WEIGHTS_OF_PARTS = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "use_pretrained_backbone")  # timm's
KINDS_OF_PARTS = ("architecture", "backbone")  # keys of names that timm knows, or of places where it would look
IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")  # keys, with _ before them too
PLAIN = ("eager", "sdpa", "batched_mm", "grouped_mm")  # of torch alone


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


def check_parts(settings: Mapping[str, Any], source: Any) -> None:
    """`RefusedError` for settings whose parts have weights elsewhere, or are named by a path or an address."""
    for key, value in values_in(settings):
        if key in WEIGHTS_OF_PARTS and value or key in KINDS_OF_PARTS and re.search(r"[:/\\]", str(value)):
            raise RefusedError(
                f"the settings of {source} take a part from elsewhere, which is not followed ({key} "
                f"{str(value)[:80]!r}): remove that from them"
            )


def check_ends(settings: Mapping[str, Any], file: str, source: Any) -> None:
    """ValueError for ends of a text that are no ids of tokens."""
    for key, value in values_in(settings):
        if key == "eos_token_id" and value is not None:
            ids = value if isinstance(value, list) else [value]
            if not all(type(each) is int and 0 <= each < 1 << 31 for each in ids):
                raise ValueError(
                    f"{file} of {source} has eos_token_id {str(value)[:80]!r}, not ids of tokens: correct it"
                )


def foreign_ways(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The ways to compute that settings name and that need other packages than torch, or kernels of the hub."""
    return {
        key: value
        for key, value in values_in(settings)
        if key.removeprefix("_") in IMPLEMENTATIONS and value not in (None, *PLAIN)
    }


def settings_of(source: str | Path, subfolder: str = "", name: str = "config.json") -> dict[str, Any]:
    """The settings of a folder or hub id; empty where there are none or they cannot be read, which the loader tells."""
    place = file_of(source, subfolder, name)
    try:
        return {} if place is None else read_json(place)
    except ValueError:
        return {}


def file_of(source: str | Path, subfolder: str, name: str) -> Path | None:
    """A file of a folder, or of a hub id, from which it is fetched; None where there is none."""
    place = Path(source, subfolder, name)
    if not Path(source).exists():
        from transformers.utils.hub import cached_file

        repository, revision = split_revision(source)
        try:
            found = cached_file(repository, name, subfolder=subfolder, revision=revision)
        except (OSError, ValueError):
            return None
        if found is None:
            return None
        place = Path(found)
    return place if place.is_file() else None
