"""Names on the Hugging Face hub, and its errors in one line that says what to do."""

from __future__ import annotations

import re
from pathlib import Path

_NAMED = re.compile(r"(?P<id>\w[\w.-]*(?:/\w[\w.-]*)?)@(?P<revision>[\w./-]+)")


def split_revision(name: str | Path) -> tuple[str, str | None]:
    """`user/model@revision` as ("user/model", "revision"); other names, and paths that are there, with None."""
    found = _NAMED.fullmatch(str(name))
    if found is None or Path(name).exists():
        return str(name), None
    return found["id"], found["revision"]


def hub_fault(name: str | Path, error: BaseException) -> str | None:
    """What an error of the hub, or one that came of it, means for `name` and what to do; None for other errors."""
    from huggingface_hub import constants, errors

    repository, revision = split_revision(name)
    where = "" if constants.ENDPOINT == "https://huggingface.co" else f" at {constants.ENDPOINT} (HF_ENDPOINT)"
    faults: list[tuple[type[BaseException], str]] = [
        (errors.GatedRepoError, f"{repository} is gated: accept its terms on its page of the hub{where}, then log in "
                                "with `hf auth login` or set the environment variable HF_TOKEN"),
        (errors.RepositoryNotFoundError, f"{repository!r} is no folder here, and no model of the hub{where}: correct "
                                         "the name, or log in with `hf auth login` (or HF_TOKEN) if it is private"),
        (errors.RevisionNotFoundError, f"{repository} has no revision {revision!r} on the hub{where}: name a branch, "
                                       "a tag or a commit that it has"),
        (errors.RemoteEntryNotFoundError, f"{name} is no file of the hub{where}, or lacks one: correct the name"),
        (errors.OfflineModeIsEnabled, _offline(name)),
        (errors.HfHubHTTPError, f"the hub{where} did not give {name}"),
        (errors.LocalEntryNotFoundError, f"{name} is not in the cache {constants.HF_HUB_CACHE}, or not whole, and the "
                                         f"hub{where} cannot be reached: connect to the network and try again"),
    ]  # fmt: skip
    if constants.is_offline_mode():
        faults = [(errors.LocalEntryNotFoundError, _offline(name)), *faults]
    chain = _chain(error)
    for kind, message in faults:
        for one in chain:
            if isinstance(one, kind):
                status = getattr(getattr(one, "response", None), "status_code", None)
                return f"{message} (status {status})" if kind is errors.HfHubHTTPError and status else message
    return None


def cache_fault(name: str | Path) -> str | None:
    """What it means that a name of the hub could not be loaded while nothing is fetched; None for paths, and online."""
    from huggingface_hub import constants

    return _offline(name) if constants.is_offline_mode() and not Path(name).exists() else None


def _offline(name: str | Path) -> str:
    from huggingface_hub import constants

    return (
        f"{name} is not in the cache {constants.HF_HUB_CACHE}, or not whole, and nothing is fetched while "
        "HF_HUB_OFFLINE is set: load it once without"
    )


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
