"""Several models of one server: each is loaded when it is first asked for, and unloaded when it is not used."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mmlm.model.network import MultimodalNetwork
from mmlm.serving.engine import Engine, EngineOptions
from mmlm.serving.ticket import BusyError


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model in memory, with the engine that decodes its requests."""

    name: str
    model: MultimodalNetwork
    engine: Engine


class Models:
    """The models of a server, by name. To be used in one event loop.

    loaders: what loads each. options: of each one's engine. max_loaded: how many may be in memory; beyond it the one
    that was not used for longest is unloaded. idle_seconds: after which one that nobody uses is unloaded.
    """

    def __init__(
        self,
        loaders: Mapping[str, Callable[[], MultimodalNetwork]],
        options: EngineOptions = EngineOptions(),
        *,
        max_loaded: int | None = None,
        idle_seconds: float | None = None,
    ) -> None:
        if not loaders:
            raise ValueError("there is no model to serve")
        if max_loaded is not None and max_loaded < 1:
            raise ValueError(f"max_loaded must be at least 1, not {max_loaded}")
        if idle_seconds is not None and not idle_seconds > 0:
            raise ValueError(f"idle_seconds must be above 0, not {idle_seconds}")
        self._loaders, self._options = dict(loaders), options
        self._max_loaded, self._idle_seconds = max_loaded, idle_seconds
        self._tasks: dict[str, asyncio.Task[Loaded]] = {}
        self._unloading: set[asyncio.Future[None]] = set()
        self._users: Counter[str] = Counter()
        self._used: dict[str, float] = {}
        self.began = int(time.time())

    @property
    def names(self) -> list[str]:
        """All models, loaded or not."""
        return list(self._loaders)

    def loaded(self) -> list[Loaded]:
        """Those in memory."""
        done = [task for task in self._tasks.values() if task.done() and not task.cancelled()]
        return [task.result() for task in done if task.exception() is None]

    @asynccontextmanager
    async def using(self, name: str) -> AsyncIterator[Loaded]:
        """The model of this name, which stays in memory meanwhile.

        KeyError for a name that is none. BusyError where as many models as may be loaded are in use. Errors of loading
        come out, and the next request tries again.
        """
        if name not in self._loaders:
            raise KeyError(name)
        self._users[name] += 1
        try:
            yield await self._load(name)
        finally:
            self._users[name] -= 1
            self._used[name] = time.monotonic()
            if self._idle_seconds is not None and not self._users[name]:
                asyncio.get_running_loop().call_later(self._idle_seconds, self._unload_if_idle, name)

    async def close(self) -> None:
        """Unloads all; requests that run end with a CancelledError."""
        for name in list(self._tasks):
            await self._unload(name)

    async def _load(self, name: str) -> Loaded:
        if (task := self._tasks.get(name)) is None:
            self._tasks[name] = task = asyncio.create_task(self._loading(name))
        try:
            return await asyncio.shield(task)  # one client that leaves does not end it for others
        except BaseException:
            failed = task.done() and (task.cancelled() or task.exception() is not None)
            if failed and self._tasks.get(name) is task:
                del self._tasks[name]
            raise

    async def _loading(self, name: str) -> Loaded:
        while self._max_loaded is not None and len(self._tasks) > self._max_loaded:
            idle = [other for other in self._tasks if not self._users[other]]
            if not idle:
                raise BusyError("as many models as may be loaded are in use: try again later")
            await self._unload(min(idle, key=lambda other: self._used.get(other, 0.0)))
        model = await asyncio.to_thread(self._loaders[name])
        return Loaded(name, model, Engine(model, self._options))

    def _unload_if_idle(self, name: str) -> None:
        assert self._idle_seconds is not None, "it set the clock"
        waited = time.monotonic() - self._used[name]
        if name in self._tasks and not self._users[name] and waited > 0.9 * self._idle_seconds:
            unloading = asyncio.ensure_future(self._unload(name))
            self._unloading.add(unloading)  # the loop itself keeps weak references alone
            unloading.add_done_callback(self._unloading.discard)

    async def _unload(self, name: str) -> None:
        task = self._tasks.pop(name)
        try:
            loaded = await task
        except Exception:  # noqa: BLE001 - its requests were told
            return
        await asyncio.to_thread(loaded.engine.close)
        del task, loaded
        gc.collect()
