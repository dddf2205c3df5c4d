"""The command line, `mmlm VERB ...`: the parser, which imports nothing heavy, and what each verb does."""

from mmlm.cli.command import main

__all__ = ["main"]
