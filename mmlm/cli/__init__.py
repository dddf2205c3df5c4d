"""The command line, `mmlm VERB ...`.

`command.py` builds the parser and runs a verb; each verb is one file with its options and what it does; `options.py`
holds the options that verbs share, `loading.py` and `output.py` what they read and print. Nothing heavy is imported
before a verb has checked what it was given, so that `mmlm --help` answers at once.
"""

from mmlm.cli.command import build_parser, main

__all__ = ["build_parser", "main"]
