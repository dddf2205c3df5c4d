"""Train adapters on pictures paired with text, codecs, or a model to draw and speak; align it by preferences."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mmlm.cli.options import add_json_option
from mmlm.cli.output import print_record

if TYPE_CHECKING:
    from mmlm.training.run import Prepared

EXAMPLES = """\
  mmlm train recipe.yaml
  mmlm train recipe.yaml steps=200 learning_rate=1e-3 output=runs/second
  mmlm train recipe.yaml steps=400 extend=true     (the run that ended after fewer steps, for longer)
  mmlm train recipe.yaml --dry-run                 (what would be trained, on what and why, in how much time and memory)
  torchrun --nproc-per-node 8 -m mmlm train recipe.yaml    (the same run, shared by eight processes)
  mmlm train recipe.yaml --json                    (prints the folder and the last losses)"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments. The help has all keys of recipes as well, which are looked up when it is asked for."""
    verb.add_argument("recipe", metavar="RECIPE.yaml", help="`mmlm init` writes one to begin with")
    verb.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help="values in place of the recipe's")
    verb.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would be trained and on what, try it on a few records, keep nothing",
    )
    add_json_option(verb)
    setattr(verb, "print_help", partial(_print_help, verb))  # noqa: B010


def _print_help(verb: argparse.ArgumentParser) -> None:
    """The help with the keys of recipes before its examples. They take a moment, which other verbs need not wait."""
    from mmlm.cli.keys import keys_text

    head, mark, examples = verb.format_help().partition("examples:\n")
    print(f"{head}{keys_text()}\n\n{mark}{examples}", end="")


def run(args: argparse.Namespace) -> None:
    """One run of a recipe; the folder of what it trained. With --dry-run, what it would do."""
    if not Path(args.recipe).exists():
        raise FileNotFoundError(f"{args.recipe}: no such file; `mmlm init` writes a recipe to begin with")
    from mmlm.training import prepared_from_recipe, train_from_recipe
    from mmlm.training.ranks import is_first

    if args.dry_run:
        if int(os.environ.get("RANK", "0")) == 0:  # processes of a launcher, which are not joined for this
            _try_out(args, prepared_from_recipe(args.recipe, args.overrides))
        return
    result = train_from_recipe(args.recipe, args.overrides)
    if not is_first():
        return
    print_record(
        args, {**vars(result), "model": str(result.model), "best": result.best and str(result.best)}, str(result.model)
    )


def _try_out(args: argparse.Namespace, prepared: Prepared) -> None:
    """The plan as soon as it is known, since loading may take long, and then the trial."""
    plan = prepared.plan()
    if not args.json:
        print(plan, flush=True)
    trial = prepared.trial()
    print_record(args, {**plan.to_dict(), "trial": trial.to_dict()}, str(trial))
