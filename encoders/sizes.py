"""Sizes that the settings of a model tell are believed only as far as its weights have the bytes for them."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from encoders.hub import split_revision

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
SETTINGS = ("config.json", "open_clip_config.json", "adapter_config.json")
MOST_LAYERS = 10_000  # of any kind that settings may name
# Keys of settings that name such a number.
COUNTS = re.compile(r"(layers?|blocks?|depths?|layers_per_\w+|codebooks|quantizers|labels)$")
META = {"device": "meta"}
SPARE_BYTES, SPARE_TENSORS = 1 << 28, 1000  # masks, tables of positions: what no file holds
GROWTH = 16  # weights of 4 bits are first built in 32, and an allowance on top
DEFLATED = 64  # how many times its own size a zip file may hold
FACTORIES = {
    torch.arange, torch.empty, torch.empty_strided, torch.eye, torch.full, torch.hamming_window, torch.hann_window,
    torch.linspace, torch.logspace, torch.ones, torch.rand, torch.randint, torch.randn, torch.randperm, torch.zeros,
}  # fmt: skip
JOINS = {torch.cat, torch.concat, torch.stack}  # what they make is no larger than what they are given


class RefusedError(ValueError):
    """A file that asks for code to be run, or for more than it holds."""


def check_counts(config: Any, source: Any) -> None:
    """`RefusedError` for a config that names more than 10,000 layers, blocks or levels of any kind."""
    for key, value in values_in(config):
        if isinstance(value, int | float) and COUNTS.search(key) and value > MOST_LAYERS:
            raise RefusedError(f"{source} asks for more than {MOST_LAYERS:,} {key}, which no model has")


def values_in(config: Any) -> Iterator[tuple[str, Any]]:
    """All that settings hold, with its key: sections, lists, and their items by the key of the list."""
    waiting = [("", config)]
    while waiting:
        key, value = waiting.pop()
        yield key, value
        if isinstance(value, Mapping):
            waiting += ((str(own), inner) for own, inner in value.items())
        elif isinstance(value, list | tuple):
            waiting += ((key, inner) for inner in value)


def check_deflation(path: str | Path) -> None:
    """`RefusedError` for a zip file whose entries are far larger than the file; other files are not looked into."""
    try:
        with zipfile.ZipFile(path) as file:
            held = sum(entry.file_size for entry in file.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return
    if held > DEFLATED * Path(path).stat().st_size:
        raise RefusedError(f"{path} would unpack to {held / 1e9:.1f} GB, {DEFLATED} times its size and more")


@contextmanager
def believed(source: str | Path, subfolder: str = "") -> Iterator[None]:
    """While a network is built: `RefusedError` as soon as it needs more than the weights of `source` can fill.

    source: a file, a folder or a hub id that is in the cache. The limits are 16 times what the weights hold, and
    256 MB and 1000 tensors beside. Of several, one inside the other, the innermost counts.
    """
    allowance = _Allowance(source, subfolder)
    token = _innermost.set(allowance)
    try:
        with allowance:
            yield
    finally:
        _innermost.reset(token)


class _Allowance(TorchFunctionMode):
    """Counts what is made in this thread, on the meta device and before memory is taken for it."""

    def __init__(self, source: str | Path, subfolder: str) -> None:
        super().__init__()
        self.source, self.subfolder = source, subfolder
        self.bytes = self.tensors = 0
        self.limits: tuple[float, float] = (SPARE_BYTES, SPARE_TENSORS)
        self.asked = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _innermost.get() is not self:
            return func(*args, **kwargs)
        if func in FACTORIES and "out" not in kwargs:
            settings = {key: value for key, value in kwargs.items() if key not in ("generator", "pin_memory")}
            self._count(_arange(*args, **settings) if func is torch.arange else func(*args, **settings | META))
            return func(*args, **kwargs)
        if func in JOINS:
            return func(*args, **kwargs)
        given: list[Tensor] = []
        _changed((args, kwargs), given.append)
        if (told := _without_values(func, args, kwargs, given)) is not None:
            self._count_table(told, given)
            return func(*args, **kwargs)
        made = func(*args, **kwargs)
        self._count_table(made, given)
        return made

    def _count_table(self, made: Any, given: list[Tensor]) -> None:
        """Counts what is computed and larger than what it is computed of: tables of positions, masks, copies."""
        larger = isinstance(made, Tensor) and made.numel() > sum(map(torch.numel, given))
        if larger and made.layout == torch.strided and not _is_view(made):
            self._count(made)

    def _count(self, made: Tensor) -> None:
        self.bytes, self.tensors = self.bytes + made.numel() * made.element_size(), self.tensors + 1
        if self._beyond() and not self.asked:
            held, tensors = weights_in(self.source, self.subfolder) or (math.inf, math.inf)
            self.limits = (SPARE_BYTES + GROWTH * held, SPARE_TENSORS + GROWTH * tensors)
            self.asked = True
        if self._beyond():
            raise RefusedError(
                f"the settings of {self.source} ask for {self.bytes / 1e9:.3g} GB and more in {self.tensors:,} "
                "tensors and more, which its weights cannot fill: they are damaged, or not of this model"
            )

    def _beyond(self) -> bool:
        return self.bytes > self.limits[0] or self.tensors > self.limits[1]


def _arange(*limits: Any, **settings: Any) -> Tensor:
    """A tensor of the meta device as `torch.arange` makes it, which itself loads torch's compiler to make one there."""
    values = [*limits, *(settings[name] for name in ("start", "end", "step") if name in settings)]
    start, end, step = (0, *values, 1) if len(values) == 1 else (*values, 1)[:3]
    if not step or not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        return torch.arange(*limits, **settings | META)
    whole = torch.int64 if all(isinstance(value, int) for value in values) else torch.get_default_dtype()
    return torch.empty(max(0, math.ceil((end - start) / step)), dtype=settings.get("dtype") or whole, device="meta")


