"""Whisper, frozen: features at the true length, and its decoding over long recordings, against openai-whisper's own."""

import io
import json
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
import torch
import whisper
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.base import Features
from encoders.media import SAMPLE_RATE, MediaError, SoundStream
from encoders.transcription import transcriber
from encoders.transcription.decoding import NonFiniteTextError, decode_window
from encoders.transcription.passes import hear, spoken_in
from encoders.transcription.transcriber import Transcriber
from encoders.transcription.windows import Windows
from encoders.whisper import WhisperAudioEncoder, load_whisper
from support.hearing import ENGLISH, noise, save_whisper, tiny_whisper

# ---- the encoder


@pytest.mark.parametrize("seconds", [0.5, 3.0, 29.99, 30.0])
def test_spectrogram_is_upstreams(seconds):
    samples = noise(seconds)
    expected = whisper.log_mel_spectrogram(samples)
    got = WhisperAudioEncoder(tiny_whisper()).preprocess((samples, SAMPLE_RATE))
    assert got.shape[1] == expected.shape[1] // 2 * 2
    torch.testing.assert_close(got, expected[:, : got.shape[1]], atol=1e-4, rtol=0)


def test_a_full_window_has_upstreams_features():
    model = tiny_whisper()
    encoder = WhisperAudioEncoder(model)
    mel = encoder.preprocess((noise(30.0), SAMPLE_RATE))
    features = encoder.encode([mel])
    assert features.tokens.shape == (1, 1500, 32) and features.mask is None
    torch.testing.assert_close(features.tokens, model.embed_audio(mel[None]), atol=1e-5, rtol=0)


def test_a_short_recording_has_the_first_positions():
    """Against upstream's encoder with its table of positions cut to the length: it asserts that they agree."""
    model = tiny_whisper()
    encoder = WhisperAudioEncoder(model)
    mel = encoder.preprocess((noise(3.0), SAMPLE_RATE))
    got = encoder.encode([mel]).tokens
    shorter = whisper.model.AudioEncoder(80, 150, 32, 2, 2)
    state = {**model.encoder.state_dict()}
    state["positional_embedding"] = state["positional_embedding"][:150]
    shorter.load_state_dict(state)
    torch.testing.assert_close(got, shorter(mel[None]), atol=1e-5, rtol=0)
    assert got.shape == (1, 150, 32)


def test_longer_recordings_go_in_windows_and_nothing_is_cut():
    encoder = WhisperAudioEncoder(tiny_whisper())
    mel = encoder.preprocess((noise(67.5), SAMPLE_RATE))
    tokens = encoder.encode([mel]).tokens[0]
    assert len(tokens) == 3375  # 50 a second
    for start, end in ((0, 3000), (3000, 6000), (6000, 6750)):
        alone = encoder.encode([mel[:, start:end]]).tokens[0]
        torch.testing.assert_close(tokens[start // 2 : end // 2], alone, atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(1, 3400), min_size=1, max_size=4))
def test_batch_is_single(halves):
    encoder = WhisperAudioEncoder(tiny_whisper())
    mels = [torch.randn(80, 2 * half, generator=torch.Generator().manual_seed(half)) for half in halves]
    batch = encoder.encode(mels)
    assert batch.tokens.shape[1] == max(halves)
    for row, mel in enumerate(mels):
        alone = encoder.encode([mel])
        assert alone.mask is None
        torch.testing.assert_close(batch.tokens[row, : halves[row]], alone.tokens[0], atol=1e-4, rtol=0)
        if batch.mask is not None:
            assert batch.mask[row].tolist() == [True] * halves[row] + [False] * (max(halves) - halves[row])


def test_it_is_frozen_for_good_and_shape_errors_help():
    encoder = WhisperAudioEncoder(tiny_whisper())
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    for wrong in (torch.zeros(79, 10), torch.zeros(80, 3), torch.zeros(80, 0), torch.zeros(80)):
        with pytest.raises(ValueError, match="preprocess"):
            encoder.encode([wrong])
    with pytest.raises(MediaError):
        encoder.preprocess(b"nothing")
    assert isinstance(encoder.encode([encoder.preprocess((np.zeros(1, np.float32), SAMPLE_RATE))]), Features)


def test_fingerprints_tell_weights_apart_and_precisions_not():
    encoder = WhisperAudioEncoder(tiny_whisper())
    assert encoder.fingerprint() == WhisperAudioEncoder(tiny_whisper()).fingerprint()
    assert encoder.fingerprint() != WhisperAudioEncoder(tiny_whisper(1)).fingerprint()
    heads, mels = tiny_whisper(), tiny_whisper()
    heads.dims.n_audio_head, mels.dims.n_mels = 4, 128  # settings that no weight of these tells
    prints = {WhisperAudioEncoder(own).fingerprint() for own in (tiny_whisper(), heads, mels)}
    assert len(prints) == 3


def test_loading_by_file_and_by_name(tmp_path):
    path = save_whisper(tiny_whisper(), tmp_path / "model.pt")
    encoder = WhisperAudioEncoder.load(path)
    assert encoder.name == str(path.resolve()) and encoder.dim == 32
    assert encoder.fingerprint() == WhisperAudioEncoder(tiny_whisper()).fingerprint()
    assert not any(p.requires_grad for p in load_whisper(path).parameters())
    with pytest.raises(ValueError, match="neither a file nor.*tiny"):
        load_whisper("enormous")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(ValueError, match="cannot load"):
        load_whisper(tmp_path / "text.pt")


def test_pickled_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"dims": Trap(), "model_state_dict": {}}, tmp_path / "trap.pt")
    with pytest.raises(ValueError, match="cannot load"):
        load_whisper(tmp_path / "trap.pt")
    assert not (tmp_path / "sprung").exists()


