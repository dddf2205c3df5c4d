"""Names on the Hugging Face hub, and its errors in one line that says what to do."""

from __future__ import annotations

import re
from pathlib import Path

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(?:@[\w./-]+)?")  # owner/name, with a revision or without
_NAMED = re.compile(r"(?P<id>\w[\w.-]*(?:/\w[\w.-]*)?)@(?P<revision>[\w./-]+)")


def split_revision(name: str | Path) -> tuple[str, str | None]:
    """`user/model@revision` as ("user/model", "revision"); other names, and paths that are there, with None."""
    found = _NAMED.fullmatch(str(name))
    if found is None or Path(name).exists():
        return str(name), None
    return found["id"], found["revision"]


def hub_file(name: str, file: str) -> Path | None:
    """A file of a hub id, fetched once; None where the repository has none of that name.

    FileNotFoundError, in one line, where the hub cannot be reached or gives nothing by this id. With HF_HUB_OFFLINE
    set, what is not in the cache counts as absent.
    """
    from huggingface_hub import hf_hub_download, is_offline_mode, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, revision = split_revision(name)
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError) and not is_offline_mode():
            known = try_to_load_from_cache(repository, file, revision=revision)
            if known is None or isinstance(known, str):  # the cache does not know that it has none
                raise FileNotFoundError(hub_fault(name, error)) from error
        return None
    except Exception as error:  # of many types: no such repository, no right to it, a full disk, a wrong mirror
        first = "".join(str(error).strip().splitlines()[:1])
        told = hub_fault(name, error) or f"{name!r} could not be fetched ({type(error).__name__}): {first}"
        raise FileNotFoundError(told) from error


def hub_files(name: str) -> list[str]:
    """The names of a hub id's files; of those in the cache where the hub does not tell."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    repository, revision = split_revision(name)
    try:
        return HfApi().list_repo_files(repository, revision=revision)
    except Exception:  # of many types, as above; nothing may be fetched, or a mirror has no lists
        known = try_to_load_from_cache(repository, "config.json", revision=revision)
        return [file.name for file in Path(known).parent.iterdir()] if isinstance(known, str) else []


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
