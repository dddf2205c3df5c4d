"""Single files of a folder or of the Hugging Face hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_settings(source: str, name: str) -> dict[str, Any] | None:
    """A JSON file of a folder or hub id; None if there is none. ValueError for what is no JSON, or no object of it."""
    file = Path(source, name) if Path(source).is_dir() else hub_file(source, name)
    if file is None or not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{file} is nested without an end") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds no settings")
    return found


def hub_file(repo: str, name: str) -> Path | None:
    """A file of a hub id, fetched once; None if the repository has none, or if it is not in the cache and the hub is
    out of reach.

    FileNotFoundError for a repository that does not exist or may not be read, in one line.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        return Path(hf_hub_download(repo, name))
    except EntryNotFoundError:  # LocalEntryNotFoundError is one
        return None
    except GatedRepoError as error:
        raise FileNotFoundError(
            f"{repo!r} is for those who accepted its terms: accept them at https://huggingface.co/{repo}, then log in "
            "with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"the hub has no model {repo!r}; if it is a private one, log in with `hf auth login`"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise FileNotFoundError(f"cannot read {repo!r} of the hub: {str(error).splitlines()[0]}") from error
