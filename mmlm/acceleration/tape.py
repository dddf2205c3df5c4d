"""A run of torch functions, recorded once, and repeated without the Python that had called them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# What tells a tensor's values to Python, or gives a shape that depends on them: another run might go another way.
VALUES = frozenset(
    "__array__ __bool__ __complex__ __contains__ __float__ __index__ __int__ _local_scalar_dense _unique2 allclose "
    "argwhere bincount equal is_nonzero item masked_select nonzero numpy tolist unique unique_consecutive "
    "unique_dim".split()
)
SIZED = frozenset(("arange", "repeat_interleave"))  # where a tensor among the arguments tells how much there will be


class NoValues(TorchFunctionMode):
    """While open, in this thread, a run that asks for the values of a tensor is a RuntimeError."""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if _asks_for_values(function, args, kwargs or {}):
            raise RuntimeError(
                f"steps that ask for the values of a tensor ({function.__name__}) cannot be captured: was the model "
                "changed after pack()? Then pack it again"
            )
        return function(*args, **(kwargs or {}))


class Tape(NoValues):
    """Records, too, which torch functions are called with what. Other Python, such as a counter, goes unnoticed."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable, list, dict, Any]] = []  # function, arguments, and what it gave

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        # Lists are copied: the caller's may change.
        kept = [list(value) if type(value) is list else value for value in args]
        named = {name: list(value) if type(value) is list else value for name, value in (kwargs or {}).items()}
        before = _version(args[0]) if args else None
        given = super().__torch_function__(function, types, args, kwargs)
        # A call that gave back what it got, and wrote nothing into it, would again: `.to()` of what is there already.
        idle = before is not None and given is args[0] and _version(given) == before
        if not idle and (given is None or any(isinstance(one, Tensor) for one in _listed(given))):
            self.calls.append((function, kept, named, given))
        return given

    def repeat(self, result: Tensor) -> Callable[[], Tensor]:
        """What calls the same functions again, in turn, and gives anew what is `result` here.

        Tensors that were not made by the run, weights and buffers, are those it had; what is written into them is seen.
        """
        source = _Source()
        for call in self.calls:
            source.add(*call)
        return source.compiled(result)


class _Source:
    """The calls as lines of Python: nothing is looked up or unpacked when they run, and nothing is kept."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[int, str] = {}  # of all tensors and functions, by their id: the tape keeps them alive
        self.constants: dict[str, Any] = {}
        self.last_use: dict[str, int] = {}  # of what the run makes: the line

    def add(self, function: Callable, args: list, kwargs: dict, given: Any) -> None:
        """One call."""
        given_args = [self._text(value) for value in args]
        given_args += [f"{name}={self._text(value)}" for name, value in kwargs.items()]
        targets = [self._target(one) for one in _listed(given)]
        # One more comma, where a sequence is given, so that a sequence of one is unpacked, too.
        left = ", ".join(targets) + ("," if isinstance(given, (tuple, list)) else "")
        self.lines.append(f"{left} = {self._named(function)}({', '.join(given_args)})")

    def compiled(self, result: Tensor) -> Callable[[], Tensor]:
        """A function of all lines, which lets go of what it needs no more."""
        name = self.names[id(result)]
        self.last_use.pop(name, None)
        ends: dict[int, list[str]] = {}
        for made, line in self.last_use.items():
            ends.setdefault(line, []).append(made)
        body = [f"{text}{'; del ' + ', '.join(ends[i]) if i in ends else ''}" for i, text in enumerate(self.lines)]
        source = "def repeat():\n    " + "\n    ".join([*body, f"return {name}"])
        exec(compile(source, "<tape>", "exec"), self.constants)
        return self.constants.pop("repeat")  # which would hold itself, and all that it uses, for good

    def _target(self, value: Any) -> str:
        """What a result is called from here on; "_" for one that the run did not make, such as a buffer written to."""
        if not isinstance(value, Tensor) or self.names.get(id(value)) in self.constants:
            return "_"
        return self._used(self.names.setdefault(id(value), f"t{len(self.names)}"))

    def _text(self, value: Any) -> str:
        """An argument."""
        if isinstance(value, tuple) and not isinstance(value, torch.Size):
            return f"({''.join(f'{self._text(one)}, ' for one in value)})"
        if type(value) is list:
            return f"[{', '.join(map(self._text, value))}]"
        if type(value) is slice:
            return f"slice({', '.join(self._text(one) for one in (value.start, value.stop, value.step))})"
        if value is None or type(value) in (bool, int):
            return repr(value)
        return self._named(value)

    def _named(self, value: Any) -> str:
        """What the run made, or else a global name for what it found."""
        name = self.names.setdefault(id(value), f"c{len(self.names)}")
        if name[0] == "t":
            return self._used(name)
        self.constants[name] = value
        return name

    def _used(self, name: str) -> str:
        self.last_use[name] = len(self.lines)
        return name


def _version(value: Any) -> int | None:
    """How often a tensor was written to; None where torch does not count that."""
    return value._version if isinstance(value, Tensor) and not value.is_inference() else None


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, (tuple, list)) else [given]


def _asks_for_values(function: Callable, args: tuple, kwargs: dict) -> bool:
    name = getattr(function, "__name__", "").split(".")[0]  # of aten's own functions without the overload
    given = [*args, *kwargs.values()]
    if name == "where":
        return len(given) == 1
    if name == "__getitem__":
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8) for one in index)
    if name in SIZED:
        return any(isinstance(one, Tensor) for one in given[name == "repeat_interleave" :])
    return name in VALUES
