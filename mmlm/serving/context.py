"""What all endpoints share: the models, the settings, threads for work, and the figures."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from fastapi import Request

from mmlm.serving.errors import ApiError, tell
from mmlm.serving.media import MediaDoor
from mmlm.serving.metrics import Metrics
from mmlm.serving.models import Loaded, Models
from mmlm.serving.settings import Settings
from mmlm.serving.ticket import BusyError, lightened

T = TypeVar("T")

THREADS = max(2, (os.cpu_count() or 1) // 2)  # for work


class Workers:
    """Threads for work of one kind, of which at most `most` pieces are done or wait; `threads` of them.

    A piece counts until its thread is done with it, also where its caller waits no longer.
    """

    def __init__(self, name: str, most: int, threads: int = THREADS) -> None:
        self._most, self._waiting = most, 0
        self._turn = threading.Lock()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"mmlm-{name}")

    async def run(self, work: Callable[[], T], left: threading.Event | None = None) -> T:
        """Does work in one of the threads. BusyError where as much as may wait does.

        left: is set where the caller waits no longer, for work that looks at it.
        """
        if self._waiting >= self._most:
            raise BusyError(f"{self._waiting} requests wait already: try again later")

        def without_gradients() -> T:
            try:
                with torch.no_grad():  # which is a thread's own setting
                    return work()
            except Exception:
                raise
            except BaseException as error:  # of an extension that panics: callers look for no other than ordinary ones
                raise lightened(error) from None

        done = self._pool.submit(without_gradients)
        with self._turn:
            self._waiting += 1
        done.add_done_callback(self._count_down)
        try:
            return await asyncio.wrap_future(done)
        except asyncio.CancelledError:
            if left is not None:
                left.set()
            raise

    def _count_down(self, _: Future[Any]) -> None:
        with self._turn:
            self._waiting -= 1

    def close(self) -> None:
        """Ends the threads, once they have done what they do."""
        self._pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, eq=False)
class Context:
    """quick: for prompts, decoding and encoding of media; slow: for what waits until recordings are written down."""

    models: Models
    settings: Settings
    metrics: Metrics
    quick: Workers
    slow: Workers

    def door(self) -> MediaDoor:
        """The door for the media of one request."""
        return MediaDoor(self.settings.limits, self.settings.hosts)

    @asynccontextmanager
    async def using(self, name: str) -> AsyncIterator[Loaded]:
        """The model that a request names; ApiError for one that is not served, or cannot be loaded."""
        if name not in self.models.names:
            known = ", ".join(self.models.names)
            raise ApiError(404, f"there is no model {name[:80]!r} here; there are {known}", "model", "model_not_found")
        loading = True
        try:
            async with self.models.using(name) as loaded:
                loading = False
                yield loaded
        except (BusyError, ApiError):
            raise
        except Exception as error:
            if not loading:
                raise
            tell(error)
            raise ApiError(503, f"the model {name!r} cannot be loaded", "model", "model_not_loaded") from None


def context_of(request: Request) -> Context:
    """The context of the app that a request came to."""
    return request.app.state.context
