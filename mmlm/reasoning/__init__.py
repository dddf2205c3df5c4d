"""Reasoning: many generations for one answer.

`solve` lets a model call tools: `Tool`s, plain functions and those of an MCP server (`mcp_tools`), within `Limits`; its
`Exchange` holds all that was said and called. `tools` has how calls are offered, written and read, and what is built
in. `best_of` chooses among results by any score, such as `likeness` to a text, and `search` grows a tree of thoughts.
Thoughts and votes themselves are options of the verbs: see `mmlm.tasks.thinking` and `mmlm.tasks.votes`.
"""

from typing import TYPE_CHECKING

from mmlm._lazy import lazy_names

if TYPE_CHECKING:
    from mmlm.reasoning.agent import solve
    from mmlm.reasoning.best import best_of, likeness
    from mmlm.reasoning.exchange import Exchange, Limits, Turn
    from mmlm.reasoning.search import SearchOptions, search
    from mmlm.reasoning.tools.calling import Called
    from mmlm.reasoning.tools.mcp import mcp_tools
    from mmlm.reasoning.tools.tool import Tool, ToolError

__all__ = [
    "Called",
    "Exchange",
    "Limits",
    "SearchOptions",
    "Tool",
    "ToolError",
    "Turn",
    "best_of",
    "likeness",
    "mcp_tools",
    "search",
    "solve",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Called": "mmlm.reasoning.tools.calling",
        "Exchange": "mmlm.reasoning.exchange",
        "Limits": "mmlm.reasoning.exchange",
        "SearchOptions": "mmlm.reasoning.search",
        "Tool": "mmlm.reasoning.tools.tool",
        "ToolError": "mmlm.reasoning.tools.tool",
        "Turn": "mmlm.reasoning.exchange",
        "best_of": "mmlm.reasoning.best",
        "likeness": "mmlm.reasoning.best",
        "mcp_tools": "mmlm.reasoning.tools.mcp",
        "search": "mmlm.reasoning.search",
        "solve": "mmlm.reasoning.agent",
    },
)
