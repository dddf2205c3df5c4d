"""What is asked of a model.

A prompt is a sequence of parts: text, images, sounds, codes, and the end of a chunk. `PromptTemplate` and
`chat_prompt` write the text around media. `Processor` turns parts into token ids and media, and ids back into text.
`MediaVocabulary` numbers the added tokens, and `CodeLayout` and `CodeSpan` the codes of images and audio.
"""

from mmlm.prompting.code_layout import BOUNDARIES, CodeLayout, CodeSpan, Modality
from mmlm.prompting.parts import END_OF_CHUNK, Codes, Image, Markup, Media, Part, Sound, as_media, as_part, modality_of
from mmlm.prompting.processor import IGNORE_INDEX, Batch, Example, Processor
from mmlm.prompting.templates import CHAT, PromptTemplate, chat_prompt, demonstrations
from mmlm.prompting.vocabulary import ADDED_TOKENS, ADDED_TOKENS_WITH_AUDIO, MediaVocabulary

__all__ = [
    "ADDED_TOKENS",
    "ADDED_TOKENS_WITH_AUDIO",
    "BOUNDARIES",
    "CHAT",
    "END_OF_CHUNK",
    "IGNORE_INDEX",
    "Batch",
    "CodeLayout",
    "CodeSpan",
    "Codes",
    "Example",
    "Image",
    "Markup",
    "Media",
    "MediaVocabulary",
    "Modality",
    "Part",
    "Processor",
    "PromptTemplate",
    "Sound",
    "as_media",
    "as_part",
    "chat_prompt",
    "demonstrations",
    "modality_of",
]