def test_weights_that_cannot_be_fetched(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr(whisper, "load_model", offline)
    with pytest.raises(FileNotFoundError, match="'base'.*no route.*local file"):
        load_whisper("whisper/base")


# ---- the transcriber


@pytest.mark.parametrize("seconds", [0.4, 7.0, 30.0, 65.0])
def test_windows_are_those_of_the_whole_spectrogram(seconds):
    """However the blocks fall, and whatever is skipped, against upstream's spectrogram of everything."""
    samples = noise(seconds)
    whole = whisper.log_mel_spectrogram(samples, padding=480_000)
    frames = whole.shape[1] - 3000
    rng = np.random.default_rng(1)
    for _ in range(3):
        cuts = np.sort(rng.integers(0, len(samples), 20))
        windows = Windows(iter(np.split(samples, cuts)), 80)
        seek = 0
        while (window := windows.at(seek)) is not None:
            count = min(3000, frames - seek)
            assert window.frames == count
            torch.testing.assert_close(window.mel[:, :count], whole[:, seek : seek + count], atol=1e-4, rtol=0)
            assert (window.mel[:, count:] == 0).all() and window.mel.shape == (80, 3000)
            seek += int(rng.integers(1, 3000))
        assert seek >= frames == windows.frames


def both(model, samples, **options):
    """What upstream says and what we say, as (start, end, text) of every segment."""
    temperature = options.pop("temperatures", (0.0,))
    torch.manual_seed(0)
    theirs = whisper.transcribe(
        model, samples, temperature=temperature, compression_ratio_threshold=None, logprob_threshold=-1.0,
        fp16=False, **{("initial_prompt" if k == "prompt" else k): v for k, v in options.items()},
    )  # fmt: skip
    ours = Transcriber(model).transcribe((samples, SAMPLE_RATE), temperatures=temperature, **options)
    said = [(round(s["start"], 2), round(s["end"], 2), s["text"]) for s in theirs["segments"] if s["text"].strip()]
    return said, [(round(s.start, 2), round(s.end, 2), s.text) for s in ours.segments], theirs, ours


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "options", [{}, {"language": "de"}, {"condition_on_previous_text": False}, {"prompt": "Names"}]
)
def test_segments_are_upstreams(monkeypatch, seed, options):
    """A random model's timestamps are wild: windows are cut, moved and read again at odd places."""
    monkeypatch.setattr(transcriber, "COMPRESSION_RATIO", 1e9)  # upstream keeps what repeats itself
    theirs, ours, result, transcript = both(tiny_whisper(seed, sharpness=3.0), noise(71.0, seed), **options)
    assert ours == theirs and len(theirs) >= 2
    assert transcript.language == result["language"]
    assert transcript.seconds == pytest.approx(71.0, abs=0.02)


