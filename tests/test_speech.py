"""Speech that recipes make (recipes/speech): voices that differ, rooms that do what they say."""

import json
import random
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from encoders.media.sound import load_audio
from recipes.nano.speech import WORDS, write_own_words, write_speech
from recipes.speech import room
from recipes.speech.espeak import ACCENTS, SPEAKERS, UNHEARD_SPEAKERS, Voice, random_voice, speak

RATE = 16_000


def power(samples):
    return np.square(samples.astype(np.float64)).mean()


@pytest.mark.parametrize("level", [-5.0, 0.0, 20.0])
def test_noise_stands_as_far_below_speech_as_asked(level):
    rng = np.random.default_rng(0)
    speech = np.sin(np.arange(RATE) * 0.1) * np.linspace(0, 1, RATE)
    noise = room.mixed(speech, room.coloured_noise(RATE, 1.0, rng), level) - speech
    assert 10 * np.log10(power(speech) / power(noise)) == pytest.approx(level, abs=0.01)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_noise_has_its_colour(exponent):
    """Power over two octaves, by the slope of a line through the logarithms."""
    noise = room.coloured_noise(1 << 18, exponent, np.random.default_rng(1))
    assert power(noise) == pytest.approx(1.0)
    spectrum = np.square(np.abs(np.fft.rfft(noise)))
    bands = [spectrum[start : 2 * start].mean() for start in (500, 1000, 2000, 4000, 8000, 16000)]
    slope = np.polyfit(np.arange(6) * np.log(2), np.log(bands), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.1)


@pytest.mark.parametrize("seconds", [0.2, 0.5])
def test_echoes_fall_by_sixty_decibels_in_their_time(seconds):
    click = np.zeros(RATE)
    click[0] = 1.0
    response = room.reverberant(click, RATE, seconds, 6.0, np.random.default_rng(2))
    assert response[0] == pytest.approx(1.0) and len(response) == RATE
    assert 10 * np.log10(1.0 / np.square(response[1:]).sum()) == pytest.approx(6.0, abs=0.1)
    early, late = (power(response[int(a * seconds * RATE) + 1 : int(b * seconds * RATE)])
                   for a, b in ((0.0, 0.2), (0.5, 0.7)))  # fmt: skip
    assert 10 * np.log10(early / late) == pytest.approx(30.0, abs=2.0)  # half of the time, half of the decibels


def test_a_recording_follows_its_seed_and_its_peak():
    speech = np.sin(np.arange(RATE) * 0.1).astype(np.float32)
    takes = [room.recorded(speech, RATE, room.Room(), np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert np.array_equal(takes[0], takes[1]) and not np.array_equal(takes[0], takes[2])
    for take in takes:
        assert take.shape == speech.shape and take.dtype == np.float32 and 0.1 <= np.abs(take).max() <= 0.95
    silent = room.recorded(np.zeros(RATE, np.float32), RATE, room.Room(noise_share=0), np.random.default_rng(0))
    assert not silent.any()


# ---- espeak-ng, where it is installed


@pytest.fixture(scope="module")
def espeak():
    pytest.importorskip("espeakng_loader", reason="speech is made by espeak-ng: pip install -e .[speech]")


def test_every_voice_speaks(espeak):
    """Each of the speakers and accents by name, in time for five words, and none like another."""
    voices = [Voice(speaker=name) for name in (*SPEAKERS, *UNHEARD_SPEAKERS)]
    voices += [Voice(accent=name) for name in ACCENTS]
    for voice in voices:
        samples, rate = speak("a small red circle", voice)
        assert 0.7 < len(samples) / rate < 3.0 and 0.05 < np.abs(samples).max() <= 1.0, voice
    assert not set(SPEAKERS) & set(UNHEARD_SPEAKERS)


def test_speed_and_pitch_do_what_they_say(espeak):
    def pitch(samples, rate):
        """Median over loud frames of 40 ms: the first lag at which a frame looks like what follows it."""
        size, found = int(0.04 * rate), []
        lags = np.arange(rate // 400, rate // 60)
        for start in range(0, len(samples) - 2 * size, size):
            frame = samples[start : start + 2 * size].astype(np.float64)
            shifted = np.stack([frame[lag : lag + size] for lag in lags])
            likeness = shifted @ frame[:size] / (np.linalg.norm(frame[:size]) * np.linalg.norm(shifted, axis=1) + 1e-9)
            if power(frame) > 0.002 and likeness.max() > 0.8:
                found.append(rate / lags[likeness > 0.9 * likeness.max()][0])
        return np.median(found)

    slow, fast = (speak("one two three four five", Voice(rate=rate))[0] for rate in (120, 240))
    assert len(slow) > 1.5 * len(fast)
    low, high = (pitch(*speak("one two three four five", Voice(pitch=value))) for value in (10, 90))
    assert high > 1.3 * low, (low, high)


def test_a_new_process_says_the_same(espeak):
    code = (
        "import hashlib, random\n"
        "from recipes.speech.espeak import random_voice, speak\n"
        "rng = random.Random(3)\n"
        "print(hashlib.sha256(b''.join(speak(f'number {i}', random_voice(rng), i)[0].tobytes() for i in range(25)))"
        ".hexdigest())\n"
    )
    root = Path(__file__).parents[1]

    def said() -> str:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root).stdout

    first = said()
    time.sleep(1.1)  # espeak-ng's own seed is the second it starts in
    second = said()
    assert first == second and len(first) > 60


def test_tars_of_speech_are_the_same_whenever_made_and_their_voices_kept_apart(espeak, tmp_path):
    counts = {"train": 6, "dev": 4}
    for name in "ab":
        write_speech(tmp_path / name, counts, seed=0)
    said = {}
    for split, count in counts.items():
        first, second = (tmp_path / name / f"{split}-000000.tar" for name in "ab")
        assert first.read_bytes() == second.read_bytes()
        with tarfile.open(first) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}
        said[split] = [json.loads(data) for name, data in files.items() if name.endswith("json")]
        sounds = [load_audio(data) for name, data in files.items() if name.endswith("flac")]
        assert len(said[split]) == len(sounds) == count and all(0.3 < sound.seconds < 15 for sound in sounds)
    train, dev = ({one.get("speaker", "+").split("+")[1] for one in said[split]} for split in ("train", "dev"))
    assert dev <= set(UNHEARD_SPEAKERS) and train <= {"", *SPEAKERS}


def test_nano_learns_to_say_words_in_one_voice_and_equally_loud(espeak, tmp_path):
    write_own_words(tmp_path, {"train": 5}, None, seed=0)
    with tarfile.open(tmp_path / "train-000000.tar") as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    said = [json.loads(data) for name, data in files.items() if name.endswith("json")]
    sounds = [load_audio(data).waveform for name, data in files.items() if name.endswith("flac")]
    assert [one["text"] for one in said] == list(WORDS[:5]) and len({one["speaker"] for one in said}) == 1
    assert all(np.abs(sound).max() == pytest.approx(0.4, abs=1e-3) for sound in sounds)


def test_voices_are_drawn_from_those_given(espeak):
    rng = random.Random(0)
    drawn = {random_voice(rng, UNHEARD_SPEAKERS).speaker for _ in range(200)}
    assert drawn == set(UNHEARD_SPEAKERS)
    with pytest.raises(ValueError, match="no voice"):
        speak("hello", Voice(speaker="nobody"))
