"""What is asked of a model.

A prompt is a sequence of parts: text, images, sounds, codes, and the end of a chunk. `PromptTemplate`
writes the text around media; `chat_prompt` makes the prompt of a conversation, messages as transformers and OpenAI have
them, by the tokenizer's chat template. `Processor` turns parts into token ids and media, and ids back into text.
`ThinkingMarks` stand around a thought, which comes where a prompt ends in an `Opening`.
`MediaVocabulary` numbers the added tokens, and `CodeLayout` and `CodeSpan` the codes of images and audio.
"""

from mmlm.prompting.code_layout import BOUNDARIES, CodeLayout, CodeSpan, Modality
from mmlm.prompting.conversation import chat_prompt, taught
from mmlm.prompting.messages import Message, as_messages
from mmlm.prompting.parts import (
    END_OF_CHUNK,
    Codes,
    Image,
    Learned,
    Markup,
    Media,
    Part,
    Sound,
    as_media,
    as_part,
    modality_of,
)
from mmlm.prompting.processor import IGNORE_INDEX, Batch, Example, Processor
from mmlm.prompting.templates import CHAT, PromptTemplate, demonstrations
from mmlm.prompting.thinking import Opening, ThinkingMarks, marks_of, opened
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
    "Learned",
    "Markup",
    "Media",
    "MediaVocabulary",
    "Message",
    "Modality",
    "Opening",
    "Part",
    "Processor",
    "PromptTemplate",
    "Sound",
    "ThinkingMarks",
    "as_media",
    "as_messages",
    "as_part",
    "chat_prompt",
    "demonstrations",
    "marks_of",
    "modality_of",
    "opened",
    "taught",
]