def test_english_only_models(monkeypatch):
    monkeypatch.setattr(transcriber, "COMPRESSION_RATIO", 1e9)
    theirs, ours, *_ = both(tiny_whisper(2, ENGLISH, 3.0), noise(20.0))
    assert ours == theirs


def test_a_recording_is_read_for_its_loudest_sound_and_then_as_it_is_needed(monkeypatch):
    monkeypatch.setattr(transcriber, "COMPRESSION_RATIO", 1e9)
    read, real = [], transcriber.open_audio

    @contextmanager
    def counting(*args, **kwargs):
        with real(*args, **kwargs) as sound:
            read.append(0)

            def blocks():
                for block in sound.blocks:
                    read[-1] += len(block)
                    yield block

            yield SoundStream(sound.seconds, blocks())

    monkeypatch.setattr(transcriber, "open_audio", counting)
    running = Transcriber(tiny_whisper(0, sharpness=3.0)).stream((noise(300.0), SAMPLE_RATE), temperatures=(0.0,))
    next(iter(running))
    assert running.total == 300.0 and running.seconds <= 30.0
    assert read[0] == 300 * SAMPLE_RATE and read[1] < 40 * SAMPLE_RATE


@pytest.mark.parametrize("late", [0.0, 50.0])
def test_windows_are_scaled_by_the_loudest_sound_wherever_it_comes(monkeypatch, late):
    """A whisper and then a bang, or the bang first: upstream scales both alike."""
    monkeypatch.setattr(transcriber, "COMPRESSION_RATIO", 1e9)
    samples = 0.001 * noise(60.0)
    samples[int(late * SAMPLE_RATE) :][: 10 * SAMPLE_RATE] *= 900
    theirs, ours, *_ = both(tiny_whisper(1, sharpness=3.0), samples)
    assert ours == theirs and len(theirs) >= 2


def test_what_is_said_of_a_recording_is_said_once(tmp_path, caplog):
    opposite = np.stack([noise(2.0), -noise(2.0)], axis=1)
    file = tmp_path / "opposite.wav"
    soundfile.write(file, opposite, SAMPLE_RATE)
    with caplog.at_level(logging.WARNING):
        Transcriber(tiny_whisper()).transcribe(file, language="en", temperatures=(0.0,))
    assert caplog.text.count("cancel each other") == 1


class Pipe(io.BytesIO):
    """A stream without positions, as from another program."""

    def seekable(self):
        return False


def test_a_stream_that_can_be_read_once_is_transcribed_as_its_file_is(monkeypatch, tmp_path):
    monkeypatch.setattr(transcriber, "COMPRESSION_RATIO", 1e9)
    file = tmp_path / "noise.wav"
    soundfile.write(file, noise(3.0), SAMPLE_RATE)
    own = Transcriber(tiny_whisper(0, sharpness=3.0))
    said = [own.transcribe(source, temperatures=(0.0,)).text for source in (file, Pipe(file.read_bytes()))]
    assert said[0] == said[1] != ""


class Said:
    """Stands for `decode_window`: gives prepared results, and keeps what it was asked."""

    def __init__(self, monkeypatch, *results):
        self.results, self.asked = list(results), []
        monkeypatch.setattr(transcriber, "decode_window", self)

    def __call__(self, model, heard, options, generator):
        self.asked.append(options)
        given = self.results[min(len(self.asked), len(self.results)) - 1]
        return whisper.DecodingResult(
            audio_features=heard.features, language="en", temperature=options.temperature,
            **{"avg_logprob": -0.2, "no_speech_prob": 0.0, "compression_ratio": 1.0, **given},
        )  # fmt: skip


def words(text, start=0.0, end=2.0):
    tokenizer = whisper.tokenizer.get_tokenizer(True, num_languages=99, language="en", task="transcribe")
    first = tokenizer.timestamp_begin
    return [first + round(start / 0.02), *tokenizer.encode(text), first + round(end / 0.02)]


def test_repetition_and_improbable_text_are_tried_again_warmer(monkeypatch):
    model = tiny_whisper()
    said = Said(
        monkeypatch,
        {"tokens": words(" ha ha ha"), "compression_ratio": 9.0},
        {"tokens": words(" hm"), "avg_logprob": -3.0},
        {"tokens": words(" good")},
    )  # fmt: skip
    transcript = Transcriber(model).transcribe((noise(5.0), SAMPLE_RATE), language="en")
    assert transcript.text == "good" and [options.temperature for options in said.asked] == [0.0, 0.2, 0.4]


