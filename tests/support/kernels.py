"""Kernels of linear layers by name instead of by time: a test must not depend on what else the machine does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmlm.acceleration import choosing


def choose_by(monkeypatch: pytest.MonkeyPatch, folder: Path, names: Callable[[int], tuple[str, ...]]) -> None:
    """Lets layers compute with the first of `names(rows)` that fits them, or else with the first that fits."""

    def fastest(sampled: Any, fitting: list, dtype: Any, sizes: str) -> dict[int, str]:
        own = [kernel.name for kernel in fitting]
        return {rows: next((name for name in names(rows) if name in own), own[0]) for rows in choosing.ROWS}

    monkeypatch.setattr(choosing, "_fastest", fastest)
    monkeypatch.setattr(choosing, "_known", {})
    monkeypatch.setattr(choosing, "_file", lambda: folder / "kernels.json")


def packed(rows: int) -> tuple[str, ...]:
    """Kernels on packed weights: for few inputs FBGEMM's, for many oneDNN's."""
    return ("half", "two halves", "onednn") if rows <= 4 else ("onednn", "half")


def only(name: str) -> Callable[[int], tuple[str, ...]]:
    return lambda rows: (name,)
