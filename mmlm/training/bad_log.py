"""Records of a stream that cannot be used: written down with their step, and no more of them than a limit."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from mmlm.data.records import BadRecord, BadRecordsError

SURE = 1000  # records of which the limit may always be bad, so that the first bad one is not too many


class BadLog:
    """The file of bad records, JSON lines with "step", "key" and "reason".

    limit: the share of all records seen that may be bad. records: of one epoch.
    """

    def __init__(self, path: Path, limit: float, records: int) -> None:
        self.path, self.limit, self.least = path, limit, min(SURE, records)
        self.count = 0

    def begin(self, step: int) -> None:
        """Before step `step`: of an earlier run, only what it found before that step is kept."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        except OSError:
            lines = []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line).get("step", step) < step]
        self.count = len(kept)
        if kept == lines:
            return
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(kept), encoding="utf-8")
        os.replace(partial, self.path)

    def add(self, step: int, bad: Sequence[BadRecord], seen: int) -> None:
        """Writes what step `step` found. BadRecordsError where more than the limit of the `seen` records are bad."""
        if not bad:
            return
        self.count += len(bad)
        lines = [json.dumps({"step": step, "key": one.key, "reason": one.reason}) + "\n" for one in bad]
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(lines)
        if self.count > self.limit * max(seen, self.least):
            raise BadRecordsError(
                f"{self.count} of {seen} records are bad, more than the limit of {self.limit:.1%} (see {self.path}); "
                f"the last: {bad[-1].key}: {bad[-1].reason}\nRepair or remove them, or raise bad_limit.",
                bad,
            )