def test_what_repeats_itself_to_the_end_is_left_out_and_told(monkeypatch, caplog):
    model = tiny_whisper()
    Said(monkeypatch, {"tokens": words(" ha ha ha"), "compression_ratio": 9.0, "text": " ha ha ha"})
    with caplog.at_level(logging.WARNING):
        transcript = Transcriber(model).transcribe((noise(5.0), SAMPLE_RATE), language="en")
    assert transcript.text == "" and "ha ha ha" in caplog.text


def test_text_over_what_is_no_speech_is_left_out(monkeypatch):
    model = tiny_whisper()
    invented = {"tokens": words(" Thank you."), "no_speech_prob": 0.9, "avg_logprob": -1.5}
    said = Said(monkeypatch, invented)
    assert Transcriber(model).transcribe((noise(5.0), SAMPLE_RATE), language="en").segments == ()
    assert len(said.asked) == 1  # and no warmer attempt is made to hear something
    Said(monkeypatch, {**invented, "avg_logprob": -0.3})  # sure of its words: speech after all
    assert Transcriber(model).transcribe((noise(5.0), SAMPLE_RATE), language="en").text == "Thank you."


def test_silence_is_not_decoded(monkeypatch):
    model = tiny_whisper()
    said = Said(monkeypatch, {"tokens": words(" Thank you.")})
    quiet = np.zeros(45 * SAMPLE_RATE, np.float32)
    assert Transcriber(model).transcribe((quiet, SAMPLE_RATE), language="en").segments == () and not said.asked


def test_the_language_is_that_of_the_first_sound(monkeypatch):
    """Half a minute of nothing says no language."""
    model, heard = tiny_whisper(), []
    Said(monkeypatch, {"tokens": words(" Good day.")})
    monkeypatch.setattr(transcriber, "spoken_in", lambda model, window: heard.append(window) or "de")
    late = np.concatenate([np.zeros(30 * SAMPLE_RATE, np.float32), noise(5.0)])
    transcript = Transcriber(model).transcribe((late, SAMPLE_RATE))
    assert transcript.language == "de" and transcript.text == "Good day." and len(heard) == 1
    assert transcript.segments[0].start == 30.0


def test_an_hour_takes_the_memory_of_a_window():
    """What is kept of 60 minutes never exceeds a window, its margins and one block."""
    block = np.ones(1 << 16, np.float32) * 0.1
    windows = Windows((block for _ in range(3600 * SAMPLE_RATE // len(block))), 80)
    seek, most = 0, 0
    while windows.at(seek) is not None:
        most = max(most, len(windows.samples))
        seek += 2900
    assert seek * 160 > 3590 * SAMPLE_RATE and most <= 3000 * 160 + 400 + len(block)


def test_earlier_text_is_the_prompt_until_a_warm_window(monkeypatch):
    model = tiny_whisper()
    first, second = words(" one", end=3.0), words(" two", end=3.0)
    said = Said(monkeypatch, {"tokens": first}, {"tokens": second}, {"tokens": second})
    Transcriber(model).transcribe((noise(80.0), SAMPLE_RATE), language="en", prompt="Ada")
    tokenizer = whisper.tokenizer.get_tokenizer(True, num_languages=99, language="en", task="transcribe")
    ada = tokenizer.encode(" Ada")
    assert [options.prompt for options in said.asked] == [ada, (ada + first)[-31:], (ada + first + second)[-31:]]
    bad = {"tokens": first, "avg_logprob": -3.0}
    said = Said(monkeypatch, bad, bad, bad, {"tokens": first}, {"tokens": second})
    Transcriber(model).transcribe((noise(40.0), SAMPLE_RATE), language="en", prompt="Ada")
    assert [(options.temperature, options.prompt) for options in said.asked[-2:]] == [(0.6, ada), (0.0, [])]


def test_the_same_seed_says_the_same(monkeypatch):
    monkeypatch.setattr(transcriber, "COMPRESSION_RATIO", 1e9)
    model, samples = tiny_whisper(sharpness=0.5), noise(4.0)
    texts = [
        Transcriber(model).transcribe((samples, SAMPLE_RATE), language="en", temperatures=(1.0,), seed=seed).text
        for seed in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"language": "elvish"}, "elvish"),
        ({"task": "sing"}, "sing"),
        ({"temperatures": ()}, "temperatures"),
        ({"temperatures": (-1.0,)}, "temperatures"),
    ],
)
def test_settings_that_whisper_does_not_have(options, reason):
    with pytest.raises(ValueError, match=reason):
        Transcriber(tiny_whisper()).stream((noise(1.0), SAMPLE_RATE), **options)


