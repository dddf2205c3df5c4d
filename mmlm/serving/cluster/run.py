"""A server on a Ray cluster, until it is interrupted."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from mmlm.serving.cluster.scale import Scale
from mmlm.serving.options import EngineOptions
from mmlm.serving.run import Loaders, Place
from mmlm.serving.settings import Settings

NAME = "mmlm"


def begin(
    loaders: Loaders,
    settings: Settings,
    place: Place,
    options: EngineOptions,
    address: str,
    scale: Scale,
    **models: Any,
) -> None:
    """Starts it, and returns once the first model is loaded everywhere. Its machines all listen at the place.

    address: of the cluster, "auto" for the one that this machine belongs to. models: keywords of `Models`.
    ImportError without the extra `ray`; ConnectionError where there is no cluster; RuntimeError where it cannot begin;
    ValueError for TLS beside Ray's HAProxy, which would speak plain http all the same.
    """
    if place.tls_certificate is not None and os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        raise ValueError("Ray's HAProxy speaks no TLS: unset RAY_SERVE_ENABLE_HA_PROXY, or leave out --tls-certificate")
    try:
        import ray.exceptions  # pyright: ignore[reportMissingImports]
        import ray.serve  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("Ray is not installed: pip install 'mmlm[ray,serve]'") from error
    from ray import serve  # pyright: ignore[reportMissingImports]
    from ray.serve.config import HTTPOptions, ProxyLocation  # pyright: ignore[reportMissingImports]
    from ray.serve.schema import LoggingConfig  # pyright: ignore[reportMissingImports]

    from mmlm.serving.cluster.deployed import application

    if not ray.is_initialized():
        ray.init(address=address)
    logs = LoggingConfig(enable_access_log=False)  # of paths, which users write
    tls = {"ssl_certfile": place.tls_certificate, "ssl_keyfile": place.tls_key or place.tls_certificate}
    http = HTTPOptions(host=place.host, port=place.port, **tls)
    try:
        serve.start(proxy_location=ProxyLocation.EveryNode, http_options=http, logging_config=logs)
        serve.run(application(loaders, settings, options, models, scale), name=NAME, logging_config=logs)
    except ray.exceptions.RayError as error:
        what = " ".join(str(error).split())
        raise RuntimeError(f"Ray Serve could not begin: {what}") from error


def serve_on_ray(*given: Any, **models: Any) -> None:
    """Serves as `begin` does, until this process is interrupted or told to end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begin(*given, **models)
    try:
        threading.Event().wait()
    finally:
        from ray import serve  # pyright: ignore[reportMissingImports]

        serve.delete(NAME)
