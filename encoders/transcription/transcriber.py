"""Whisper's own decoding over recordings of any length, segment by segment as they come, in flat memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import whisper
from torch import Tensor
from whisper.audio import HOP_LENGTH
from whisper.decoding import DecodingOptions, DecodingResult
from whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE, get_tokenizer

from encoders.media.sound import SAMPLE_RATE, open_audio
from encoders.transcription.transcript import Segment, Transcript, Transcription
from encoders.transcription.voice_activity import voice_detector
from encoders.transcription.windows import Windows

log = logging.getLogger(__name__)


FRAME_SECONDS = HOP_LENGTH / SAMPLE_RATE


TOKEN_FRAMES = 2  # a timestamp token counts steps of two frames, 20 ms


SILENCE = 1e-4  # -80 dB of full scale; a window that never exceeds it is not decoded


NO_SPEECH = 0.6  # these four are openai-whisper's defaults (whisper/transcribe.py)


LOG_PROBABILITY = -1.0


COMPRESSION_RATIO = 2.4


TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


class Transcriber:
    """Speech → text, by an openai-whisper model (`encoders.whisper.load_whisper`) with its own decoding.

    Windows of 30 s are decoded as `whisper.transcribe` does: greedy at first, at rising temperatures where the text
    repeats itself or is improbable, each window given the text before it and beginning where the last segment ended.
    What differs: sound is read as it is needed, so that an hour takes no more memory than a minute; the dynamic range
    hangs from the loudest sound so far, not of the whole recording; a window without sound is not decoded; and text
    that still repeats itself at the last temperature is left out, with a warning.
    """

    def __init__(self, model: whisper.Whisper) -> None:
        self.model = model.requires_grad_(False).eval()

    def transcribe(self, source: Any, **options: Any) -> Transcript:
        """All of a recording; arguments and errors are those of `stream`."""
        running = self.stream(source, **options)
        return running.transcript(list(running))

    def stream(
        self,
        source: Any,
        *,
        language: str | None = None,
        task: str = "transcribe",
        prompt: str | None = None,
        temperatures: Sequence[float] = TEMPERATURES,
        condition_on_previous_text: bool = True,
        beam_size: int | None = None,
        vad: bool = False,
        on_window: Callable[[Transcription], None] | None = None,
        seed: int = 0,
        **reading: Any,
    ) -> Transcription:
        """Segments of a recording as soon as each is known.

        source: anything `encoders.media.open_audio` accepts; `reading` are its limits (max_seconds, pcm_rate, …).
        language: a code or name ("en", "english"); None detects it in the first window that is not silent.
        task: "transcribe", or "translate" into English.
        prompt: text that might stand before: names and words to expect.
        condition_on_previous_text: False makes windows independent: less consistent, and no loop carries on.
        vad: leave out what is said while nobody speaks, as silero-vad hears it (the extra `vad`), against text that
            Whisper invents for music and noise.
        on_window: called after every window, with what this returned.
        seed: of the sampling above temperature 0.
        ValueError for a language, task or temperature that Whisper does not have; MediaError for a bad recording.
        """
        if language is not None:
            language = TO_LANGUAGE_CODE.get(language.lower(), language.lower())
            if language not in LANGUAGES:
                raise ValueError(f"{language!r} is no language that Whisper knows; give a code such as 'en', or a name")
        if language is None and not self.model.is_multilingual:
            language = "en"
        if task not in ("transcribe", "translate"):
            raise ValueError(f"task is 'transcribe' or 'translate', not {task!r}")
        if not temperatures or any(not 0 <= t <= 2 for t in temperatures):
            raise ValueError(f"temperatures are one or more numbers of 0–2, not {temperatures!r}")
        options = dict(task=task, beam_size=beam_size, fp16=self.model.device.type == "cuda")
        voice = voice_detector() if vad else None
        running = Transcription(iter(()), language)
        running.segments = self._segments(
            running, source, reading, prompt, tuple(temperatures), condition_on_previous_text, voice, on_window, seed,
            options,
        )  # fmt: skip
        return running

    @torch.no_grad()
    def _segments(
        self, running: Transcription, source: Any, reading: dict, prompt: str | None, temperatures: tuple[float, ...],
        conditioned: bool, voice: Callable | None, on_window: Callable | None, seed: int, options: dict,
    ) -> Iterator[Segment]:  # fmt: skip
        context = self.model.dims.n_text_ctx // 2 - 1  # tokens of earlier text that a window is given
        with open_audio(source, sample_rate=SAMPLE_RATE, **reading) as sound:
            running.total = sound.seconds
            windows = Windows(sound.blocks, self.model.dims.n_mels)
            said: list[int] = []
            tokenizer = None
            seek = 0
            while (window := windows.at(seek)) is not None:
                step, found = window.frames, []
                loud = float(window.samples.abs().max()) > SILENCE
                spoken = voice(window.samples) if loud and voice is not None else None
                if loud and spoken != []:
                    mel = window.mel.to(self.model.device, torch.float16 if options["fp16"] else torch.float32)
                    if running.language is None:
                        _, likely = self.model.detect_language(mel)
                        running.language = max(likely, key=likely.get)
                    if tokenizer is None:
                        tokenizer = get_tokenizer(
                            self.model.is_multilingual, num_languages=self.model.num_languages,
                            language=running.language, task=options["task"],
                        )  # fmt: skip
                        said = tokenizer.encode(" " + prompt.strip()) if prompt else []
                    asked = {**options, "language": running.language, "prompt": said[-context:]}
                    result = self._decode(mel, temperatures, asked, seed + seek)
                    if heard(result):
                        step, found = cut(result, seek, window.frames, tokenizer)
                        if result.compression_ratio > COMPRESSION_RATIO:
                            log.warning("at %.1f s, left out as repetition: %s", seek * FRAME_SECONDS, result.text[:60])
                            step, found = window.frames, []
                        if spoken is not None:
                            found = [segment for segment in found if overlaps(segment, spoken, seek * FRAME_SECONDS)]
                        said += [token for segment in found for token in segment.tokens]
                        if not conditioned or result.temperature > 0.5:
                            said = []
                seek += step
                running.seconds = min(seek, windows.frames) * FRAME_SECONDS
                if on_window is not None:
                    on_window(running)
                yield from found

    def _decode(self, mel: Tensor, temperatures: tuple[float, ...], options: dict, seed: int) -> DecodingResult:
        """The first result that neither repeats itself nor is improbable, or that is no speech; else the last."""
        with torch.random.fork_rng(devices=[self.model.device] if self.model.device.type == "cuda" else []):
            torch.manual_seed(seed)
            for temperature in temperatures:
                asked = {**options, "beam_size": options["beam_size"] if temperature == 0 else None}
                result = self.model.decode(mel, DecodingOptions(**asked, temperature=temperature))
                repeats = result.compression_ratio > COMPRESSION_RATIO
                improbable = result.avg_logprob < LOG_PROBABILITY
                silent = result.no_speech_prob > NO_SPEECH and improbable
                if silent or not (repeats or improbable):
                    break
        return result


def heard(result: DecodingResult) -> bool:
    """Whether there is speech: Whisper says that there is none only where the text is improbable too."""
    return result.no_speech_prob <= NO_SPEECH or result.avg_logprob > LOG_PROBABILITY


def overlaps(segment: Segment, spoken: Sequence[tuple[float, float]], offset: float) -> bool:
    """Whether somebody speaks during a segment; `spoken` counts from `offset`, in seconds."""
    return any(segment.start < offset + end and offset + start < segment.end for start, end in spoken)


def cut(result: DecodingResult, seek: int, frames: int, tokenizer: Any) -> tuple[int, list[Segment]]:
    """A window's text cut at its timestamps, and how many frames of it are done with.

    Two timestamps in a row end one segment and begin the next. What follows the last such pair is unfinished and read
    again in the next window, unless a single timestamp closes it: then the rest of the window is silence.
    """
    tokens, first = list(result.tokens), tokenizer.timestamp_begin
    stamped = [token >= first for token in tokens]
    ends = [index for index in range(1, len(tokens)) if stamped[index] and stamped[index - 1]]
    closed = stamped[-2:] == [False, True]
    offset = seek * FRAME_SECONDS
    found = []

    def add(part: list[int], start: float, end: float) -> None:
        text = tokenizer.decode([token for token in part if token < tokenizer.eot])
        if start < end and text.strip():
            found.append(
                Segment(
                    start, end, text, tuple(part), result.temperature, result.avg_logprob, result.compression_ratio,
                    result.no_speech_prob,
                )
            )  # fmt: skip

    def seconds(token: int) -> float:
        return (token - first) * TOKEN_FRAMES * FRAME_SECONDS

    if not ends:
        last = next((token for token in reversed(tokens) if token > first), None)
        add(tokens, offset, offset + (frames * FRAME_SECONDS if last is None else seconds(last)))
        return frames, found
    bounds = [0, *ends, *([len(tokens)] if closed else [])]
    for start, end in zip(bounds, bounds[1:], strict=False):
        part = tokens[start:end]
        add(part, offset + seconds(part[0]), offset + seconds(part[-1]))
    if closed:
        return frames, found
    return (tokens[ends[-1] - 1] - first) * TOKEN_FRAMES or frames, found  # 0 would look at this window for ever
