"""The command line, `mmlm VERB ...`.

`command.py` builds the parser and runs a verb; each verb is one file with its options and what it does. They share
`options.py`; `inputs.py`, the files, folders, patterns and data given, and where their output goes; `batch.py`, which
does the others where one cannot be used; `messages.py`, errors in the words of the command line; `loading.py` and
`output.py`, what is read and printed. Nothing heavy is imported before a verb has checked what it was given, so that
`mmlm --help` answers at once.
"""

from mmlm.cli.command import build_parser, main

__all__ = ["build_parser", "main"]
