"""Files of the Hugging Face hub, whose total size is printed before the download starts."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from encoders.hub import hub_fault

LANGUAGE_MODEL_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "pytorch_model*.bin")


def fetch(wanted: Mapping[str, Sequence[str]]) -> dict[str, Path]:
    """Downloads files that the hub's cache lacks: repositories with patterns of file names → their cached folders.

    The size of the missing files is printed to standard error first; huggingface_hub then shows its progress bars. Of
    weights in two formats only the safetensors are fetched. `FileNotFoundError` for files that are neither cached nor
    available.
    """
    plans = {repo: _plan(repo, patterns) for repo, patterns in wanted.items()}
    sizes = {repo: size for repo, (_, size) in plans.items() if size}
    if sizes:
        parts = ", ".join(f"{gigabytes(size)} of {repo}" for repo, size in sizes.items())
        print(f"downloading {gigabytes(sum(sizes.values()))}: {parts}", file=sys.stderr, flush=True)
    return {repo: _snapshot(repo, names) for repo, (names, _) in plans.items()}


def gigabytes(size: int) -> str:
    """A number of bytes as text, in GB or MB."""
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"


def _plan(repo: str, patterns: Sequence[str]) -> tuple[list[str], int]:
    """The names of a repository's files to fetch, and how many bytes of them are missing in the cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError

    try:
        files = snapshot_download(repo, allow_patterns=list(patterns), dry_run=True)
    except DryRunError:  # offline: `_snapshot` finds the files in the cache, or raises
        return list(patterns), 0
    except Exception as error:
        raise FileNotFoundError(_fault(repo, error)) from error
    files = [file for file in files if "/" not in file.filename]
    if any(file.filename.endswith(".safetensors") for file in files):
        files = [file for file in files if not file.filename.endswith(".bin")]
    if not files:
        raise FileNotFoundError(f"{repo} has none of the files {', '.join(patterns)}")
    return [file.filename for file in files], sum(file.file_size or 0 for file in files if file.will_download)


def _snapshot(repo: str, names: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, allow_patterns=names))
    except Exception as error:
        raise FileNotFoundError(_fault(repo, error)) from error


def _fault(repo: str, error: Exception) -> str:
    """Why a repository could not be fetched, in one line."""
    return hub_fault(repo, error) or f"{repo} could not be fetched from the hub: {' '.join(str(error).split())}"
