"""The command line: `mmlm VERB ...`. Nothing heavy is imported until a verb has checked what it was given."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BATCH = 8  # pictures captioned at once

CAPTION_EXAMPLES = """examples:
  mmlm caption photo.jpg
  mmlm caption *.jpg --json --num-beams 3
  cat photo.jpg | mmlm caption -
  mmlm caption photo.jpg --model my-model --examples captioned/ --shots 4
"""
ANSWER_EXAMPLES = """examples:
  mmlm answer photo.jpg "what colour is the circle?"
  cat photo.jpg | mmlm answer - "how many squares are there?" --json
"""
GENERATE_EXAMPLES = """examples:
  mmlm generate --image photo.jpg --text "Output:"
  mmlm generate --image one.jpg --text "Output: a red circle." --image two.jpg --text "Output:"
  mmlm generate --text "a picture of" --temperature 0.8 --top-p 0.9 --seed 1
"""
TRAIN_EXAMPLES = """examples:
  mmlm train recipe.yaml
  mmlm train recipe.yaml steps=200 learning_rate=3e-4 output=runs/second
  mmlm train recipe.yaml --print                 (shows the whole recipe, checks it, trains nothing)
"""
EVAL_EXAMPLES = """examples:
  mmlm eval nano pairs.jsonl
  mmlm eval runs/first photos/ --limit 200 --num-beams 3
"""
MODELS_EXAMPLES = """examples:
  mmlm models
  mmlm models --json
"""


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Returns the exit code: 0 done, 2 for input that cannot be used, 130 when interrupted."""
    args = build_parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError, ImportError) as error:  # the kinds of error that bad input raises
        if args.debug:
            raise
        print(f"mmlm {args.verb}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of every verb; each verb sets `run`."""
    parser = argparse.ArgumentParser(
        prog="mmlm", description="Caption pictures, answer questions about them, and train adapters that do.",
        epilog="Try: mmlm caption photo.jpg",
    )
    parser.add_argument("--version", action="version", version=f"mmlm {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    caption = _verb(verbs, "caption", caption_verb, "caption pictures", CAPTION_EXAMPLES)
    caption.add_argument("images", nargs="+", metavar="IMAGE", help="picture files; - reads one from standard input")
    _add_model(caption)
    _add_demonstrations(caption)
    _add_generation(caption)
    _add_json(caption)

    answer = _verb(verbs, "answer", answer_verb, "answer a question about a picture", ANSWER_EXAMPLES)
    answer.add_argument("image", metavar="IMAGE", help="a picture file; - reads it from standard input")
    answer.add_argument("question", metavar="QUESTION")
    _add_model(answer)
    _add_demonstrations(answer)
    _add_generation(answer)
    _add_json(answer)

    generate = _verb(verbs, "generate", generate_verb, "continue pictures and text in any order", GENERATE_EXAMPLES)
    generate.add_argument("--image", action=_Part, metavar="IMAGE", help="a picture, at this place in the prompt")
    generate.add_argument("--text", action=_Part, metavar="TEXT", help="text, at this place in the prompt")
    _add_model(generate)
    _add_generation(generate)
    _add_json(generate)

    train = _verb(verbs, "train", train_verb, "train adapters on paired data", TRAIN_EXAMPLES)
    train.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    train.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="values that replace the recipe's")

    evaluate = _verb(verbs, "eval", eval_verb, "measure a model beside the same model given wrong pictures", EVAL_EXAMPLES)
    evaluate.add_argument("model", metavar="MODEL", help="a preset, a folder, or a hub id")
    evaluate.add_argument("data", metavar="DATA", help="a JSONL manifest, a folder with metadata.jsonl, tars, or COCO JSON")
    evaluate.add_argument("--limit", type=int, metavar="N", help="measure on the first N records only")
    evaluate.add_argument("--batch-size", type=int, default=32, metavar="N")
    _add_generation(evaluate)
    _add_json(evaluate)

    models = _verb(verbs, "models", models_verb, "list the models that need no download", MODELS_EXAMPLES)
    _add_json(models)
    return parser
