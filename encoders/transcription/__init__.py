"""Speech to text with Whisper, for recordings of any length.

`Transcriber` decodes a recording window by window, as a stream of `Segment`s or as one `Transcript`. `windows` reads
Whisper's input windows from a stream of samples, `passes` runs the model over one, `decoding` decodes it, `segments`
cuts its text at its timestamps, `words` times its words, `turns` are the pieces of all this, for recordings that
share a machine, `voice_activity` finds where somebody speaks (with the extra `vad`). Importing this room imports
whisper.
"""

from encoders.transcription.transcriber import TEMPERATURES, Transcriber
from encoders.transcription.transcript import Segment, Transcript, Transcription, Word

__all__ = ["TEMPERATURES", "Segment", "Transcriber", "Transcript", "Transcription", "Word"]
