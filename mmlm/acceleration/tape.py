"""A sequence of torch calls, recorded once and replayed without the Python code that made them."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import CodeType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Functions that give a tensor's values to Python, or a shape that depends on them: another run might take another path.
VALUES = frozenset(
    "__array__ __bool__ __complex__ __contains__ __float__ __index__ __int__ _local_scalar_dense _unique2 allclose "
    "argwhere bincount equal is_nonzero item masked_select nonzero numpy tolist unique unique_consecutive "
    "unique_dim".split()
)
SIZED = frozenset(("arange", "repeat_interleave"))  # if a tensor among their arguments gives the size of the result
# Functions that tell the form of a tensor, or where it lies: there are many calls, and nothing of them to replay.
FORMS = frozenset("data_ptr dim element_size is_contiguous is_inference numel size storage_offset stride".split())
_ASKING = VALUES | SIZED | {"where", "__getitem__"}

_unrecorded: ContextVar[bool] = ContextVar("mmlm_unrecorded", default=False)


@contextmanager
def unrecorded() -> Iterator[None]:
    """While open, in this thread, calls are no part of a step that is being recorded, and may read values."""
    token = _unrecorded.set(True)
    try:
        yield
    finally:
        _unrecorded.reset(token)


class CannotRecordError(RuntimeError):
    """A step cannot be recorded."""


class NoValues(TorchFunctionMode):
    """While open, in this thread, code that reads the values of a tensor gets a CannotRecordError."""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if not _unrecorded.get() and _asks_for_values(function, args, kwargs or {}):
            raise CannotRecordError(
                f"a step that reads the values of a tensor ({function.__name__}) cannot be recorded. If the model was "
                "changed after pack(), pack it again"
            )
        return function(*args, **(kwargs or {}))


class Tape(NoValues):
    """Records the torch calls with their arguments, too. Other Python code, such as a counter, is not recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable, list, dict, Any]] = []  # function, arguments, keyword arguments, result

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if _unrecorded.get() or _name(function) in FORMS:
            return function(*args, **(kwargs or {}))
        before = _version(args[0]) if args else None
        given = super().__torch_function__(function, types, args, kwargs)
        if not (given is None or any(isinstance(one, Tensor) for one in _listed(given))):
            return given
        # A call that returned its argument unchanged, such as an idle `.to()`, needs no replay.
        if before is None or given is not args[0] or _version(given) != before:
            # Lists are copied, because the caller may change them.
            kept = [list(value) if type(value) is list else value for value in args]
            named = {name: list(value) if type(value) is list else value for name, value in (kwargs or {}).items()}
            self.calls.append((function, kept, named, given))
        return given

    def repeat(self, result: Tensor) -> Callable[[], Tensor]:
        """A function that makes the same calls again, in order, and returns a new `result`.

        Tensors that the recorded run did not make (weights, buffers) are the same objects, with their current values.
        """
        source = _Source()
        for call in self.calls:
            source.add(*call)
        return source.compiled(result)


class _Source:
    """The calls as lines of Python source, so that replaying looks up and unpacks nothing, and keeps nothing."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[int, str] = {}  # of tensors and functions, by id(): the tape keeps them alive
        self.constants: dict[str, Any] = {}
        self.last_use: dict[str, int] = {}  # the line where a tensor that the run makes is used last

    def add(self, function: Callable, args: list, kwargs: dict, given: Any) -> None:
        """Appends one call."""
        given_args = [self._text(value) for value in args]
        given_args += [f"{name}={self._text(value)}" for name, value in kwargs.items()]
        targets = [self._target(one) for one in _listed(given)]
        # A comma after the targets of a sequence, so that a sequence of one is unpacked, too.
        left = ", ".join(targets) + ("," if isinstance(given, (tuple, list)) else "")
        self.lines.append(f"{left} = {self._named(function)}({', '.join(given_args)})")

    def compiled(self, result: Tensor) -> Callable[[], Tensor]:
        """A function of all lines, which frees each tensor after its last use."""
        name = self.names[id(result)]
        self.last_use.pop(name, None)
        ends: dict[int, list[str]] = {}
        for made, line in self.last_use.items():
            ends.setdefault(line, []).append(made)
        body = [f"{text}{'; del ' + ', '.join(ends[i]) if i in ends else ''}" for i, text in enumerate(self.lines)]
        source = "def repeat():\n    " + "\n    ".join([*body, f"return {name}"])
        exec(_code(source), self.constants)
        return self.constants.pop("repeat")  # else it would refer to itself, and keep all its tensors alive

    def _target(self, value: Any) -> str:
        """The name of a result; "_" if the run did not make it, such as a buffer that was written to."""
        if not isinstance(value, Tensor) or self.names.get(id(value)) in self.constants:
            return "_"
        return self._used(self.names.setdefault(id(value), f"t{len(self.names)}"))

    def _text(self, value: Any) -> str:
        """The source text of an argument."""
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
        """The name of what the run made, or a global name for anything else."""
        name = self.names.setdefault(id(value), f"c{len(self.names)}")
        if name[0] == "t":
            return self._used(name)
        self.constants[name] = value
        return name

    def _used(self, name: str) -> str:
        self.last_use[name] = len(self.lines)
        return name


@functools.lru_cache(maxsize=16)
def _code(source: str) -> CodeType:
    """Compiled lines: those of one step are those of the same step of the next text, for other tensors."""
    return compile(source, "<tape>", "exec")


def _version(value: Any) -> int | None:
    """How often a tensor was written to; None if torch does not count it."""
    return value._version if isinstance(value, Tensor) and not value.is_inference() else None


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, (tuple, list)) else [given]


def _asks_for_values(function: Callable, args: tuple, kwargs: dict) -> bool:
    name = _name(function)
    if name not in _ASKING:
        return False
    given = [*args, *kwargs.values()]
    if name == "where":
        return len(given) == 1
    if name == "__getitem__":
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8) for one in index)
    if name in SIZED:
        return any(isinstance(one, Tensor) for one in given[name == "repeat_interleave" :])
    return name in VALUES


@functools.lru_cache(maxsize=1024)
def _name(function: Callable) -> str:
    """The name of a function, of an aten function without its overload."""
    return getattr(function, "__name__", "").split(".")[0]
