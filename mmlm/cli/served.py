"""The models that a server serves, as `mmlm serve` and `mmlm ui` take them."""

from __future__ import annotations

import argparse
import functools
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from mmlm.cli.loading import check_pack, device_of, load_model
from mmlm.cli.options import (
    CODECS,
    PARTS,
    add_device_option,
    add_dtype_option,
    add_pack_option,
    add_part_options,
    file_path,
)

if TYPE_CHECKING:
    from mmlm.assembly.multimodal_lm import MultimodalLM


def add_models(verb: argparse.ArgumentParser) -> None:
    """The models, and where the server listens."""
    verb.add_argument(
        "models", nargs="*", type=file_path, metavar="MODEL", help="presets, folders or hub ids (default: nano)"
    )
    verb.add_argument("--port", type=int, default=8000, metavar="N", help="0 takes a free one (default: 8000)")


def add_model_options(verb: argparse.ArgumentParser) -> None:
    """The options of loading them."""
    add_part_options(verb, joining=False)
    add_device_option(verb)
    add_dtype_option(verb)
    add_pack_option(verb)


def loaders_of(args: argparse.Namespace) -> dict[str, Callable[[], MultimodalLM]]:
    """What loads each model, by its name. ValueError for a wrong port, and for models that cannot be served together;
    ImportError without the extra.
    """
    if not 0 <= args.port < 1 << 16:
        raise ValueError(f"--port is 0 to 65535, not {args.port}")
    names = args.models or ["nano"]
    if len(set(names)) < len(names):
        raise ValueError("a model is named twice")
    given = [part for part in (*PARTS, *CODECS) if vars(args)[part] is not None]
    if given and len(names) > 1:
        raise ValueError(f"--{given[0].replace('_', '-')} is of one model: serve that one alone")
    check_pack(args, device_of(args))
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ImportError("serving needs the extra: pip install 'mmlm[serve]'") from error
    each = {name: argparse.Namespace(**{**vars(args), "model": name}) for name in names}
    loading = _Loading()
    return {name: functools.partial(loading, own) for name, own in each.items()}


class _Loading:
    """Loads models one after the other, each beside those that are in memory still."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._models: weakref.WeakSet[MultimodalLM] = weakref.WeakSet()

    def __call__(self, args: argparse.Namespace) -> MultimodalLM:
        with self._turn:
            model = load_model(args, beside=list(self._models))
            self._models.add(model)
        return model

    def __reduce__(self) -> tuple[type[_Loading], tuple[()]]:
        return _Loading, ()  # another process has models of its own
