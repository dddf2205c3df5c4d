"""Language models from adapters of peft: the model that an adapter names, with the adapter's weights added to it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from encoders.guarded import with_adapter
from encoders.hub import split_revision
from encoders.settings import settings_of

INSTALL = "pip install 'mmlm[peft]'"


def adapter_settings(source: str | Path) -> dict[str, Any]:
    """The settings of an adapter in a folder or on the hub; empty for what is none."""
    settings = settings_of(source, name="adapter_config.json")
    return settings if "peft_type" in settings else {}


def base_of(source: str | Path) -> str:
    """The name of the model that an adapter is for: a path, or a hub id.

    A path starts from the adapter's folder, or from where the program runs. An adapter of the hub may name a hub id
    alone, which is told on standard error; ValueError for one that names a path, and without a name.
    """
    settings = adapter_settings(source)
    name = settings.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ValueError(f"the adapter {source} does not say which model it is for: set base_model_name_or_path in it")
    if not _of_hub(source):
        beside = Path(source, name)
        found = next((place for place in (beside, Path(name)) if place.exists()), None)
        if found is None and Path(name).is_absolute():
            raise FileNotFoundError(
                f"the adapter {source} is for {name}, which does not exist (any more): correct "
                "base_model_name_or_path in its adapter_config.json"
            )
        return _revised(name, settings) if found is None else str(found.resolve())
    repository, _ = split_revision(name)
    if Path(name).exists() or repository.startswith((".", "/", "~")) or repository.count("/") > 1 or "\\" in name:
        raise ValueError(
            f"the adapter {source} of the hub names its model by the path {name!r}, which is not followed: copy the "
            "adapter to a folder of your own, and correct base_model_name_or_path in its adapter_config.json"
        )
    print(f"{source} loads the model that it adapts from {name}", file=sys.stderr, flush=True)
    return _revised(name, settings)


def adapted(model: Any, source: str | Path) -> Any:
    """A model with an adapter's weights added to its own, or beside them where its own are quantised.

    ImportError without the package peft; ValueError for an adapter that does not fit, or cannot be added.
    """
    try:
        import peft  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(f"{source} is an adapter of peft, for which that package is needed: {INSTALL}") from error
    made = with_adapter(model, source)
    return made if getattr(model, "is_quantized", False) else made.merge_and_unload()


def _revised(name: str, settings: dict[str, Any]) -> str:
    revision = settings.get("revision")
    return f"{name}@{revision}" if isinstance(revision, str) and revision and "@" not in name else name


def _of_hub(source: str | Path) -> bool:
    """Whether an adapter was fetched: by its name, or as a folder within the cache of the hub."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return not Path(source).exists() or Path(source).resolve().is_relative_to(Path(HF_HUB_CACHE).resolve())
