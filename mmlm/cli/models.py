"""List the models that come with mmlm."""

from __future__ import annotations

import argparse

from mmlm.cli.options import add_json_option
from mmlm.cli.output import one_line, print_record

EXAMPLES = """\
  mmlm models
  mmlm models --json"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_json_option(verb)


def run(args: argparse.Namespace) -> None:
    """What comes with mmlm, or is downloaded by name, with sizes."""
    from mmlm.assembly.presets import ASSEMBLED, OPEN_FLAMINGO, PRESETS

    for name, folder in PRESETS.items():
        if not folder.is_dir():
            raise FileNotFoundError(f"the weights of {name!r} are missing from this installation: {folder}")
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        about = first_paragraph((folder / "MODEL_CARD.md").read_text(encoding="utf-8"))
        record = {"name": name, "megabytes": round(size, 1), "folder": str(folder), "about": about}
        print_record(args, record, f"{name}\t{size:.1f} MB\t{about}")
    for name, parts in ASSEMBLED.items():
        named = f"{parts.language_model}, {parts.image_encoder}, {parts.audio_encoder}"
        about = f"{named}: downloaded once, what a job needs of it; answers what is said, its adapters are untrained."
        record = {"name": name, "megabytes": 1000 * parts.gigabytes, "folder": None, "about": about}
        print_record(args, record, f"{name}\t{parts.gigabytes} GB\t{about}")
    for name, parts in OPEN_FLAMINGO.items():
        about = f"{parts['checkpoint']} on {parts['language_model']}: downloaded once, its size shown before."
        print_record(args, {"name": name, "megabytes": None, "folder": None, "about": about}, f"{name}\t\t{about}")


def first_paragraph(card: str) -> str:
    """The first paragraph of prose in a Markdown text, after its front matter and headings."""
    if card.startswith("---\n"):
        card = card[4:].partition("\n---\n")[2]
    paragraphs = (one_line(block) for block in card.split("\n\n"))
    return next((text for text in paragraphs if text and not text.startswith("#")), "")
