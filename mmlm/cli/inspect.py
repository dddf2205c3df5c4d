"""Show what a model is made of, what it needs and what it can do."""

from __future__ import annotations

import argparse

from mmlm.cli.options import add_json_option, file_path
from mmlm.cli.output import print_record

EXAMPLES = """\
  mmlm inspect nano
  mmlm inspect chat-small      (before it is downloaded)
  mmlm inspect my-model --json"""
UNKNOWN = "not known before it is downloaded"


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verb.add_argument("model", type=file_path, metavar="MODEL", help="preset, folder or hub id")
    add_json_option(verb)


def run(args: argparse.Namespace) -> None:
    """A line for each part, then memory, jobs and whether it was trained. No weights are loaded."""
    from mmlm.assembly.inspect import inspect

    found = inspect(args.model)
    lines = [found.name]
    for part in found.parts:
        weights = "weights of a form that is not counted" if part.size else UNKNOWN
        weights = weights if part.weights is None else shown(part.weights, "weights")
        size = "" if part.size is None else f", {shown(part.size, 'B')} on disk"
        licence = "" if part.licence is None else f", {part.licence}"
        name = part.name or ("new" if part.part == "added" else "ready-made")
        lines.append(f"  {part.part.replace('_', ' '):15} {name}: {weights}{size}{licence}")
    memory = [found.memory(), found.memory(halved=True)]
    if None not in memory:
        whole, halved = (shown(size or 0, "B") for size in memory)
        lines.append(f"  {'memory':15} {whole} of weights in float32, {halved} with --dtype bfloat16")
    if found.fusion is not None:
        lines.append(f"  {'fusion':15} {found.fusion}")
    lines.append(f"  {'jobs':15} {', '.join(found.jobs)}")
    if not found.trained:
        lines.append(f"  {'adapters':15} never trained: it answers what is said, and sees and hears nothing else")
    print_record(args, found.to_dict(), "\n".join(lines))


def shown(count: int, unit: str) -> str:
    """A count in thousands, millions or billions: "3.1 M weights", "1.5 GB"."""
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            scale = name if unit == "B" else {"G": "billion", "M": "million", "k": "thousand"}[name]
            return f"{count / size:.1f} {scale}{unit if unit == 'B' else f' {unit}'}"
    return f"{count} {unit}"
