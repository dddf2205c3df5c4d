"""Which kernel computes a layer: the one that was fastest on this machine, for these sizes and this many inputs.

The kernels that fit take turns on some layers of one shape, and the least time of each call counts, since other
programs only add to it. A kernel keeps its place unless a later one is clearly faster, twice. What was chosen holds
for the process and, in a file for each processor, number of threads and version of torch, for later ones too: so the
same machine gives the same bits. A file that cannot be read or written is done without.
"""

import functools
import hashlib
import json
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmlm.acceleration.kernels import HALVES, Kernel, Product, Weights, kernels
from mmlm.acceleration.tape import unrecorded

log = logging.getLogger(__name__)

ROWS = (1, 4, 16, 256)  # a choice holds for up to so many inputs, and the last for all beyond
TIMED = {1: 1, 4: 4, 16: 8, 256: 64}  # inputs that it is timed with
MARGIN = 0.95  # a later kernel must take less than this share of an earlier one's time
ROUNDS = 2, 20  # turns that each kernel has at least and at most
SECONDS = 0.005  # of turns, beyond the least number
SAMPLED = 2**22  # weights of all sampled layers: more than the cores' own caches hold, as the weights of a model are
LARGEST = 2**22  # weights of a layer that are timed; the time of a larger one is proportional
FORMAT = 2  # of the file, and of the kernels' names

_lock = threading.Lock()
_known: dict[Path, dict[str, str]] = {}  # choices by the file that keeps them
_declined: dict[str, str] = {}  # kernel and sizes → why it is not used


def rows_of(count: int) -> int:
    """The one of ROWS that stands for so many inputs."""
    return next((rows for rows in ROWS if count <= rows), ROWS[-1])


def declined() -> dict[str, str]:
    """Kernels that fit but failed on this machine, with the sizes, and why."""
    return dict(_declined)


def choose(sampled: Sequence[tuple[Tensor, Tensor | None]], weights: Weights, dtype: torch.dtype, rows: int) -> str:
    """The name of the kernel for layers like the first of `sampled`: weights `[out, in]` and biases.

    dtype: of the inputs; rows: one of ROWS.
    """
    first, bias = sampled[0]
    wide = dtype == torch.float32 and first.dtype in HALVES
    fitting = kernels(first, weights, wide)
    if len(fitting) == 1:
        return fitting[0].name
    names = [kernel.name for kernel in fitting]
    sizes = f"{'x'.join(map(str, first.shape))} {str(first.dtype)[6:]}{'' if bias is None else ' with bias'}"
    sizes += "" if first.is_contiguous() else " transposed"
    key = f"{sizes}, {str(dtype)[6:]} inputs, {weights}, of {' | '.join(names)}, up to "
    file = _file()
    with _lock:
        known = _known.setdefault(file, _read(file))
        if known.get(f"{key}{rows}") not in names:
            with unrecorded(), torch.no_grad(), torch.autocast("cpu", enabled=False):
                found = _fastest(sampled, fitting, dtype, sizes)
            known.update({f"{key}{own}": name for own, name in found.items()})
        return known[f"{key}{rows}"]


def save() -> None:
    """Keeps what was chosen for later processes. A choice that another process has kept meanwhile stays, for both."""
    with _lock:
        for file, known in _known.items():
            kept = _read(file)
            if known.items() <= kept.items():
                continue
            known.update(kept)
            part = file.with_name(f"{file.name}.{os.getpid()}")
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                part.write_text(json.dumps({"machine": machine(), "choices": known}, indent=1))
                part.replace(file)
            except OSError as error:
                log.info("the choice of kernels is not kept for later processes: %s", error)


def machine() -> dict[str, Any]:
    """All that the choices depend on, but for sizes."""
    limits = ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")
    return {
        "format": FORMAT,
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "quantised": torch.backends.quantized.engine,
        "limits": {name: os.environ[name] for name in limits if name in os.environ},
    }


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "flags"))]
    digest = hashlib.sha256(" ".join(names[1:2]).encode()).hexdigest()[:8]
    return f"{names[0]} {digest}" if names else f"{platform.machine()} {platform.processor()}"


