"""Reasoning: many generations for one answer.

`solve` lets a model call tools: `Tool`s, plain functions and those of an MCP server (`mcp_tools`), within `Limits`; its
`Exchange` holds all that was said and called. `tools` has how calls are offered, written and read, and what is built
in.
"""

from typing import TYPE_CHECKING

from mmlm._lazy import lazy_names

if TYPE_CHECKING:
    from mmlm.reasoning.agent import solve
    from mmlm.reasoning.exchange import Exchange, Limits, Turn
    from mmlm.reasoning.tools.calling import Called
    from mmlm.reasoning.tools.mcp import mcp_tools
    from mmlm.reasoning.tools.tool import Tool, ToolError

__all__ = ["Called", "Exchange", "Limits", "Tool", "ToolError", "Turn", "mcp_tools", "solve"]

__getattr__ = lazy_names(
    __name__,
    {
        "Called": "mmlm.reasoning.tools.calling",
        "Exchange": "mmlm.reasoning.exchange",
        "Limits": "mmlm.reasoning.exchange",
        "Tool": "mmlm.reasoning.tools.tool",
        "ToolError": "mmlm.reasoning.tools.tool",
        "Turn": "mmlm.reasoning.exchange",
        "mcp_tools": "mmlm.reasoning.tools.mcp",
        "solve": "mmlm.reasoning.agent",
    },
)
