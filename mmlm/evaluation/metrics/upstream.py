"""pycocoevalcap, which the extra `eval` installs."""

from __future__ import annotations

import importlib
from types import ModuleType

MODULES = ("bleu.bleu_scorer", "cider.cider", "rouge.rouge", "meteor.meteor")


def coco_module(name: str) -> ModuleType:
    """A module of pycocoevalcap, one of MODULES. `ImportError`, with the extra to install, where it is missing."""
    try:
        return importlib.import_module(f"pycocoevalcap.{name}")
    except ImportError as error:
        raise ImportError("caption scores need pycocoevalcap: pip install 'mmlm[eval]'") from error


def check_scorers() -> None:
    """`ImportError`, with the extra to install, where pycocoevalcap is missing."""
    for name in MODULES:
        coco_module(name)
