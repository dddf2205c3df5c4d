"""A calculator: arithmetic by a parser of its own, within limits on size. Nothing is ever run."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any, TypeAlias

from mmlm.reasoning.tools.tool import Tool, ToolError

MOST_CHARACTERS, MOST_BITS, MOST_PLACES, DEEPEST = 1_000, 4_096, 400, 100
Number: TypeAlias = Any  # an int or a float, which the functions below mix as Python does

_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"}) | {ord("^"): "**"}
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Number]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip


def _rounded(value: Number, places: int | None = None) -> Number:
    """`round`, whose time grows with the number of places."""
    if places is not None and abs(places) > MOST_PLACES:
        raise ToolError(f"a number is rounded to at most {MOST_PLACES} places")
    return round(value, places)


_UNARY: dict[type[ast.unaryop], Callable[[Any], Number]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "abs": abs, "round": _rounded, "min": min, "max": max, "sqrt": math.sqrt, "exp": math.exp, "log": math.log,
    "log10": math.log10, "log2": math.log2, "sin": math.sin, "cos": math.cos, "tan": math.tan, "floor": math.floor,
    "ceil": math.ceil,
}  # fmt: skip
_CONSTANTS = {"pi": math.pi, "e": math.e}


def calculate(expression: str) -> Number:
    """The value of an arithmetic expression, as Python has it; `^` is a power too.

    Numbers, + - * / // % **, brackets, pi, e, and the functions abs, round, min, max, sqrt, exp, log, log10, log2,
    sin, cos, tan, floor and ceil. Whole numbers are exact up to 4,096 bits.
    ValueError for anything else, for more than 1,000 characters, and for what has no finite real value.
    """
    if len(expression) > MOST_CHARACTERS:
        raise ToolError(f"an expression has at most {MOST_CHARACTERS:,} characters, not {len(expression):,}")
    try:
        tree = ast.parse(expression.strip().translate(_SIGNS), mode="eval")
        value = _value(tree.body, 0)
    except ToolError:
        raise
    except ZeroDivisionError:
        raise ToolError("division by zero") from None
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ToolError(
            f"{expression[:60]!r} is no arithmetic expression ({getattr(error, 'msg', 'too deep')})"
        ) from None
    except OverflowError:
        raise ToolError("a number is too large") from None
    except (ValueError, TypeError) as error:
        raise ToolError(str(error)) from None
    if isinstance(value, complex) or (isinstance(value, float) and not math.isfinite(value)):
        raise ToolError(f"{expression[:60]!r} has no finite real value")
    return value


def _value(node: ast.AST, depth: int) -> Number:
    if depth > DEEPEST:
        raise ToolError(f"an expression nests at most {DEEPEST} deep")
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _small(value)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=sign, operand=inner) if type(sign) in _UNARY:
            return _UNARY[type(sign)](_value(inner, depth + 1))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
            return _joined(sign, _value(left, depth + 1), _value(right, depth + 1))
        case ast.Call(func=ast.Name(id=name), args=given, keywords=[]) if name in _FUNCTIONS:
            return _small(_FUNCTIONS[name](*(_value(one, depth + 1) for one in given)))
    what = ast.unparse(node)[:60] if isinstance(node, ast.expr) else type(node).__name__
    raise ToolError(f"{what!r} is not known: numbers, + - * / // % **, brackets and {', '.join(_FUNCTIONS)} are")


def _joined(sign: ast.operator, left: Number, right: Number) -> Number:
    """Two numbers joined, where the result is small enough to be computed at all."""
    whole = isinstance(left, int) and isinstance(right, int)
    if (
        whole
        and isinstance(sign, ast.Pow)
        and abs(left) > 1
        and right > 0
        and left.bit_length() * right > 2 * MOST_BITS
    ):
        raise ToolError(f"{left} ** {right} is too large")
    value = _BINARY[type(sign)](left, right)
    if isinstance(value, complex):
        raise ToolError(f"{left} ** {right} is no real number")
    return _small(value)


def _small(value: Number) -> Number:
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise ToolError(f"a number has at most {MOST_BITS:,} bits")
    return value


def shown(value: Number) -> str:
    """A number as the model is told it: 12 digits of a fraction, all digits of a whole number."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return str(value) if isinstance(value, int) else f"{value:.12g}"


def calculator() -> Tool:
    """The tool `calculator(expression)`."""
    return Tool(
        "calculator",
        "Computes an arithmetic expression and returns its value.",
        {
            "type": "object",
            "properties": {"expression": {"type": "string", "description": 'Such as "(17 + 4) * 3 / 2".'}},
            "required": ["expression"],
            "additionalProperties": False,
        },
        lambda expression: shown(calculate(expression)),
    )
