"""The files of a model that lies in a folder or on the Hugging Face hub, one by one."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoders.hub import hub_file


@dataclass(frozen=True)
class ModelFiles:
    """The files of a folder, or of a hub id, which are downloaded once, when they are asked for."""

    name: str

    @property
    def is_folder(self) -> bool:
        """Whether it lies on this machine; a folder comes before a hub id of the same name."""
        return Path(self.name).is_dir()

    def find(self, file: str) -> Path | None:
        """Where a file lies; None where the model has none of that name.

        FileNotFoundError where the hub cannot be reached, or gives nothing by this id. With HF_HUB_OFFLINE set, what is
        not in the cache counts as absent.
        """
        if self.is_folder:
            place = Path(self.name, file)
            return place if place.is_file() else None
        return hub_file(self.name, file)

    def need(self, *files: str) -> Path:
        """Where the first of some files lies that is there; FileNotFoundError, which names them, without any."""
        for file in files:
            if (place := self.find(file)) is not None:
                return place
        others = f" (or {', '.join(files[1:])})" if files[1:] else ""
        raise FileNotFoundError(f"{self.name} lacks {files[0]}{others}{'' if self.is_folder else self._cache()}")

    def names(self) -> list[str]:
        """The names of all files, for messages; none where the hub does not tell them."""
        if self.is_folder:
            return sorted(os.listdir(self.name))
        from huggingface_hub import HfApi

        try:  # once: listing the files page by page would try again for half a minute
            return sorted(file.rfilename for file in HfApi().model_info(self.name, timeout=10).siblings or ())
        except Exception:  # the message does without them
            return []

    def _cache(self) -> str:
        from huggingface_hub import is_offline_mode

        return " in the cache, and with HF_HUB_OFFLINE set nothing is fetched" if is_offline_mode() else " on the hub"


def read_settings(source: str, name: str) -> dict[str, Any] | None:
    """A JSON file of a folder or hub id; None if there is none. ValueError for what is no JSON, or no object of it."""
    file = Path(source, name) if Path(source).is_dir() else hub_file(source, name)
    return read_json(file) if file is not None and file.is_file() else None


def read_json(file: Path) -> dict[str, Any]:
    """The settings in a JSON file. ValueError for what is no JSON, or no object of it."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{file} is damaged: it is nested without an end") from error
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} is damaged: it holds no settings")
    return found
