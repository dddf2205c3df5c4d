"""Sizes that the settings of a model tell are believed only as far as its weights have the bytes for them."""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from encoders.hub import split_revision

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
SETTINGS = ("config.json", "open_clip_config.json", "adapter_config.json")
MOST_LAYERS = 10_000  # of any kind that settings may name
# Keys of settings that name such a number.
COUNTS = re.compile(r"(layers?|blocks?|depths?|layers_per_\w+|codebooks|quantizers|labels)$")
SPARE_BYTES, SPARE_TENSORS = 1 << 28, 1000  # masks, tables of positions: what no file holds
GROWTH = 16  # weights of 4 bits are first built in 32, and an allowance on top
DEFLATED = 64  # how many times its own size a zip file may hold
FACTORIES = {
    torch.arange, torch.empty, torch.empty_strided, torch.eye, torch.full, torch.hamming_window, torch.hann_window,
    torch.linspace, torch.logspace, torch.ones, torch.rand, torch.randint, torch.randn, torch.randperm, torch.zeros,
}  # fmt: skip


class RefusedError(ValueError):
    """A file that asks for code to be run, or for more than it holds."""


def check_counts(config: Any, source: Any) -> None:
    """`RefusedError` for a config that names more than 10,000 layers, blocks or levels of any kind."""
    for key, value in _numbers(config):
        if COUNTS.search(key) and value > MOST_LAYERS:
            raise RefusedError(f"{source} asks for more than {MOST_LAYERS:,} {key}, which no model has")


def _numbers(config: Any, key: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(config, Mapping):
        for own, value in config.items():
            yield from _numbers(value, str(own))
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _numbers(value, key)
    elif isinstance(config, int | float):
        yield key, config


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
        if func in FACTORIES and _innermost.get() is self and "out" not in kwargs:
            settings = {key: value for key, value in kwargs.items() if key not in ("generator", "pin_memory")}
            made = func(*args, **{**settings, "device": "meta"})
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
        return func(*args, **kwargs)

    def _beyond(self) -> bool:
        return self.bytes > self.limits[0] or self.tensors > self.limits[1]


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
    place = Path(source)
    if place.is_file():
        return [place]
    folder = place / subfolder
    if not place.is_dir():
        if (cached := _cached(str(source), subfolder)) is None:
            return None
        folder = cached
    return [file for file in sorted(folder.iterdir()) if file.suffix in WEIGHTS and file.is_file()]


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
