"""The verbs, one a file: `caption`, `answer`, `ask`, `chat`, `transcribe`, `draw`, `speak`, `generate` with `stream`.

Each is a plain function whose first argument is a `MultimodalNetwork`; `MultimodalLM` has them as its methods. A verb
makes prompts of what it is given and has `mmlm.generation` do the rest. `rows` holds what they share: one input or a
list of them, results as texts.
"""
