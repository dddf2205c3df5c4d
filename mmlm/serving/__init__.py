"""Many users of one model: what `mmlm serve` and `mmlm ui` stand on.

`engine` decodes the requests of many users together: `preparing` tokenizes prompts and encodes media, `slots` holds the
rows that are decoded side by side, `running` is one request among them, `known` keeps media and prompts that may come
again, and `probe` finds out by running a language model whether its rows can be together. A caller holds a `ticket`.
`app` puts OpenAI's dialect over it, an endpoint a file in `dialect/`, and `page/` a page for people.
"""