def _is_view(tensor: Tensor) -> bool:
    """Whether values of a tensor lie at the same place."""
    return tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size()


def _without_values(func: Any, args: Any, kwargs: Any, given: list[Tensor]) -> Any:
    """What a function would make, as a tensor of the meta device; None where it must be small, or needs values."""
    if math.prod(map(torch.numel, given)) * 8 <= SPARE_BYTES or all(tensor.is_meta for tensor in given):
        return None
    try:
        moved = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in given}
        args, kwargs = _changed((args, kwargs), lambda tensor: moved[id(tensor)])
        return func(*args, **kwargs)
    except Exception:  # of many types
        return None


def _changed(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Lists, tuples and dictionaries of arguments with what `change` makes of each tensor in them."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(_changed(own, change) for own in value)
    return {key: _changed(own, change) for key, own in value.items()} if type(value) is dict else value


_innermost: ContextVar[_Allowance | None] = ContextVar("allowance", default=None)


def weights_in(source: str | Path, subfolder: str = "") -> tuple[int, int] | None:
    """How many bytes, and at most how many tensors, the weights of a file, a folder or a cached hub id hold.

    None for a hub id that is not in the cache.
    """
    if (files := weight_files(source, subfolder)) is None:
        return None
    held = tensors = 0
    for file in files:
        size = file.stat().st_size
        if file.suffix == ".safetensors":
            with open(file, "rb") as opened:
                header = min(int.from_bytes(opened.read(8), "little"), size)
            held, tensors = held + size, tensors + header // 40  # no entry of a header is shorter
        elif zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as opened:
                entries = [entry.file_size for entry in opened.infolist()]
            held, tensors = held + min(sum(entries), DEFLATED * size), tensors + len(entries)
        else:
            held, tensors = held + size, tensors + size // 64
    return held, tensors


def weight_files(source: str | Path, subfolder: str = "") -> list[Path] | None:
    """The files of weights in a folder, or of a hub id in the cache, or the one file; None for no such thing."""
    if Path(source).is_file():
        return [Path(source)]
    if (folder := weights_folder(source, subfolder)) is None:
        return None
    return [file for file in sorted(folder.iterdir()) if file.suffix in WEIGHTS and file.is_file()]


def weights_folder(source: str | Path, subfolder: str = "") -> Path | None:
    """The folder of a model, or of a hub id in the cache; None where there is none."""
    if Path(source).is_dir():
        return Path(source, subfolder) if Path(source, subfolder).is_dir() else None
    return None if Path(source).exists() else _cached(str(source), subfolder)


def _cached(name: str, subfolder: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    repository, revision = split_revision(name)
    for file in SETTINGS:
        try:
            found = try_to_load_from_cache(repository, f"{subfolder}/{file}" if subfolder else file, revision=revision)
        except ValueError:  # no hub id
            return None
        if isinstance(found, str):
            return Path(found).parent
    return None
