"""Use models on a page in the browser: chat, draw, speak, transcribe, compare."""

from __future__ import annotations

import argparse
import functools

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

EXAMPLES = """\
  mmlm ui --open
  mmlm ui nano runs/first/model --port 8080        (two models, which can be compared)"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verb.add_argument(
        "models", nargs="*", type=file_path, metavar="MODEL", help="presets, folders or hub ids (default: nano)"
    )
    verb.add_argument("--port", type=int, default=8000, metavar="N", help="0 takes a free one (default: 8000)")
    verb.add_argument("--open", action="store_true", help="show the page in the browser")
    add_part_options(verb, joining=False)
    add_device_option(verb)
    add_dtype_option(verb)
    add_pack_option(verb)


def run(args: argparse.Namespace) -> None:
    """Serves this machine alone until it is interrupted; its address is printed."""
    names = args.models or ["nano"]
    if len(set(names)) < len(names):
        raise ValueError("a model is named twice")
    given = [part for part in (*PARTS, *CODECS) if vars(args)[part] is not None]
    if given and len(names) > 1:
        raise ValueError(f"--{given[0].replace('_', '-')} is of one model: name that one alone")
    if not 0 <= args.port < 1 << 16:
        raise ValueError(f"--port is 0 to 65535, not {args.port}")
    check_pack(args, device_of(args))
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ImportError("the page needs the extra: pip install 'mmlm[serve]'") from error
    from mmlm.serving.page.run import serve_page

    each = {name: argparse.Namespace(**{**vars(args), "model": name}) for name in names}
    serve_page({name: functools.partial(load_model, own) for name, own in each.items()}, args.port, opens=args.open)
