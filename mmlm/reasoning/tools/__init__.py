"""Tools: what a model may call, how it is told of them, and how its calls are written, read and made.

`tool` makes tools of functions, `mcp` of a server's. `form` finds out how a model's chat template writes calls, `offer`
makes prompts with tools, `reading` reads calls out of text, `arguments` checks them, `calling` makes them. Built in:
`calculator`, `clock`, `zoom`, `listen`, `search`, and `draw` and `speak` in `making`.
"""