def test_bad_recordings_give_their_reason():
    with pytest.raises(MediaError, match="not a sound file"):
        Transcriber(tiny_whisper()).transcribe(io.BytesIO(b"no sound at all, no sound at all, none"))
    with pytest.raises(MediaError, match="longer than 2 s"):
        Transcriber(tiny_whisper()).transcribe((noise(3.0), SAMPLE_RATE), max_seconds=2)


def test_transcripts_are_written_by_upstreams_writers(monkeypatch, tmp_path):
    model = tiny_whisper()
    Said(monkeypatch, {"tokens": words(" Hello", 0.5, 1.2) + words(" there.", 1.2, 2.0)})
    result = Transcriber(model).transcribe((noise(3.0), SAMPLE_RATE), language="en").to_dict()
    whisper.utils.get_writer("all", str(tmp_path))(result, "talk.wav")
    assert (tmp_path / "talk.txt").read_text() == "Hello\nthere.\n"
    assert (tmp_path / "talk.srt").read_text().splitlines()[:3] == ["1", "00:00:00,500 --> 00:00:01,200", "Hello"]
    assert (tmp_path / "talk.vtt").read_text().startswith("WEBVTT\n\n00:00.500 --> 00:01.200\nHello")
    assert (tmp_path / "talk.tsv").read_text().splitlines()[1:] == ["500\t1200\tHello", "1200\t2000\tthere."]
    assert json.loads((tmp_path / "talk.json").read_text())["segments"][1]["start"] == 1.2


# ---- where somebody speaks


def spoken_after_noise() -> np.ndarray:
    """40 s of noise, then a sentence by espeak-ng within 5 s."""
    pytest.importorskip("espeakng_loader", reason="speech is made by espeak-ng: pip install -e .[speech]")
    import soxr

    from recipes.speech.espeak import Voice, speak

    speech, rate = speak("the boy walked slowly along the river and sang an old song", Voice(rate=150))
    speech = soxr.resample(speech, rate, SAMPLE_RATE)
    hiss = 0.02 * np.random.default_rng(0).standard_normal(40 * SAMPLE_RATE)
    return np.concatenate([hiss, speech]).astype(np.float32)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # silero-vad's own
def test_what_is_invented_while_nobody_speaks_is_left_out(monkeypatch):
    pytest.importorskip("silero_vad", reason="silero-vad: pip install -e .[vad]")
    samples, threads = spoken_after_noise(), torch.get_num_threads()
    model = tiny_whisper()
    # In its second window, which begins at 30 s, Whisper hears something at once, and the sentence after 10 s.
    heard = [*words(" Thank you.", 0.0, 4.0), *words(" The boy sang.", 10.0, 13.0)]
    said = Said(monkeypatch, {"tokens": heard})
    transcript = Transcriber(model).transcribe((samples, SAMPLE_RATE), language="en", vad=True)
    assert [segment.text for segment in transcript.segments] == [" The boy sang."]
    assert len(said.asked) == 1, "a window of nothing but noise is not decoded"
    assert torch.get_num_threads() == threads
    said.asked.clear()
    without = Transcriber(model).transcribe((samples, SAMPLE_RATE), language="en")
    assert len(without.segments) == 4 and len(said.asked) == 2


def test_without_the_extra_it_is_named(monkeypatch):
    import encoders.transcription.voice_activity

    encoders.transcription.voice_activity._silero.cache_clear()
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    with pytest.raises(ImportError, match=r"pip install 'mmlm\[vad\]'"):
        Transcriber(tiny_whisper()).stream((noise(1.0), SAMPLE_RATE), vad=True)
    encoders.transcription.voice_activity._silero.cache_clear()


# ---- what a model does not have, and what it computes wrongly


