"""Images, audio and video from any source, with limits on size, length and bytes that are checked before decoding.

A source is a path, bytes, a binary file object, a `data:` URL, an array or tensor, or (if allowed) an http(s) address.
`load_image` gives a PIL image, `load_audio` and `open_audio` mono samples, `load_video` frames with their times;
`content_key` and `audio_key` identify a source by its content. Whatever cannot be used raises `MediaError`.
Importing this room imports NumPy and PIL only; other libraries are imported when a source needs them.
"""

from encoders.media.image import content_key, load_image
from encoders.media.sound import SAMPLE_RATE, Audio, SoundStream, audio_key, load_audio, open_audio
from encoders.media.source import MediaError, MissingMediaError
from encoders.media.video import Video, is_video, load_video

__all__ = [
    "SAMPLE_RATE",
    "Audio",
    "MediaError",
    "MissingMediaError",
    "SoundStream",
    "Video",
    "audio_key",
    "content_key",
    "is_video",
    "load_audio",
    "load_image",
    "load_video",
    "open_audio",
]
