"""The forms in which Whispers are published, each read into the one that is used: openai-whisper's `Whisper`.

`parts` is what every form is read into and what builds the module; `openai`, `huggingface` and `ctranslate2` read one
form each; `vocabulary` checks that a model writes openai-whisper's tokens; `others` names the forms that are not read.
"""
