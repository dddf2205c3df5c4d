"""Tools of a server of the Model Context Protocol, by its official client (the extra `mcp`)."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import functools
import json
import threading
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from encoders.media.image import load_image
from encoders.media.sound import load_audio
from mmlm.prompting.parts import Image, Sound
from mmlm.reasoning.tools.tool import Tool, ToolError

MOST_TOOLS, PAGES = 128, 16


@contextmanager
def mcp_tools(server: Any, *, only: Collection[str] | None = None, seconds: float = 30.0) -> Iterator[list[Tool]]:
    """The tools of an MCP server, while this context is open.

    server: the address of a server over HTTP; `mcp.StdioServerParameters`, a command to start, which runs with your
        rights; or an `mcp.server.MCPServer` in this process.
    only: names of the tools to take; None takes all. seconds: for the connection, and for each call.
    A server's descriptions and results are text and media like any other: they cannot become markup. ImportError
    without the package mcp, ValueError for names of `only` that are not there, ConnectionError for a server that does
    not answer.
    """
    try:
        from mcp import Client
    except ImportError as error:
        raise ImportError("tools of an MCP server need the official client: pip install 'mmlm[mcp]'") from error
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True, name="mcp")
    thread.start()
    closing = asyncio.Event()
    connected: concurrent.futures.Future[tuple[Any, list[Any]]] = concurrent.futures.Future()

    async def serve() -> None:
        """Holds the connection, which has to be closed by the task that opened it."""
        try:
            async with Client(server, read_timeout_seconds=seconds) as client:
                connected.set_result((client, await _listed(client)))
                await closing.wait()
        except BaseException as error:
            if not connected.done():
                connected.set_exception(error)

    holding = asyncio.run_coroutine_threadsafe(serve(), loop)
    try:
        try:
            client, listed = connected.result(seconds)
        except Exception as error:
            raise ConnectionError(f"the MCP server does not answer: {_first_of(error)}"[:300]) from error
        wait = functools.partial(_waited, loop, seconds)
        tools = [_tool(one, lambda name, given: wait(client.call_tool(name, given))) for one in listed]
        if only is not None and (missing := sorted(set(only) - {tool.name for tool in tools})):
            there = ", ".join(tool.name for tool in tools)
            raise ValueError(f"the MCP server has no tool {missing[0]!r}; it has {there}")
        yield [tool for tool in tools if only is None or tool.name in only]
    finally:
        loop.call_soon_threadsafe(closing.set)
        with contextlib.suppress(Exception):
            holding.result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)


def _waited(loop: asyncio.AbstractEventLoop, seconds: float, work: Coroutine[Any, Any, Any]) -> Any:
    running = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return running.result(seconds)
    except TimeoutError:
        running.cancel()
        raise TimeoutError(f"the MCP server did not answer within {seconds:g} s") from None


async def _listed(client: Any) -> list[Any]:
    """What the server lists, page by page."""
    found, cursor = [], None
    for _ in range(PAGES):
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        cursor = page.next_cursor
        if cursor is None or len(found) >= MOST_TOOLS:
            break
    return found[:MOST_TOOLS]


def _tool(listed: Any, call: Callable[[str, dict[str, Any]], Any]) -> Tool:
    return Tool(
        listed.name, listed.description or "", listed.input_schema, lambda **given: _parts(call(listed.name, given))
    )


def _parts(result: Any) -> list[Any]:
    """What a call gave; ToolError where the server says that it failed."""
    parts = [part for block in result.content for part in _part(block)]
    if result.is_error:
        raise ToolError(" ".join(part for part in parts if isinstance(part, str)) or "the tool failed")
    if not parts and result.structured_content is not None:
        parts = [json.dumps(result.structured_content, ensure_ascii=False)]
    return parts


def _part(block: Any) -> list[Any]:
    """A block as a text or a medium. What lies elsewhere is named, and never fetched."""
    if block.type == "text":
        return [block.text]
    if block.type == "image":
        return [Image(load_image(base64.b64decode(block.data)))]
    if block.type == "audio":
        return [Sound(load_audio(base64.b64decode(block.data)))]
    text = getattr(getattr(block, "resource", None), "text", None)
    return [text if isinstance(text, str) else f"({block.type}: {getattr(block, 'uri', 'not shown')})"]


def _first_of(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
