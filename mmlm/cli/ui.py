"""Use models on a page in the browser: chat, draw, speak, transcribe, compare."""

from __future__ import annotations

import argparse

from mmlm.cli.served import add_model_options, add_models, loaders_of

EXAMPLES = """\
  mmlm ui --open
  mmlm ui nano runs/first/model --port 8080        (two models, which can be compared)"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_models(verb)
    verb.add_argument("--open", action="store_true", help="show the page in the browser")
    add_model_options(verb)


def run(args: argparse.Namespace) -> None:
    """Serves this machine alone until it is interrupted; its address is printed."""
    loaders = loaders_of(args)
    from mmlm.serving.page.run import serve_page

    serve_page(loaders, args.port, opens=args.open)
