"""Recordings in the engine: each is written down as it is alone, and nobody waits for a whole one of another's."""

import gc
import inspect
import threading
import weakref
from typing import Any

import pytest
import torch

import mmlm
from encoders.media.sound import SAMPLE_RATE
from encoders.media.source import MediaError
from encoders.transcription import transcriber
from encoders.transcription.decoding import NonFiniteTextError
from encoders.transcription.passes import Passes, hear, step_together
from encoders.transcription.transcriber import Transcriber
from encoders.transcription.transcript import Transcript
from mmlm.generation.memory import SMALL, MemoryLimitError
from mmlm.generation.options import GenerationOptions
from mmlm.serving import recordings
from mmlm.serving.engine import Engine
from mmlm.serving.options import EngineOptions
from mmlm.serving.recordings import Recordings
from mmlm.serving.ticket import BusyError, CancelledError, DeadlineError
from support import parts
from support.hearing import noise, tiny_whisper
from support.serving import until

WAIT = 60.0  # seconds, in which any of these requests ends
GREEDY: dict[str, Any] = dict(temperatures=(0.0,))
HEARD: list[tuple[Any, dict[str, Any]]] = [
    ((noise(33.0, 0), SAMPLE_RATE), GREEDY),
    ((noise(31.0, 1), SAMPLE_RATE), dict(language="de", word_timestamps=True, **GREEDY)),
    ((noise(5.0, 2), SAMPLE_RATE), dict(temperatures=(0.0, 0.6), seed=3)),
    ((noise(6.0, 3), SAMPLE_RATE), dict(prompt="Names", temperatures=(0.8,), seed=5)),
]
PROMPTS: list[list[Any]] = [["only text here"], [parts.picture(1), "Output:"]]
LONG = (noise(200.0), SAMPLE_RATE)


@pytest.fixture(scope="module", autouse=True)
def kept():
    """A random model repeats itself, which would be left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transcriber, "COMPRESSION_RATIO", 1e9)
        yield


@pytest.fixture(scope="module")
def model() -> mmlm.MultimodalLM:
    made = parts.build(ears="latents")
    made.transcriber = Transcriber(tiny_whisper(0, sharpness=3.0), made.language_model.accelerated)
    return made


@pytest.fixture(scope="module")
def alone(model) -> list[Transcript]:
    return [model.transcriber.transcribe(source, **options) for source, options in HEARD]


def timed(said: Transcript) -> tuple:
    """Everything of a transcript that is no number of the model's own."""
    segments = [(one.start, one.end, one.text, one.tokens, one.temperature) for one in said.segments]
    words = [[(word.word, word.start, word.end) for word in one.words or ()] for one in said.segments]
    return said.text, said.language, said.seconds, segments, words


def test_beside_others_a_recording_has_the_text_and_times_that_it_has_alone(model, alone, monkeypatch):
    together: list[int] = []
    step = Recordings.step

    def once_all_are_there(own: Recordings) -> None:
        if not together:  # how soon each is read and encoded is the machine's
            until(lambda: len(own.written) == len(HEARD), WAIT)
        step(own)

    monkeypatch.setattr(Recordings, "step", once_all_are_there)
    monkeypatch.setattr(
        recordings, "step_together", lambda own, tokens: together.append(len(own)) or step_together(own, tokens)
    )
    written = [model.generate(prompt, max_new_tokens=30) for prompt in PROMPTS]
    with Engine(model) as engine:
        tickets = [engine.transcribe(source, **options) for source, options in HEARD]
        texts = [engine.submit(prompt, GenerationOptions(max_new_tokens=30)) for prompt in PROMPTS]
        for ticket, result in zip(texts, written, strict=True):
            assert ticket.results(WAIT)[0].token_ids == result.token_ids
        for ticket, expected in zip(tickets, alone, strict=True):
            found = ticket.results(WAIT)
            assert timed(found) == timed(expected) and len(expected.segments) >= 1
            for own, other in zip(found.segments, expected.segments, strict=True):
                assert own.avg_logprob == pytest.approx(other.avg_logprob, abs=1e-4)
                assert own.no_speech_prob == pytest.approx(other.no_speech_prob, abs=1e-4)
        assert engine.running == engine.waiting == 0 and engine.counts.finished == len(HEARD) + len(PROMPTS)
        assert engine.counts.windows >= 6
    assert together[0] == len(HEARD)
    temperatures = {segment.temperature for said in alone for segment in said.segments}
    assert 0.0 in temperatures and max(temperatures) > 0