def _file() -> Path:
    """Where the choices of this machine are kept."""
    own = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    digest = hashlib.sha256(json.dumps(machine(), sort_keys=True).encode()).hexdigest()[:16]
    return Path(own, "mmlm", "kernels", f"{digest}.json")


def _read(file: Path) -> dict[str, str]:
    try:
        choices = json.loads(file.read_text())["choices"]
        return {key: name for key, name in choices.items() if isinstance(name, str)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _fastest(
    sampled: Sequence[tuple[Tensor, Tensor | None]], fitting: list[Kernel], dtype: torch.dtype, sizes: str
) -> dict[int, str]:
    """The name of the fastest kernel by number of inputs."""
    layers = _slices(sampled)
    inputs = layers[0][0].shape[1]
    given = {
        rows: torch.randn(count, inputs, generator=torch.Generator().manual_seed(0)) for rows, count in TIMED.items()
    }
    products: dict[str, list[Product]] = {}
    for kernel in fitting:
        try:
            made = [kernel.make(weight) for weight, _ in layers]
            for run in (_call(made[0], x.to(dtype), layers[0][1]) for x in given.values()):
                run()
            products[kernel.name] = made
        except (RuntimeError, TypeError) as error:
            if kernel.name == "torch" or out_of_memory(error):
                raise
            _declined[f"{kernel.name} for {sizes}"] = str(error).strip().splitlines()[0]
    found = {}
    for rows, x in given.items():
        count = 1 if rows == ROWS[-1] else len(layers)  # where computing takes the time, caches do not matter
        runs = {
            name: [_call(product, x.to(dtype), bias) for product, (_, bias) in zip(made[:count], layers, strict=False)]
            for name, made in products.items()
        }
        found[rows] = _best(runs, cold=rows < ROWS[-1])
    return found


def _best(runs: dict[str, list[Callable[[], Tensor]]], cold: bool) -> str:
    """The first kernel, unless a later one takes its place: one that was clearly faster than its holder both times.

    So of two kernels of about the same time the earlier is chosen, and not one of them by chance. cold: whether all
    are timed the second time, too: with few inputs, the copies of two alone would stay in a cache.
    """
    first = next(iter(runs))
    once = _seconds(runs)
    faster = [name for name in runs if once[name] <= MARGIN * once[first]]
    if not faster:
        return first
    again = _seconds(runs if cold else {name: runs[name] for name in (first, *faster)})
    holder = first
    for name in faster:
        if all(seconds[name] <= MARGIN * seconds[holder] for seconds in (once, again)):
            holder = name
    return holder


def out_of_memory(error: Exception) -> bool:
    """Whether an error of torch tells that memory ended. On a CPU it has no class of its own."""
    ended = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(text in str(error) for text in ended)


def _slices(sampled: Sequence[tuple[Tensor, Tensor | None]]) -> list[tuple[Tensor, Tensor | None]]:
    """As many layers, each of no more than LARGEST weights, as all together have SAMPLED."""
    out, inputs = sampled[0][0].shape
    out = min(out, max(16, LARGEST // inputs // 16 * 16))
    count = max(1, SAMPLED // (out * inputs))
    return [(weight[:out], None if bias is None else bias[:out]) for weight, bias in sampled[:count]]


def _call(product: Product, x: Tensor, bias: Tensor | None) -> Callable[[], Tensor]:
    own = bias if bias is None else bias.to(x.dtype)
    return lambda: product(x, own)


def _seconds(runs: dict[str, list[Callable[[], Tensor]]]) -> dict[str, float]:
    """The least time of each call over the rounds, added up by kernel."""
    best = {name: [float("inf")] * len(calls) for name, calls in runs.items()}
    begun = time.perf_counter()
    for done in range(ROUNDS[1]):
        for name, calls in runs.items():
            for i, call in enumerate(calls):
                start = time.perf_counter()
                call()
                best[name][i] = min(best[name][i], time.perf_counter() - start)
        if done + 1 >= ROUNDS[0] and time.perf_counter() - begun > SECONDS:
            break
    return {name: sum(own) for name, own in best.items()}