@pytest.mark.parametrize(
    ("dims", "options", "reason"),
    [
        (ENGLISH, {"language": "de"}, "knows English alone, and no German.*multilingual"),
        (ENGLISH, {"language": "German"}, "no German"),
        (ENGLISH, {"task": "translate"}, "knows English alone and cannot translate.*multilingual"),
        (ENGLISH, {"task": "translate", "language": "en"}, "cannot translate"),
        (None, {"language": "yue"}, "no Cantonese.*not among its 99 languages.*large-v3"),
        (None, {"language": "Cantonese"}, "no Cantonese"),
        (None, {"language": "auto"}, "none to have it detected"),
        (None, {"language": 5}, "language is a code"),
        (None, {"prompt": ["a"]}, "prompt is a text"),
        (None, {"temperatures": "hot"}, "temperatures are numbers"),
        (None, {"temperatures": None}, "temperatures are numbers"),
        (None, {"temperatures": True}, "temperatures are numbers"),
        (None, {"temperatures": (0.0, False)}, "temperatures are numbers"),
        (None, {"temperatures": torch.tensor(True)}, "temperatures are numbers"),
        (None, {"beam_size": True}, "beam_size must be a whole number"),
        (None, {"beam_size": 0}, "beam_size"),
        (None, {"beam_size": "5"}, "beam_size"),
        (None, {"seed": "a"}, "seed"),
    ],
)
def test_what_a_model_does_not_have_is_refused_before_anything_is_read(monkeypatch, dims, options, reason):
    monkeypatch.setattr(transcriber, "open_audio", None)
    model = tiny_whisper() if dims is None else tiny_whisper(0, dims)
    with pytest.raises((ValueError, TypeError), match=reason):
        Transcriber(model).stream((noise(1.0), SAMPLE_RATE), **options)


def test_a_model_of_100_languages_knows_cantonese(monkeypatch):
    newest = tiny_whisper()
    newest.dims.n_vocab = 51866  # large-v3's
    Transcriber(newest).stream((noise(1.0), SAMPLE_RATE), language="yue")
    Transcriber(tiny_whisper(0, ENGLISH)).stream((noise(1.0), SAMPLE_RATE), language="english")


def test_markup_in_a_prompt_is_plain_text(monkeypatch):
    model = tiny_whisper()
    said = Said(monkeypatch, {"tokens": words(" hm")})
    Transcriber(model).transcribe((noise(3.0), SAMPLE_RATE), language="en", prompt="notes <|endoftext|> of <|de|>")
    tokenizer = whisper.tokenizer.get_tokenizer(True, num_languages=99, language="en", task="transcribe")
    asked = said.asked[0].prompt
    assert tokenizer.decode(asked) == " notes <|endoftext|> of <|de|>"
    assert not {*asked} & {*tokenizer.special_tokens.values()}


def test_one_temperature_may_stand_alone(monkeypatch):
    model = tiny_whisper()
    said = Said(monkeypatch, {"tokens": words(" hm")})
    Transcriber(model).transcribe((noise(3.0), SAMPLE_RATE), language="en", temperatures=0.4)
    assert [options.temperature for options in said.asked] == [0.4]


def test_weights_that_are_no_numbers_are_an_error_and_no_text():
    model = tiny_whisper()
    with torch.no_grad():
        model.decoder.ln.weight[0] = float("nan")
    for temperature in (0.0, 1.0):
        with pytest.raises(NonFiniteTextError, match="NaN.*float32"):
            Transcriber(model).transcribe((noise(3.0), SAMPLE_RATE), language="en", temperatures=temperature)