def test_the_passes_of_texts_together_are_those_of_each_alone(model):
    whisper = model.transcriber.model
    heard = [hear(whisper, torch.randn(80, 3000)) for _ in range(3)]
    starts = [[50258, 50259, 50359], [50361, 7, 8, 9, 50258, 50259, 50359], [50258]]
    rows = [1, 3, 2]

    def begun() -> list[Passes]:
        made = [Passes(whisper, own, count) for own, count in zip(heard, rows, strict=True)]
        for one, start in zip(made, starts, strict=True):
            one.begin(torch.tensor(start), [-1])
        return made

    singly, shared = begun(), begun()
    for step in range(4):
        tokens = [torch.arange(count) + 10 * step for count in rows]
        expected = [one.step(own) for one, own in zip(singly, tokens, strict=True)]
        torch.testing.assert_close(step_together(shared, tokens), expected, atol=1e-4, rtol=1e-5)


def test_texts_are_written_between_the_windows_of_a_long_recording(model):
    first = threading.Event()
    with Engine(model) as engine:
        long = engine.transcribe(LONG, listener=lambda window: first.set(), **GREEDY)
        assert first.wait(WAIT)
        short = engine.transcribe((noise(3.0), SAMPLE_RATE), **GREEDY)
        assert len(engine.submit(PROMPTS[0], GenerationOptions(max_new_tokens=5)).results(WAIT)[0].token_ids) == 5
        assert short.results(WAIT).seconds == pytest.approx(3.0, abs=0.02)
        assert not long.is_done
        long.cancel()


def test_windows_are_heard_as_they_are_written_down(model, alone):
    heard: list[Any] = []
    with Engine(model) as engine:
        source, options = HEARD[0]
        said = engine.transcribe(source, listener=heard.append, **options).results(WAIT)
    assert heard.pop() is None and [window.seek for window in heard] == sorted({window.seek for window in heard})
    assert tuple(segment for window in heard for segment in window.segments) == said.segments
    for window in heard:
        assert all(segment.start >= window.seek / 100 - 0.011 for segment in window.segments)
    assert timed(said) == timed(alone[0])


def test_who_leaves_frees_the_place_and_who_comes_late_is_given_up(model, alone):
    heard: list[Any] = []
    with Engine(model, EngineOptions(max_recordings=1, max_waiting=3)) as engine:
        running = engine.transcribe(LONG, listener=heard.append, **GREEDY)
        until(lambda: heard)
        late = engine.transcribe(LONG, timeout=0.0)
        gone = engine.transcribe(LONG)
        source, options = HEARD[2]
        waiting = engine.transcribe(source, **options)
        with pytest.raises(BusyError):
            engine.transcribe(LONG)
        gone.cancel()
        before = len(heard)
        running.cancel()
        for ticket, kind in ((running, CancelledError), (late, DeadlineError), (gone, CancelledError)):
            with pytest.raises(kind):
                ticket.results(WAIT)
        assert len(heard) - before <= 2, "the window that was nearly done, and the end"
        assert timed(waiting.results(WAIT)) == timed(alone[2])
        until(lambda: engine.running == engine.waiting == 0)
        counts = engine.counts
        assert (counts.finished, counts.failed, counts.cancelled, counts.requests) == (1, 1, 2, 4)
        closing = engine.transcribe(LONG)
    with pytest.raises(CancelledError, match="closed"):
        closing.results(WAIT)
    with pytest.raises(CancelledError):
        engine.transcribe(LONG)


