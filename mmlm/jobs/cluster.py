"""The processes of a job as tasks of Ray. The job's folder is the truth: a lost task is begun again elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from mmlm.jobs.work import Ranks

T = TypeVar("T")


def on_ray(function: Callable[[Ranks], T], address: str, gpus: bool) -> list[T]:
    """What `function` gives for each rank, of which there is one for each GPU of the cluster, or for each of its nodes.

    function: it must be picklable with all that it holds; the nodes have mmlm, the data, the model and the output
    folder under the same paths. address: of the cluster, "auto" for the one that this machine belongs to.
    ImportError without the extra `ray`; ConnectionError where there is no cluster; RuntimeError where no node has what
    is needed.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("Ray is not installed: pip install 'mmlm[ray]'") from error
    if not ray.is_initialized():
        ray.init(address=address)
    kind = "GPU" if gpus else "CPU"
    having = [node["Resources"][kind] for node in ray.nodes() if node["Alive"] and node["Resources"].get(kind)]
    if not having:
        raise RuntimeError(f"no node of the cluster at {address} has a {kind}")
    world = int(sum(having)) if gpus else len(having)
    folder = os.getcwd()

    def rank(number: int) -> T:
        os.chdir(folder)
        return function(Ranks(number, world))

    each = {"num_gpus": 1} if gpus else {"num_cpus": min(having)}
    task = ray.remote(max_retries=-1, scheduling_strategy="SPREAD", **each)(rank)
    try:
        return ray.get([task.remote(number) for number in range(world)])
    except ray.exceptions.RayTaskError as error:  # its own text is a traceback
        raise error.cause from None
