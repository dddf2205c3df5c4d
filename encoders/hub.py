"""The files of a model that lies in a folder or on the Hugging Face hub, one by one."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # owner/name


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
        return _downloaded(self.name, file)

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
        from huggingface_hub import list_repo_files

        try:
            return sorted(list_repo_files(self.name))
        except Exception:  # the message does without them
            return []

    def _cache(self) -> str:
        from huggingface_hub import is_offline_mode

        return " in the cache, and with HF_HUB_OFFLINE set nothing is fetched" if is_offline_mode() else " on the hub"


def _downloaded(name: str, file: str) -> Path | None:
    from huggingface_hub import hf_hub_download, is_offline_mode, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, file))
    except LocalEntryNotFoundError as error:
        known = try_to_load_from_cache(name, file)
        if is_offline_mode() or not (known is None or isinstance(known, str)):  # the cache knows that it has none
            return None
        raise FileNotFoundError(
            f"cannot fetch {file} of {name!r}: the hub cannot be reached. Connect to the network, give a folder, or "
            "set HF_HUB_OFFLINE=1 to use what is in the cache alone"
        ) from error
    except EntryNotFoundError:
        return None
    except GatedRepoError as error:
        raise FileNotFoundError(
            f"{name!r} is gated: accept its terms on its page of the hub, then log in with `hf auth login` or set "
            "HF_TOKEN"
        ) from error
    except Exception as error:  # of many types: no such repository, no right to it, a full disk, a wrong mirror
        first = str(error).strip().splitlines()[:1]
        raise FileNotFoundError(
            f"no folder {name!r}, and it could not be fetched from the hub ({type(error).__name__}): "
            f"{''.join(first)} If it is private, log in with `hf auth login` or set HF_TOKEN"
        ) from error
