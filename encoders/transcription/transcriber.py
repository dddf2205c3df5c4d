"""Whisper's own decoding for recordings of any length: segments are given as soon as they are known, in flat memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from typing import Any, Unpack

import torch
import whisper
from torch import nn
from whisper.audio import HOP_LENGTH
from whisper.decoding import DecodingOptions, DecodingResult
from whisper.tokenizer import Tokenizer, get_tokenizer

from encoders.media.container import MAX_BYTES
from encoders.media.sound import SAMPLE_RATE, ReadingOptions, SoundStream, open_audio
from encoders.media.source import rereadable
from encoders.transcription.decoding import decode_window
from encoders.transcription.passes import Heard, hear, output_layer, spoken_in
from encoders.transcription.segments import FRAME_SECONDS, cut_at_timestamps, is_closed, nonempty, overlaps
from encoders.transcription.settings import check_settings, spoken_language
from encoders.transcription.transcript import Segment, Transcript, Transcription
from encoders.transcription.turns import Turns, Wanted, Written
from encoders.transcription.voice_activity import VoiceDetector, voice_detector
from encoders.transcription.windows import Window, Windows, loudest_in_turns
from encoders.transcription.words import last_word_end, with_words
from encoders.whisper_forms.parts import suppressed

log = logging.getLogger(__name__)

SILENCE = 1e-4  # -80 dB of full scale
PAUSE = 100  # frames; so much silence at the beginning of a window, or more, is not decoded
NO_SPEECH = 0.6  # this and the next three are openai-whisper's defaults (whisper/transcribe.py)
LOG_PROBABILITY = -1.0
COMPRESSION_RATIO = 2.4
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


class Transcriber:
    """Speech → text with an openai-whisper model (`encoders.whisper.load_whisper`) and its own decoding.

    Windows of 30 s are decoded as `whisper.transcribe` does: greedily at first, then at rising temperatures while the
    text is repetitive or improbable; each window is given the text before it, and begins where the last segment ended.
    A recording is read twice, for its loudest sound, by which all windows are scaled, and then as it is needed, so that
    an hour takes no more memory than a minute. The differences: a second or more of silence at the beginning of a
    window is skipped; and text that is still repetitive at the last temperature is left out, with a warning.

    computing: gives a context for each piece of work with the model.
    compute_dtype: in which the encoder multiplies, see `hear`.
    output: the model's last layer, which upstream computes without a layer; to be packed beside `model`.
    """

    def __init__(
        self, model: whisper.Whisper, computing: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        self.model = model.requires_grad_(False).eval()
        self.computing = computing
        self.compute_dtype = torch.float32
        self.output = output_layer(self.model)

    def transcribe(
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
        word_timestamps: bool = False,
        seed: int = 0,
        **reading: Unpack[ReadingOptions],
    ) -> Transcript:
        """The transcript of a whole recording; arguments and errors are those of `stream`."""
        running = self.stream(
            source, language=language, task=task, prompt=prompt, temperatures=temperatures,
            condition_on_previous_text=condition_on_previous_text, beam_size=beam_size, vad=vad,
            word_timestamps=word_timestamps, seed=seed, **reading,
        )  # fmt: skip
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
        word_timestamps: bool = False,
        on_window: Callable[[Transcription], None] | None = None,
        seed: int = 0,
        **reading: Unpack[ReadingOptions],
    ) -> Transcription:
        """The segments of a recording, each as soon as it is known.

        source: anything that `encoders.media.open_audio` accepts; `reading` are its options (max_seconds, pcm_rate, …).
        language: a code or name ("en", "english"); None detects it in the first window that is not silent.
        task: "transcribe", or "translate" into English.
        prompt: text that could precede the recording, with the names and words to expect.
        temperatures: tried in this order, until the text is neither repetitive nor improbable.
        condition_on_previous_text: False makes windows independent: less consistent, but errors do not carry over.
        beam_size: number of beams at temperature 0; None decodes greedily.
        vad: leave out text where silero-vad hears no speech (with the extra `vad`), since Whisper invents text for
            music and noise.
        word_timestamps: gives segments `words`, timed by the attention of the model's alignment heads, and moves the
            starts and ends of segments to them, as `whisper.transcribe` does.
        on_window: called after every window with the running `Transcription`.
        seed: of the sampling at temperatures above 0.
        ValueError for a language or task that this Whisper does not have, and for a temperature beyond 0..2; TypeError
        for a value of another kind; MediaError for a bad recording. NonFiniteTextError where the model computes NaN.
        """
        language = spoken_language(self.model, language, task)
        temperatures = check_settings(prompt, temperatures, beam_size, seed)
        self.output.weight = self.model.decoder.token_embedding.weight  # another one where it was replaced since
        decoding = _Decoding(
            self.model, self.output, task, prompt, temperatures, condition_on_previous_text, beam_size,
            voice_detector() if vad else None, word_timestamps, seed, self.computing, self.compute_dtype,
        )  # fmt: skip
        running = Transcription(iter(()), language)
        running.turns = turns = self._turns(running, decoding, source, on_window, reading)
        running.segments = self._alone(turns)
        return running

    @torch.no_grad()
    def _turns(
        self, running: Transcription, decoding: _Decoding, source: Any,
        on_window: Callable[[Transcription], None] | None, reading: ReadingOptions,
    ) -> Turns:  # fmt: skip
        n_mels = self.model.dims.n_mels
        source = rereadable(source, reading.get("max_bytes", MAX_BYTES), reading.get("allow_url", False))

        def opened() -> AbstractContextManager[SoundStream]:
            return open_audio(source, sample_rate=SAMPLE_RATE, **reading)

        loudest = yield from loudest_in_turns(opened, n_mels)
        with opened() as sound:
            running.total = sound.seconds
            windows = Windows(sound.blocks, n_mels, loudest)
            seek = 0
            while (window := windows.at(seek)) is not None:
                done, segments = yield from decoding.window(window, seek, running)
                running.seconds = min(seek + done, windows.frames) * FRAME_SECONDS
                if on_window is not None:
                    on_window(running)
                yield Written(seek, tuple(segments))
                seek += done

    @torch.no_grad()
    def _alone(self, turns: Turns) -> Iterator[Segment]:
        """The segments of turns that are taken one after the other."""
        found = None
        with closing(turns):
            while True:
                try:
                    turn = turns.send(found)
                except StopIteration:
                    return
                found = None
                if isinstance(turn, Wanted):
                    with self.computing():
                        found = decode_window(self.model, turn.heard, turn.options, turn.generator)
                elif turn is not None:
                    yield from turn.segments


@dataclass
class _Decoding:
    """The decoding of one recording, window by window: its settings, and the text so far."""

    model: whisper.Whisper
    output: nn.Module
    task: str
    prompt: str | None
    temperatures: tuple[float, ...]
    conditioned: bool
    beam_size: int | None
    voice: VoiceDetector | None
    timing: bool
    seed: int
    computing: Callable[[], AbstractContextManager[None]]
    compute_dtype: torch.dtype
    tokenizer: Tokenizer | None = None  # made when the language is known
    previous: list[int] = field(default_factory=list)  # tokens that the next window is given as its prompt
    spoken_until: float = 0.0  # the end of the last word that was timed, in seconds

    def window(
        self, window: Window, seek: int, running: Transcription
    ) -> Generator[Wanted, Any, tuple[int, list[Segment]]]:
        """How many frames of a window are done, and their segments. Sets `running.language` if it is still unknown."""
        if silent := silent_frames(window):
            return silent, []
        spoken = None if self.voice is None else self.voice(window.samples)
        if spoken == []:
            return window.frames, []
        mel = window.mel.to(self.model.device, torch.float16 if self._half else torch.float32)
        with self.computing():
            heard = hear(self.model, mel, self.output, self.compute_dtype)  # once, for the language and for every try
            tokenizer = self._tokenizer(heard, running)
        result = yield from self._decode(heard, running.language, self.seed + seek)
        if not is_speech(result):
            return window.frames, []
        done, segments = cut_at_timestamps(result, seek, window.frames, tokenizer)
        if result.compression_ratio > COMPRESSION_RATIO:
            log.warning("at %.1f s, repetitive text is left out: %s", seek * FRAME_SECONDS, result.text[:60])
            done, segments = window.frames, []
        if self.timing and segments:
            with self.computing():
                segments = with_words(
                    self.model, heard, tokenizer, segments, seek * FRAME_SECONDS, window.frames, self.spoken_until
                )
            self.spoken_until = last_word_end(segments) or 0.0
            past = round(self.spoken_until / FRAME_SECONDS) - seek
            if past > 0 and not is_closed(result, tokenizer):
                done = past  # what follows the last word is heard again
        segments = nonempty(segments)
        if spoken is not None:
            segments = [segment for segment in segments if overlaps(segment, spoken, seek * FRAME_SECONDS)]
        self.previous += [token for segment in segments for token in segment.tokens]
        if not self.conditioned or result.temperature > 0.5:
            self.previous = []
        return done, segments

    @property
    def _half(self) -> bool:
        return self.model.device.type == "cuda"

    def _tokenizer(self, heard: Heard, running: Transcription) -> Tokenizer:
        """The tokenizer of the language, which is detected in a window if it is unknown."""
        if running.language is None:
            running.language = spoken_in(self.model, heard)
        if self.tokenizer is None:
            self.tokenizer = get_tokenizer(
                self.model.is_multilingual,
                num_languages=self.model.num_languages,
                language=running.language,
                task=self.task,
            )
            # What is typed is plain text: a control token's name in it is spelled out.
            self.previous = self.tokenizer.encoding.encode_ordinary(" " + self.prompt.strip()) if self.prompt else []
        return self.tokenizer

    def _decode(self, heard: Heard, language: str | None, seed: int) -> Generator[Wanted, Any, DecodingResult]:
        """The result at the first temperature at which it is acceptable, or at the last one."""
        context = self.model.dims.n_text_ctx // 2 - 1  # tokens of earlier text that a window may be given

        generator = torch.Generator(self.model.device).manual_seed(seed)

        def at(temperature: float) -> Wanted:
            options = DecodingOptions(
                task=self.task,
                language=language,
                temperature=temperature,
                beam_size=self.beam_size if temperature == 0 else None,
                prompt=self.previous[-context:],
                suppress_tokens=suppressed(self.model),
                fp16=self._half,
            )
            return Wanted(heard, options, generator)

        result = yield at(self.temperatures[0])
        for temperature in self.temperatures[1:]:
            if _is_acceptable(result):
                break
            result = yield at(temperature)
        return result


def silent_frames(window: Window) -> int:
    """How many frames at the beginning of a window are silent: all of them, at least `PAUSE`, or 0."""
    loud = (window.samples.abs() > SILENCE).nonzero()
    silent = window.frames if len(loud) == 0 else int(loud[0]) // HOP_LENGTH
    return silent if silent == window.frames or silent >= PAUSE else 0


def is_speech(result: DecodingResult) -> bool:
    """Whether a window contains speech. It does not if Whisper finds none and its text is improbable as well."""
    return result.no_speech_prob <= NO_SPEECH or result.avg_logprob > LOG_PROBABILITY


def _is_acceptable(result: DecodingResult) -> bool:
    """Whether a text is neither repetitive nor improbable, or is improbable because there is no speech."""
    repetitive = result.compression_ratio > COMPRESSION_RATIO
    improbable = result.avg_logprob < LOG_PROBABILITY
    silent = result.no_speech_prob > NO_SPEECH and improbable
    return silent or not (repetitive or improbable)
