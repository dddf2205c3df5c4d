"""The figures of a replica's engines, among Ray's own, which Prometheus reads on each machine of the cluster."""

from __future__ import annotations

import threading
import time
from typing import Any

from mmlm.serving.metrics import COUNTS, GAUGES, TIMED, TIMES, Note
from mmlm.serving.models import Models

SECONDS = 5.0  # between two looks


def noting() -> Note:
    """Tells Ray the times of requests. Prometheus adds up the histograms of the replicas, bucket by bucket."""
    from ray.util.metrics import Histogram  # pyright: ignore[reportMissingImports]

    histograms = {name: Histogram(f"mmlm_{name}", about, list(TIMES), ("model",)) for name, about in TIMED.items()}

    def note(name: str, model: str, seconds: float) -> None:
        histograms[name].observe(seconds, {"model": model})

    return note


def telling(models: Models) -> threading.Thread:
    """A thread that tells them for as long as the process is there."""
    thread = threading.Thread(target=_tell_for_ever, args=(models,), name="mmlm-figures", daemon=True)
    thread.start()
    return thread


def _tell_for_ever(models: Models) -> None:
    from ray.util.metrics import Counter, Gauge  # pyright: ignore[reportMissingImports]

    counters = {name: Counter(f"mmlm_{name}", about, ("model",)) for name, about in COUNTS.items()}
    gauges = {name: Gauge(f"mmlm_{name}", about, ("model",)) for name, about in GAUGES.items()}
    told: dict[tuple[Any, str], int] = {}
    while True:
        for loaded in models.loaded():
            tags = {"model": loaded.name}
            for name, counter in counters.items():
                value, before = getattr(loaded.engine.counts, name), told.get((loaded, name), 0)
                if value > before:
                    counter.inc(value - before, tags)
                told[loaded, name] = value
            for name, gauge in gauges.items():
                gauge.set(getattr(loaded.engine, name), tags)
        time.sleep(SECONDS)