def test_a_fault_of_one_recording_is_nobody_elses(model, alone, monkeypatch):
    def failing(recording: Any) -> Any:
        raise RuntimeError("the loop of events is closed")

    wrong: list[tuple[Any, dict[str, Any], type[Exception]]] = [
        (b"no sound at all, no sound at all", {}, MediaError),
        ((noise(3.0), SAMPLE_RATE), dict(language="klingon"), ValueError),
        ((noise(3.0), SAMPLE_RATE), dict(max_seconds=1.0), MediaError),
        ((noise(3.0), SAMPLE_RATE), dict(temperatures=()), ValueError),
        ((noise(3.0), SAMPLE_RATE), dict(listener=failing), CancelledError),
    ]
    with Engine(model) as engine:
        bad = [(engine.transcribe(source, **options), kind) for source, options, kind in wrong]
        good = [engine.transcribe(source, **options) for source, options in HEARD[1:3]]
        for ticket, kind in bad:
            if kind is not CancelledError:
                with pytest.raises(kind):
                    ticket.results(WAIT)
        for ticket, expected in zip(good, alone[1:3], strict=True):
            assert timed(ticket.results(WAIT)) == timed(expected)
        until(lambda: engine.running == 0)

        def broken(own: Any, tokens: Any) -> Any:
            raise RuntimeError("a fault of the pass")

        with monkeypatch.context() as patch:
            patch.setattr(recordings, "step_together", broken)
            with pytest.raises(RuntimeError, match="of the pass"):
                engine.transcribe(HEARD[2][0], **GREEDY).results(WAIT)
        assert timed(engine.transcribe(HEARD[2][0], **HEARD[2][1]).results(WAIT)) == timed(alone[2])


def test_values_that_are_no_numbers_end_their_recording():
    model = parts.build(ears="latents")
    whisper = tiny_whisper(0)
    with torch.no_grad():
        whisper.decoder.ln.weight[0] = torch.nan
    model.transcriber = Transcriber(whisper)
    with Engine(model) as engine:
        for temperature in (0.0, 1.0):
            ticket = engine.transcribe((noise(3.0), SAMPLE_RATE), language="en", temperatures=(temperature,))
            with pytest.raises(NonFiniteTextError):
                ticket.results(WAIT)
        assert len(engine.submit(PROMPTS[0], GenerationOptions(max_new_tokens=3)).results(WAIT)[0].token_ids) == 3


def test_where_memory_ends_recordings_wait_for_those_that_run(model, alone, monkeypatch):
    """Room for one window is there, and for no second beside it; then for none."""
    with Engine(model) as engine:
        own, most, room = engine._recordings, [], 3 * SMALL

        def free_bytes(device: torch.device) -> int:
            most.append(own.running)
            return room - 2 * SMALL * sum(one.attempt is not None for one in own._begun)

        monkeypatch.setattr(recordings, "window_bytes", lambda whisper: 2 * SMALL)
        monkeypatch.setattr(recordings, "free_bytes", free_bytes)
        tickets = [engine.transcribe(source, **options) for source, options in HEARD[1:3]]
        for ticket, expected in zip(tickets, alone[1:3], strict=True):
            assert timed(ticket.results(WAIT)) == timed(expected)
        assert max(most) == 1
        room = SMALL
        with pytest.raises(MemoryLimitError, match="smaller Whisper"):
            engine.transcribe(LONG).results(WAIT)


def test_who_leaves_is_told_before_others_have_their_turns(model, monkeypatch):
    turns: list[Any] = []
    take, come = recordings.Recordings._take_turn, threading.Event()

    def noted(own: Any, one: Any) -> None:
        turns.append(one.ticket)
        if len(turns) == 1:
            assert come.wait(WAIT)
            tickets[-1].cancel()
        take(own, one)

    monkeypatch.setattr(recordings.Recordings, "_take_turn", noted)
    with Engine(model) as engine:
        tickets = [engine.transcribe(LONG, **GREEDY) for _ in range(4)]
        come.set()
        with pytest.raises(CancelledError):
            tickets[-1].results(WAIT)
    assert turns[0] is tickets[0] and turns[1] is tickets[-1]


