"""Train adapters on pictures paired with text, codecs, or a model to draw and speak."""

from __future__ import annotations

import argparse

from mmlm.cli.options import add_json_option
from mmlm.cli.output import print_record

EXAMPLES = """\
  mmlm train recipe.yaml
  mmlm train recipe.yaml steps=200 learning_rate=1e-3 output=runs/second
  mmlm train recipe.yaml --json                    (prints the folder and the last losses)"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verb.add_argument("recipe", metavar="RECIPE.yaml")
    verb.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="values in place of the recipe's")
    add_json_option(verb)


def run(args: argparse.Namespace) -> None:
    """One run of a recipe; the folder of what it trained."""
    from mmlm.training import train_from_recipe

    result = train_from_recipe(args.recipe, args.overrides)
    print_record(args, {**vars(result), "model": str(result.model)}, str(result.model))
