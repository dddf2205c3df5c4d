"""Frozen encoders: media → token features. Nothing here imports `mmlm`.

`encoders.media` reads and checks images, audio and video; `encoders.base` is the interface of all encoders;
`encoders.clip` and `encoders.whisper` are the two kinds; `encoders.transcription` is speech to text.
Import the modules: this package exports nothing itself, because whisper and open_clip take seconds to import.
"""