def test_a_recording_that_fails_is_let_go_of_at_once(model):
    """Errors hold frames, and these what was asked for: without looking for cycles, nothing of it is left."""
    left: list[weakref.ref] = []
    gc.disable()
    try:
        with Engine(model) as engine:
            asked: list[dict[str, Any]] = [dict(max_seconds=1.0), dict(timeout=0.0), dict(language="klingon")]
            for options in asked:
                samples = noise(5.0)
                left.append(weakref.ref(samples))
                ticket = engine.transcribe((samples, SAMPLE_RATE), **options)
                del samples
                assert ticket.wait(WAIT)
                with pytest.raises((MediaError, DeadlineError, ValueError)):
                    ticket.results()
            until(lambda: all(one() is None for one in left))
    finally:
        gc.enable()


def test_the_thread_outlives_what_is_no_ordinary_error(model, alone, monkeypatch):
    """As an extension raises it that panics; and a device that does not say what is free."""

    class Panic(BaseException):
        pass

    def panicking(*_: Any, **__: Any) -> Any:
        raise Panic

    def silent(*_: Any) -> int:
        raise OSError("the device does not answer")

    with Engine(model) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(model.transcriber, "stream", panicking)
            with pytest.raises(RuntimeError, match="Panic"):
                engine.transcribe(LONG).results(WAIT)
        running = engine.transcribe(LONG, **GREEDY)
        until(lambda: engine.running)
        with monkeypatch.context() as patch:
            patch.setattr(recordings, "window_bytes", lambda whisper: 2 * SMALL)
            patch.setattr(recordings, "free_bytes", silent)
            waiting = engine.transcribe(HEARD[2][0], **HEARD[2][1])
            running.cancel()
            with pytest.raises(OSError, match="does not answer"):
                waiting.results(WAIT)
        assert timed(engine.transcribe(HEARD[2][0], **HEARD[2][1]).results(WAIT)) == timed(alone[2])


def test_a_recording_keeps_the_transcriber_that_it_began_with():
    """It is replaced after the first window, with another recording beside it."""
    model, source = parts.build(ears="latents"), HEARD[0][0]
    own, other = (Transcriber(tiny_whisper(seed, sharpness=3.0)) for seed in (0, 1))
    expected, later = (one.transcribe(source, language="en", **GREEDY) for one in (own, other))
    assert expected.text != later.text
    model.transcriber = own
    tickets: list[Any] = []
    with Engine(model) as engine:

        def replaced(piece: Any) -> None:
            if not tickets[1:]:
                model.transcriber = other
                tickets.append(engine.transcribe(source, language="en", **GREEDY))

        tickets.append(engine.transcribe(source, language="en", listener=replaced, **GREEDY))
        until(lambda: len(tickets) == 2)
        assert [timed(one.results(WAIT)) for one in tickets] == [timed(expected), timed(later)]


def test_threads_that_ask_at_once_for_what_transcribes_get_the_same():
    """As where both have found that there is none yet."""
    model = parts.build(ears="latents")
    model.encoders["audio"].model = tiny_whisper(0)
    made = [type(model).transcriber.func(model) for _ in range(2)]
    assert made[0] is made[1] is model.transcriber


def test_the_options_are_those_of_the_model(model):
    heard: list[float] = []
    given = inspect.signature(type(model).transcribe).parameters.values()
    options = {one.name: one.default for one in given if one.kind is one.KEYWORD_ONLY and one.name != "channels"}
    expected = model.transcribe(HEARD[0][0])
    with Engine(model) as engine:
        ticket = engine.transcribe(HEARD[0][0], on_window=lambda running: heard.append(running.seconds), **options)
        assert timed(ticket.results(WAIT)) == timed(expected)
    assert heard == sorted(heard) and len(heard) >= 2 and heard[-1] == expected.seconds


def test_a_model_without_whisper_says_so():
    with Engine(parts.shared()) as engine, pytest.raises(ValueError, match="no Whisper"):
        engine.transcribe(LONG)
