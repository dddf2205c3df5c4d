"""Times of words, against `whisper.transcribe(word_timestamps=True)`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import whisper
from whisper.model import MultiHeadAttention

from encoders.media.sound import SAMPLE_RATE, load_audio
from encoders.transcription import transcriber
from encoders.transcription.transcriber import Transcriber
from encoders.whisper import load_whisper
from support.hearing import noise, tiny_whisper


def upstreams(model, samples, **options):
    """(start, end) of each segment that has a text, and (word, start, end) with its probability of each word."""
    said = whisper.transcribe(
        model, samples, temperature=0.0, compression_ratio_threshold=None, logprob_threshold=-1.0, fp16=False,
        word_timestamps=True, **options,
    )  # fmt: skip
    segments = [one for one in said["segments"] if one["text"]]
    words = [[(own["word"], own["start"], own["end"]) for own in one["words"]] for one in segments]
    chances = [own["probability"] for one in segments for own in one["words"]]
    return [(one["start"], one["end"]) for one in segments], words, chances


def ours(model, samples, **options):
    found = Transcriber(model).transcribe((samples, SAMPLE_RATE), temperatures=(0.0,), word_timestamps=True, **options)
    words = [[(own.word, own.start, own.end) for own in one.words] for one in found.segments]
    return (
        [(one.start, one.end) for one in found.segments], words,
        [own.probability for one in found.segments for own in one.words],
    )  # fmt: skip


def test_words_and_windows_are_upstreams(monkeypatch):
    """A random model attends anywhere: rules for long words at pauses and ends of sentences have their turn."""
    monkeypatch.setattr(transcriber, "COMPRESSION_RATIO", 1e9)  # upstream keeps what repeats itself
    model, samples = tiny_whisper(0, sharpness=0.3), noise(3.0)
    times, words, chances = upstreams(model, samples)
    own_times, own_words, own_chances = ours(model, samples)
    assert own_words == words and sum(map(len, words)) >= 3
    np.testing.assert_allclose(np.array(own_times), np.array(times), atol=1e-6)
    np.testing.assert_allclose(own_chances, chances, rtol=1e-3, atol=1e-7)


THREADS = """
import torch
torch.set_num_threads(1)
from encoders.media.sound import SAMPLE_RATE
from encoders.transcription import transcriber
from support.hearing import noise, tiny_whisper
transcriber.COMPRESSION_RATIO = 1e9
said = transcriber.Transcriber(tiny_whisper(0, sharpness=3.0)).transcribe(
    (noise(3.0), SAMPLE_RATE), language="en", temperatures=(0.0,), word_timestamps=True
)
assert said.segments[0].words and torch.get_num_threads() == 1, torch.get_num_threads()
"""


def test_torch_keeps_its_number_of_threads():
    """In a process of its own, since numba sets its number once."""
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", THREADS], env=environment, check=True)


def test_the_model_is_left_alone(monkeypatch):
    """No hook is set and no attention switched, not even while words are timed; segments without them have none."""
    monkeypatch.setattr(transcriber, "COMPRESSION_RATIO", 1e9)
    model, seen = tiny_whisper(0, sharpness=3.0), []
    real = model.decoder.ln.forward

    def spy(x):
        seen.append((MultiHeadAttention.use_sdpa, sum(len(one._forward_hooks) for one in model.modules())))
        return real(x)

    monkeypatch.setattr(model.decoder.ln, "forward", spy)
    options = {"language": "en", "temperatures": (0.0,)}
    timed = Transcriber(model).transcribe((noise(5.0), SAMPLE_RATE), word_timestamps=True, **options)
    assert set(seen) == {(True, 0)}
    plain = Transcriber(model).transcribe((noise(5.0), SAMPLE_RATE), **options)
    assert all(one.words is None for one in plain.segments) and "words" not in plain.to_dict()["segments"][0]
    told = json.loads(json.dumps(timed.to_dict()))["segments"][0]["words"]
    assert told and set(told[0]) == {"word", "start", "end", "probability"}


def test_real_words_are_upstreams(data_folder):
    folder = Path(os.environ.get("MMLM_REAL", Path(__file__).parents[2] / "shared/real"))
    if not (folder / "whisper-base.pt").is_file():
        pytest.skip(f"no whisper-base.pt in {folder}: set MMLM_REAL to a folder made by shared/real/prepare.py")
    samples = load_audio(data_folder / "test_inputs/jfk.flac").waveform
    theirs = whisper.load_model(str(folder / "whisper-base.pt"), "cpu")
    own = load_whisper(folder / "whisper-base.pt")
    theirs.register_buffer("alignment_heads", own.alignment_heads, persistent=False)
    times, words, chances = upstreams(theirs, samples)
    own_times, own_words, own_chances = ours(own, samples)
    assert own_words == words and own_times == times and sum(map(len, words)) == 22
    torch.testing.assert_close(own_chances, chances, rtol=1e-4, atol=1e-6)
