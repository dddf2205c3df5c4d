"""Files of the Hugging Face hub, with their size told before the download starts."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

LANGUAGE_MODEL_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "pytorch_model*.bin")


def fetch(wanted: Mapping[str, Sequence[str]]) -> dict[str, Path]:
    """Repositories and the patterns of their files → folders of the hub's cache that hold them.

    What is missing is summed up on standard error first; then huggingface_hub downloads it, with its own bars. Of
    weights in two formats only the safetensors are fetched. `FileNotFoundError` for what is neither cached nor to be
    had.
    """
    plans = {repo: _plan(repo, patterns) for repo, patterns in wanted.items()}
    sizes = {repo: size for repo, (_, size) in plans.items() if size}
    if sizes:
        parts = ", ".join(f"{gigabytes(size)} of {repo}" for repo, size in sizes.items())
        print(f"downloading {gigabytes(sum(sizes.values()))}: {parts}", file=sys.stderr, flush=True)
    return {repo: _snapshot(repo, names) for repo, (names, _) in plans.items()}


def gigabytes(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"


def _plan(repo: str, patterns: Sequence[str]) -> tuple[list[str], int]:
    """Names of the files to have of a repository, and how many bytes of them are missing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError

    try:
        files = snapshot_download(repo, allow_patterns=list(patterns), dry_run=True)
    except DryRunError:  # offline: the cache has it, or `_snapshot` says that it has not
        return list(patterns), 0
    except Exception as error:
        raise FileNotFoundError(f"{repo} cannot be fetched from the hub: {error}") from error
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
        raise FileNotFoundError(f"{repo} could not be fetched from the hub: {error}") from error
