"""Random numbers of one's own: what draws from torch's global generators draws from others, in this thread alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_seeding = threading.Lock()  # two threads that put the global state aside and back would each restore the other's


class OwnDraws(TorchDispatchMode):
    """While open, in this thread: all that would draw from torch's global generators draws from new ones, of this seed.

    The numbers are those that `torch.manual_seed(seed)` would give, and they go on when it is opened again. The global
    generators stay as they are, and other threads draw what they would have drawn. So initial weights, k-means and
    dropout of code that takes no generator are a function of the seed. Python sees each operator, which takes time.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        device = _device(args, kwargs)
        if device.type == "meta":  # where there are no values
            return func(*args, **kwargs)
        generator = self._generator(device)
        drawing = _with_generator(func)
        if drawing is None:
            return _seeded(lambda: func(*args, **kwargs), generator)
        place = next(i for i, one in enumerate(drawing._schema.arguments) if one.name == "generator")
        if place < len(args):
            own = args[place] if args[place] is not None else generator
            return drawing(*args[:place], own, *args[place + 1 :], **kwargs)
        return drawing(*args, **{**kwargs, "generator": kwargs.get("generator") or generator})

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self.generators[device]


def _device(args: tuple, kwargs: dict[str, Any]) -> torch.device:
    """Where an operator draws: on the device that is asked for, or of its first tensor."""
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"])
    return next((value.device for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), torch.device("cpu"))


def _with_generator(func: Any) -> Any:
    """The operator itself if it takes a generator, or its sibling that does; None if there is none."""
    names = ("generator", f"{func._overloadname}_generator")
    siblings = [getattr(func.overloadpacket, name) for name in names if name in func.overloadpacket.overloads()]
    wanted = {one.name for one in func._schema.arguments} | {"generator"}
    fitting = (one for one in (func, *siblings) if wanted == {arg.name for arg in one._schema.arguments})
    return next(fitting, None)


def _seeded(run: Callable[[], Any], generator: torch.Generator) -> Any:
    """Runs an operator that takes no generator, with the global one seeded from ours and then put back."""
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    on_gpu = generator.device.type == "cuda"
    with _seeding, torch.random.fork_rng(devices=[generator.device] if on_gpu else []):
        if on_gpu:
            with torch.cuda.device(generator.device):
                torch.cuda.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)
        return run()
