"""When each word of a window is said: by the attention of chosen heads to the recording, as openai-whisper does it.

Upstream sets hooks on the shared model, switches its attention for all threads, and encodes the window again. Here the
scores come from a pass of the window's own; the alignment and the rules for long words are those of whisper/timing.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import whisper
from whisper.audio import TOKENS_PER_SECOND
from whisper.timing import WordTiming, dtw, median_filter, merge_punctuations
from whisper.tokenizer import Tokenizer

from encoders.transcription.passes import Heard, Passes
from encoders.transcription.threads import keeping_threads
from encoders.transcription.transcript import Segment, Word

PREPENDED, APPENDED = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"  # punctuation that belongs to the next word, or the last
SENTENCE_ENDS = ".。!！?？"
LONGEST_MEDIAN = 0.7  # seconds
FILTER = 7  # tokens of the recording, over whose median attention is smoothed


def with_words(
    model: whisper.Whisper,
    heard: Heard,
    tokenizer: Tokenizer,
    segments: Sequence[Segment],
    offset: float,
    frames: int,
    spoken_until: float,
) -> list[Segment]:
    """The segments of a window with the times of their words, to which their starts and ends are moved.

    segments: all of the window, the empty ones too. offset: its start in seconds. frames: its frames of recording.
    spoken_until: the end of the last word before it, in seconds.
    """
    texts = [[token for token in segment.tokens if token < tokenizer.eot] for segment in segments]
    timed = aligned(model, heard, tokenizer, list(itertools.chain.from_iterable(texts)), frames)
    median = _shorten(timed)
    merge_punctuations(timed, PREPENDED, APPENDED)
    found, rest = [], iter(timed)
    for segment, tokens in zip(segments, texts, strict=True):
        words, taken = [], 0
        while taken < len(tokens) and (one := next(rest, None)) is not None:
            taken += len(one.tokens)
            if one.word:
                start, end = round(offset + one.start, 2), round(offset + one.end, 2)
                words.append(Word(one.word, start, end, float(one.probability)))
        if words:
            segment, words = _bounded(segment, words, spoken_until, median)
            spoken_until = segment.end
        found.append(replace(segment, words=tuple(words)))
    return found


def aligned(
    model: whisper.Whisper, heard: Heard, tokenizer: Tokenizer, text: list[int], frames: int
) -> list[WordTiming]:
    """The words of a window's text tokens with their times from its start: `whisper.timing.find_alignment`."""
    if not text or frames < 2:  # a token of the recording takes two frames
        return []
    before = len(tokenizer.sot_sequence)
    tokens = [*tokenizer.sot_sequence, tokenizer.no_timestamps, *text, tokenizer.eot]
    heads: Any = model.alignment_heads
    logits, scores = Passes(model, heard, rows=1).attend(
        torch.tensor(tokens, device=heard.features.device), heads.indices().T.tolist()
    )
    chances = logits[before : before + len(text), : tokenizer.eot].softmax(dim=-1)
    probabilities = chances[torch.arange(len(text)), text].tolist()
    weights = scores[:, :, : frames // 2].softmax(dim=-1)
    deviation, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    smooth = median_filter((weights - mean) / deviation, FILTER).mean(dim=0)
    with keeping_threads():  # numba, which compiles the search, sets as many as there are cores
        text_indices, time_indices = dtw(-smooth[before:-1])
    words, of_words = tokenizer.split_to_word_tokens([*text, tokenizer.eot])
    if len(of_words) <= 1:
        return []
    bounds = np.cumsum([0, *(len(own) for own in of_words[:-1])])
    jumps = np.diff(text_indices, prepend=-1).astype(bool)
    times = (time_indices[jumps] / TOKENS_PER_SECOND).tolist()
    return [
        WordTiming(word, own, times[start], times[end], float(np.mean(probabilities[start:end])))
        for word, own, start, end in zip(words, of_words, bounds[:-1], bounds[1:], strict=False)
    ]


def last_word_end(segments: Sequence[Segment]) -> float | None:
    """The end of the last word of segments, or of the last segment where none has words; None without segments."""
    ends = [word.end for segment in segments for word in segment.words or ()]
    return ends[-1] if ends else (segments[-1].end if segments else None)


def _shorten(timed: list[WordTiming]) -> float:
    """Cuts long words at the ends of sentences to twice the median duration, in place; gives the median in seconds."""
    durations = np.array([one.end - one.start for one in timed])
    durations = durations[durations.nonzero()]
    median = min(LONGEST_MEDIAN, float(np.median(durations))) if len(durations) else 0.0
    for before, one in itertools.pairwise(timed if len(durations) else []):
        if one.end - one.start > 2 * median:
            if one.word in SENTENCE_ENDS:
                one.end = one.start + 2 * median
            elif before.word in SENTENCE_ENDS:
                one.start = one.end - 2 * median
    return median


def _bounded(segment: Segment, words: list[Word], spoken_until: float, median: float) -> tuple[Segment, list[Word]]:
    """Long first and last words are cut, by the median and the segment's own times; the segment takes the others'."""
    longest, words = 2 * median, list(words)
    first = words[0]
    two_long = len(words) > 1 and words[1].end - first.start > 2 * longest
    if first.end - spoken_until > 4 * median and (first.end - first.start > longest or two_long):
        if len(words) > 1 and words[1].end - words[1].start > longest:
            boundary = max(words[1].end / 2, words[1].end - longest)
            first, words[1] = replace(first, end=boundary), replace(words[1], start=boundary)
        first = replace(first, start=max(0.0, first.end - longest))
    if segment.start < first.end and segment.start - 0.5 > first.start:
        first = replace(first, start=max(0.0, min(first.end - median, segment.start)))
    else:
        segment = replace(segment, start=first.start)
    words[0] = first
    last = words[-1]
    if segment.end > last.start and segment.end + 0.5 < last.end:
        words[-1] = replace(last, end=max(last.start + median, segment.end))
    else:
        segment = replace(segment, end=last.end)
    return segment, words
