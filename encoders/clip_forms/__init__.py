"""The forms in which people have CLIPs, each turned into one of open_clip's models.

`source` tells the forms apart by their files, `load` reads any of them. `hugging_face` (with `renaming` and `pictures`)
is for folders and hub ids of transformers, `openai` (with `torchscript`) for OpenAI's own files.
"""
