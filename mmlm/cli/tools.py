"""Tools on the command line: those that are built in, by their names, and those of servers that a user names."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmlm.assembly.multimodal_lm import MultimodalLM
    from mmlm.prompting.messages import Message
    from mmlm.reasoning.tools.calling import Called
    from mmlm.reasoning.tools.tool import Tool

NAMES = ("calculator", "clock", "zoom", "listen", "draw", "speak")


def add_tool_options(verb: argparse.ArgumentParser) -> None:
    """The options that give a model tools."""
    verb.add_argument(
        "--tool", action="append", default=[], choices=NAMES,
        help="a tool that the model may call; several times for several; calls are shown on standard error",
    )  # fmt: skip
    verb.add_argument(
        "--mcp", action="append", default=[], metavar="COMMAND",
        help="tools of an MCP server: its http(s) address, or the command that starts it, which runs with your rights",
    )  # fmt: skip


def opened_tools(args: argparse.Namespace, model: MultimodalLM, stack: ExitStack) -> list[Tool]:
    """The tools that were asked for. Servers are stopped when `stack` closes."""
    found = [_built_in(name, model, args) for name in dict.fromkeys(args.tool)]
    for command in args.mcp:
        from mmlm.reasoning import mcp_tools

        found += stack.enter_context(mcp_tools(_server(command)))
    return found


def tell_call(made: Called) -> None:
    """Shows a call on standard error, where answers are not."""
    print(f"  {made}", file=sys.stderr, flush=True)


def saved(turn: Message) -> dict[str, Any]:
    """A message as it is kept in a file; pictures and recordings that tools gave are named in words."""
    from mmlm.reasoning.tools.calling import described

    content = "\n".join(part if isinstance(part, str) else described(part) for part in turn.content)
    names = {"name": turn.name, "tool_call_id": turn.tool_call_id} if turn.role == "tool" else {}
    calls = [
        {"id": one.id, "type": "function", "function": {"name": one.name, "arguments": json.dumps(dict(one.arguments))}}
        for one in turn.tool_calls
    ]
    return {"role": turn.role, "content": content, **names, **({"tool_calls": calls} if calls else {})}


def _built_in(name: str, model: MultimodalLM, args: argparse.Namespace) -> Tool:
    from mmlm.reasoning.tools import calculator, clock, listen, making, zoom

    seed = getattr(args, "seed", None) or 0
    makers: dict[str, Any] = {
        "calculator": calculator.calculator,
        "clock": clock.clock,
        "zoom": lambda: zoom.zoom(model),
        "listen": listen.listen,
        "draw": lambda: making.draw(model, seed=seed),
        "speak": lambda: making.speak(model, seed=seed),
    }
    return makers[name]()


def _server(command: str) -> Any:
    if command.startswith(("http://", "https://")):
        return command
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"--mcp {command}: {error}") from error
    if not words:
        raise ValueError("--mcp: the command is empty")
    try:
        from mcp import StdioServerParameters
    except ImportError as error:
        raise ImportError("tools of an MCP server need the official client: pip install 'mmlm[mcp]'") from error
    return StdioServerParameters(command=words[0], args=words[1:])