def test_threads_write_down_at_once_what_each_hears_alone(monkeypatch):
    monkeypatch.setattr(transcriber, "COMPRESSION_RATIO", 1e9)
    own = Transcriber(tiny_whisper(0, sharpness=0.5))
    jobs = [(noise(2.0 + seed, seed), seed, 0.0 if seed % 2 else 1.0) for seed in range(4)]

    def said(job):
        samples, seed, temperature = job
        return own.transcribe((samples, SAMPLE_RATE), language="en", temperatures=(temperature,), seed=seed).text

    alone = [said(job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(2):
            assert list(pool.map(said, jobs)) == alone
    assert len(set(alone)) >= 3


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # upstream's beams
@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.0}, {"temperature": 0.7}, {"temperature": 1.0}, {"temperature": 0.0, "beam_size": 3}],
    ids=str,
)
@pytest.mark.parametrize("seed", range(2))
def test_a_window_is_decoded_as_upstream_decodes_it(options, seed):
    """The same tokens and log-probabilities, with upstream's draws from the global generator, which stays untouched."""
    model = tiny_whisper(seed, sharpness=1.0)
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(noise(20.0, seed)))
    asked = whisper.DecodingOptions(language="en", fp16=False, prompt="Ada", **options)
    torch.manual_seed(seed)
    theirs = whisper.decode(model, mel, asked)
    torch.manual_seed(99)
    expected = torch.rand(3)
    torch.manual_seed(99)
    with torch.no_grad():
        ours = decode_window(model, hear(model, mel), asked, torch.Generator().manual_seed(seed))
    assert torch.equal(torch.rand(3), expected)
    assert ours.tokens == theirs.tokens and len(ours.tokens) > 3
    assert ours.avg_logprob == pytest.approx(theirs.avg_logprob, abs=1e-6)
    assert ours.no_speech_prob == pytest.approx(theirs.no_speech_prob, rel=1e-4) and ours.text == theirs.text


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # upstream's beams
@pytest.mark.parametrize("beam_size", [None, 3])
def test_a_window_is_encoded_once_for_its_language_and_all_tries(monkeypatch, beam_size):
    """Whatever is tried: the encoder runs once a window, and so do the keys of what is heard."""
    monkeypatch.setattr(transcriber, "LOG_PROBABILITY", 0.0)  # no text is probable enough
    monkeypatch.setattr(transcriber, "NO_SPEECH", 1.0)
    model, runs = tiny_whisper(0, sharpness=3.0), []
    for part in (model.encoder, model.decoder.blocks[0].cross_attn.key):
        real = part.forward
        monkeypatch.setattr(part, "forward", lambda x, part=part, real=real: runs.append(part) or real(x))
    windows = []
    transcript = Transcriber(model).stream(
        (noise(10.0), SAMPLE_RATE), beam_size=beam_size, temperatures=(0.0, 0.5, 1.0),
        on_window=lambda running: windows.append(running.seconds),
    )  # fmt: skip
    list(transcript)
    assert transcript.language and windows
    assert runs.count(model.encoder) == runs.count(model.decoder.blocks[0].cross_attn.key) == len(windows)


@pytest.mark.parametrize("seed", range(3))
def test_the_language_is_the_one_that_upstream_detects(seed):
    model = tiny_whisper(seed, sharpness=3.0)
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(noise(20.0, seed)))
    _, probabilities = whisper.detect_language(model, mel)
    with torch.no_grad():
        assert spoken_in(model, hear(model, mel)) == max(probabilities, key=probabilities.get)


def test_the_model_has_no_hooks_while_it_is_decoded(monkeypatch):
    model = tiny_whisper(0, sharpness=0.5)
    hooks, real = [], model.decoder.ln.forward

    def spy(x):
        hooks.extend(hook for module in model.modules() for hook in module._forward_hooks.values())
        return real(x)

    monkeypatch.setattr(model.decoder.ln, "forward", spy)
    Transcriber(model).transcribe((noise(2.0), SAMPLE_RATE), language="en", temperatures=(0.0,))
    assert hooks == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # silero-vad's loading
def test_threads_find_speech_where_each_finds_it_alone():
    pytest.importorskip("silero_vad")
    from encoders.transcription.voice_activity import voice_detector

    heard = [spoken_after_noise(), spoken_after_noise()[::-1].copy(), noise(6.0)] * 2
    alone = [voice_detector()(torch.from_numpy(samples)) for samples in heard]
    with ThreadPoolExecutor(len(heard)) as pool:
        assert list(pool.map(lambda samples: voice_detector()(torch.from_numpy(samples)), heard)) == alone
    assert any(alone)


def test_a_device_that_is_not_there_is_told(tmp_path):
    path = save_whisper(tiny_whisper(), tmp_path / "model.pt")
    for device in ("mps", "cuda:99", "meta", "gpu"):
        with pytest.raises(ValueError, match=f"no device '{device}' here"):
            load_whisper(path, device)
