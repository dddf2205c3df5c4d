"""What Ray Serve runs: replicas, each with models and engines of its own, and doors before them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

from ray import serve  # pyright: ignore[reportMissingImports]
from ray.exceptions import RayActorError  # pyright: ignore[reportMissingImports]
from ray.serve.config import RequestRouterConfig  # pyright: ignore[reportMissingImports]
from ray.serve.exceptions import BackPressureError  # pyright: ignore[reportMissingImports]
from starlette.types import ASGIApp, Message

from mmlm.serving.app import make_app
from mmlm.serving.cluster.door import Passed, ReplicaLostError, make_door
from mmlm.serving.cluster.figures import noting, telling
from mmlm.serving.cluster.replica import answers
from mmlm.serving.cluster.scale import Scale
from mmlm.serving.models import Models
from mmlm.serving.options import EngineOptions
from mmlm.serving.run import Loaders, keep_contents_out_of_logs
from mmlm.serving.settings import Settings
from mmlm.serving.ticket import BusyError

ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
DOOR_REQUESTS = 200  # of one door, before there is another


class Replica:
    """Models with their engines, in a process of its own."""

    async def __init__(
        self, loaders: Loaders, settings: Settings, options: EngineOptions, keywords: dict[str, Any], folder: str
    ) -> None:
        """Loads the first model. folder: from which relative paths of models start."""
        os.chdir(folder)
        keep_contents_out_of_logs()
        self.models = Models(loaders, options, **keywords)
        self.app = make_app(self.models, settings, noting())
        self.telling = telling(self.models)
        async with self.models.using(self.models.names[0]):
            pass

    async def answer(self, passed: Passed) -> AsyncIterator[list[Message]]:
        """The answer to a request, as its messages come."""
        async for messages in answers(self.app, passed):
            yield messages

    async def __del__(self) -> None:
        await self.models.close()


class Door:
    """The app before the replicas."""

    def __init__(self, replicas: Any, settings: Settings) -> None:
        keep_contents_out_of_logs()
        self.replicas, self.settings = replicas, settings

    def __serve_build_asgi_app__(self) -> ASGIApp:  # noqa: N807 - what Ray calls
        return make_door(self.ask, self.settings)

    async def ask(self, passed: Passed, key: str | None) -> AsyncIterator[list[Message]]:
        """What a replica answers: that of the medium, where it is not too busy."""
        given = self.replicas.options(stream=True, **({} if key is None else {"session_id": key}))
        messages = given.answer.remote(passed)
        try:
            async for some in messages:
                yield some
        except RayActorError:
            raise ReplicaLostError from None
        except BackPressureError:
            raise BusyError("as many requests wait as may: try again later") from None
        finally:
            messages.cancel()


def application(
    loaders: Loaders, settings: Settings, options: EngineOptions, keywords: dict[str, Any], scale: Scale
) -> Any:
    """All of it, for `ray.serve.run`. keywords: of `Models`."""
    replicas = serve.deployment(
        name="replica",
        autoscaling_config={
            "min_replicas": scale.replicas, "max_replicas": scale.most, "target_ongoing_requests": options.max_rows / 2,
        },
        max_ongoing_requests=2 * options.max_rows,  # then the next replica takes what is about the same medium
        max_queued_requests=options.max_waiting,
        graceful_shutdown_timeout_s=settings.limits.timeout,
        ray_actor_options={"num_cpus": scale.cpus, "num_gpus": scale.gpus},
        request_router_config=RequestRouterConfig(
            request_router_class=ROUTER, request_router_kwargs={"num_fallback_replicas": scale.most}
        ),
    )(Replica).bind(loaders, settings, options, keywords, os.getcwd())  # fmt: skip
    doors = serve.deployment(
        name="door",
        autoscaling_config={
            "min_replicas": 1, "max_replicas": scale.most, "target_ongoing_requests": DOOR_REQUESTS,
        },
        max_ongoing_requests=10 * DOOR_REQUESTS,
        graceful_shutdown_timeout_s=settings.limits.timeout,
        ray_actor_options={"num_cpus": 0},
    )(serve.ingress()(Door)).bind(replicas, settings)  # fmt: skip
    return doors
