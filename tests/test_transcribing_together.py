"""Recordings that are written down together have the transcripts that they have alone."""

import functools

import pytest
import torch

from encoders.media.sound import SAMPLE_RATE
from encoders.media.source import MediaError
from encoders.transcription import together, transcriber
from encoders.transcription.decoding import NonFiniteTextError
from encoders.transcription.passes import step_together, window_bytes
from encoders.transcription.together import transcribed_together
from encoders.transcription.transcriber import Transcriber
from support.hearing import noise, tiny_whisper

HEARD = [
    ((noise(33.0, 0), SAMPLE_RATE), dict(temperatures=(0.0,))),
    ((noise(31.0, 1), SAMPLE_RATE), dict(temperatures=(0.0,), language="de", word_timestamps=True)),
    ((noise(4.0, 2) * 0, SAMPLE_RATE), dict()),  # silent: there is no window to write
    ((noise(5.0, 2), SAMPLE_RATE), dict(temperatures=(0.0, 0.6), seed=3)),
    ((noise(6.0, 3), SAMPLE_RATE), dict(temperatures=(0.8,), seed=5, prompt="Names")),
    ((noise(7.0, 4), SAMPLE_RATE), dict(temperatures=(0.0,), beam_size=3)),
]


@pytest.fixture(scope="module")
def ears():
    """A random model, which repeats itself; such text would be left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transcriber, "COMPRESSION_RATIO", 1e9)
        yield Transcriber(tiny_whisper(0, sharpness=3.0))


def begun(ears, heard=HEARD):
    return [functools.partial(ears.stream, source, **options) for source, options in heard]


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # upstream's beams
@pytest.mark.parametrize("at_once", [2, 8])
def test_each_is_what_it_is_alone(ears, monkeypatch, at_once):
    rows = []
    monkeypatch.setattr(
        together, "step_together", lambda own, tokens: rows.append(len(own)) or step_together(own, tokens)
    )
    found = dict(transcribed_together(ears, begun(ears), at_once))
    assert sorted(found) == list(range(len(HEARD))) and max(rows) == min(at_once, len(HEARD) - 1)
    for number, (source, options) in enumerate(HEARD):
        alone, own = ears.transcribe(source, **options), found[number]
        assert (own.text, own.language, own.seconds) == (alone.text, alone.language, alone.seconds)
        for one, other in zip(own.segments, alone.segments, strict=True):
            for name in ("start", "end", "tokens", "temperature"):
                assert getattr(one, name) == getattr(other, name)
            assert [word.word for word in one.words or ()] == [word.word for word in other.words or ()]
            assert one.avg_logprob == pytest.approx(other.avg_logprob, abs=1e-4)
    assert any(said.segments for said in found.values()) and not found[2].segments


def test_what_is_wrong_with_one_is_told_in_its_place(ears, monkeypatch):
    heard = [HEARD[3], ("missing.wav", {}), HEARD[4], ((noise(3.0), SAMPLE_RATE), dict(temperatures=(0.5,), seed=77))]
    sampled = transcriber.Wanted

    def with_nan(heard, options, generator):
        if generator.initial_seed() == 77:
            heard = type(heard)(heard.features, [(k * torch.nan, v) for k, v in heard.keys_values], heard.output)
        return sampled(heard, options, generator)

    monkeypatch.setattr(transcriber, "Wanted", with_nan)
    found = dict(transcribed_together(ears, begun(ears, heard)))
    assert isinstance(found[1], MediaError | OSError) and isinstance(found[3], NonFiniteTextError)
    monkeypatch.undo()
    for number in (0, 2):
        assert found[number].text == ears.transcribe(heard[number][0], **heard[number][1]).text


def test_few_begin_where_windows_are_large_and_what_is_given_up_is_closed(ears, monkeypatch):
    monkeypatch.setattr(together, "MEMORY", 2 * window_bytes(ears.model))
    opened = []

    def start(number):
        opened.append(number)
        return ears.stream((noise(2.0, number), SAMPLE_RATE), temperatures=(0.0,))

    running = transcribed_together(ears, (functools.partial(start, number) for number in range(9)))
    next(running)
    assert len(opened) == 2
    running.close()
    assert len(opened) == 2
