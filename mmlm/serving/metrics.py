"""What a server tells Prometheus of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from mmlm.serving.models import Loaded, Models
from mmlm.serving.recordings import TranscriptTicket
from mmlm.serving.ticket import Ticket, Token

TIMES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)  # seconds

COUNTS = {
    "requests": "Requests that an engine took", "finished": "Requests that ended well",
    "failed": "Requests that failed", "cancelled": "Requests whose callers left, or that a closing server gave up",
    "prompt_tokens": "Tokens of prompts that were read",
    "known_tokens": "Tokens of prompts that were known and not read again", "generated_tokens": "Tokens written",
    "steps": "Steps of decoding", "windows": "Windows of recordings that were written down",
}  # fmt: skip
GAUGES = {"waiting": "Requests that wait", "running": "Requests being written, or written down"}
TIMED = {
    "first_token_seconds": "From the engine's taking a request to its first token",
    "between_tokens_seconds": "Between two tokens of a request's first text",
    "writing_seconds": "From the first token of a request to its end",
    "first_window_seconds": "From the engine's taking a recording to the text of its first window",
}  # fmt: skip

Note = Callable[[str, str, float], None]
"""Takes one of `TIMED`, the name of a model, and seconds."""


class Metrics:
    """Counters and times of one server, in a registry of its own.

    note: gets each time of `TIMED` as well.
    """

    def __init__(self, models: Models, note: Note | None = None) -> None:
        self.registry, self._note = CollectorRegistry(), note
        own: dict[str, Any] = {"registry": self.registry}
        self._requests = Counter("mmlm_http_requests", "Requests by path and status", ["path", "status"], **own)
        self._seconds = Histogram("mmlm_http_request_seconds", "Whole requests", ["path"], buckets=TIMES, **own)
        self._timed = {
            name: Histogram(f"mmlm_{name}", about, ["model"], buckets=TIMES, **own) for name, about in TIMED.items()
        }
        self.registry.register(_Engines(models))
        ProcessCollector(registry=self.registry)

    def note_request(self, path: str, status: int, seconds: float) -> None:
        """A request that was answered."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def note_ticket(self, model: str, ticket: Ticket[Token, Any]) -> None:
        """A prompt that the engine is done with."""
        times = ticket.times
        if not times.first_token or not times.ended:
            return
        self._time("first_token_seconds", model, times.first_token - times.submitted)
        for seconds in times.between:
            self._time("between_tokens_seconds", model, seconds)
        self._time("writing_seconds", model, times.ended - times.first_token)

    def note_recording(self, model: str, ticket: TranscriptTicket) -> None:
        """A recording that the engine is done with."""
        if ticket.times.first_token:
            self._time("first_window_seconds", model, ticket.times.first_token - ticket.times.submitted)

    def _time(self, name: str, model: str, seconds: float) -> None:
        self._timed[name].labels(model).observe(seconds)
        if self._note is not None:
            self._note(name, model, seconds)

    def page(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self.registry)


class _Engines(Collector):
    """The counts of the engines of the models that are loaded, as they stand when they are asked for."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """One family for each count."""
        loaded: list[Loaded] = self._models.loaded()
        for name, about in COUNTS.items():
            family = CounterMetricFamily(f"mmlm_{name}", about, labels=["model"])
            for one in loaded:
                family.add_metric([one.name], getattr(one.engine.counts, name))
            yield family
        for name, about in GAUGES.items():
            gauge = GaugeMetricFamily(f"mmlm_{name}", about, labels=["model"])
            for one in loaded:
                gauge.add_metric([one.name], getattr(one.engine, name))
            yield gauge
