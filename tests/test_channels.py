"""Channels as speakers: what is read of a recording, how it is merged, and what the command line makes of it."""

import io
import json
import logging

import numpy as np
import pytest
import soundfile
import whisper

from encoders.media import SAMPLE_RATE, MediaError
from encoders.media.sound import load_audio, open_audio
from encoders.transcription import transcriber
from encoders.transcription.channels import stream_channels
from encoders.transcription.transcriber import Transcriber
from mmlm.cli import main
from support.hearing import noise, save_whisper, tiny_whisper

LEFT, RIGHT = 0.1, 0.4  # loudness, by which the channels are told apart


def tone(level: float, seconds: float = 4.0) -> np.ndarray:
    return (level * np.sin(np.arange(round(seconds * SAMPLE_RATE)) * 0.3)).astype(np.float32)


@pytest.fixture
def call(tmp_path):
    path = tmp_path / "call.wav"
    soundfile.write(path, np.stack([tone(LEFT), tone(RIGHT)], axis=1), SAMPLE_RATE)
    return path


@pytest.fixture
def word(tmp_path):
    """Both channels of a recording so short that it has few windows."""
    path = tmp_path / "word.wav"
    soundfile.write(path, np.stack([tone(LEFT, 0.6), tone(RIGHT, 0.6)], axis=1), SAMPLE_RATE)
    return path


@pytest.fixture
def heard(monkeypatch):
    """Each channel says at its own times how loud it is, whatever the model makes of it: two sentences each."""
    tokenizer = whisper.tokenizer.get_tokenizer(True, num_languages=99, language="en", task="transcribe")
    first, asked, levels = tokenizer.timestamp_begin, [], []
    real = transcriber.hear

    def hear(model, mel, output, compute_dtype):
        levels.append(float(mel.max()))
        return real(model, mel, output, compute_dtype)

    def decode(model, heard, options, generator):
        asked.append(options)
        loud = len(levels) > 1 and levels[-1] > min(levels)
        start = 50 if loud else 0  # the loud one speaks a second later
        text = " loud" if loud else " soft"
        tokens = [first + start, *tokenizer.encode(text), first + start + 40]
        tokens += [first + start + 100, *tokenizer.encode(text + " again"), first + start + 140]
        return whisper.DecodingResult(
            heard.features, "en", None, tokens, text, avg_logprob=-0.1, no_speech_prob=0.0, temperature=0.0,
            compression_ratio=1.0,
        )  # fmt: skip

    monkeypatch.setattr(transcriber, "hear", hear)
    monkeypatch.setattr(transcriber, "decode_window", decode)
    return asked


SAID = [(1, 0.0, "soft"), (2, 1.0, "loud"), (1, 2.0, "soft again"), (2, 3.0, "loud again")]


@pytest.mark.parametrize("rate", [SAMPLE_RATE, 44_100])
def test_a_channel_is_read_alone(rate):
    both = np.stack([tone(LEFT), tone(RIGHT)], axis=1)
    for channel, level in ((1, LEFT), (2, RIGHT)):
        alone = load_audio((both, rate), channel=channel)
        expected = load_audio((both[:, channel - 1], rate))
        np.testing.assert_array_equal(alone.waveform, expected.waveform)
        assert np.abs(alone.waveform).max() == pytest.approx(level, rel=0.05)
    with open_audio((both, rate)) as sound:
        assert sound.channels == 2


@pytest.mark.parametrize("channel", [0, 3, -1])
def test_a_channel_that_is_not_there_is_told(channel, call):
    with pytest.raises(MediaError, match=f"call.wav.*no channel {channel}: it has 2"):
        load_audio(call, channel=channel)
    with pytest.raises(TypeError, match="whole number"):
        load_audio(call, channel="left")


def test_segments_are_merged_by_their_times(call, heard):
    running = stream_channels(Transcriber(tiny_whisper()), call, {}, language="en")
    segments = list(running)
    assert [(one.channel, one.start, one.text.strip()) for one in segments] == SAID
    assert running.language == "en" and running.seconds == pytest.approx(4.0, abs=0.02) and len(heard) == 2
    told = running.transcript(segments).to_dict()
    assert [one["channel"] for one in told["segments"]] == [1, 2, 1, 2]


def test_one_channel_is_one_speaker_and_says_so(heard, caplog):
    with caplog.at_level(logging.WARNING):
        running = stream_channels(Transcriber(tiny_whisper()), (noise(4.0), SAMPLE_RATE), {}, language="en")
    assert {one.channel for one in running} == {1} and "there is one channel" in caplog.text


def test_what_cannot_be_split_is_refused_before_it_is_decoded(heard):
    own = Transcriber(tiny_whisper())
    with pytest.raises(MediaError, match="9 channels"):
        stream_channels(own, (np.zeros((9, 9000), np.float32) + 0.1, SAMPLE_RATE), {}, language="en")
    with pytest.raises(MediaError, match="file object"):
        stream_channels(own, io.BytesIO(b"RIFF"), {}, language="en")
    assert heard == []


def test_the_command_line_marks_speakers(call, heard, tmp_path, capsys):
    ears = str(save_whisper(tiny_whisper(), tmp_path / "ears.pt"))
    given = ["transcribe", str(call), "--model", ears, "--language", "en", "--channels", "split"]
    assert main(given) == 0
    lines = [f"Speaker {channel}: {text}" for channel, _, text in SAID]
    assert capsys.readouterr().out.splitlines() == lines
    assert main([*given, "--format", "all", "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/call.txt").read_text().splitlines() == lines
    assert [line for line in (tmp_path / "out/call.srt").read_text().splitlines() if "Speaker" in line] == lines
    assert (tmp_path / "out/call.tsv").read_text().splitlines()[2] == f"1000\t1800\t{lines[1]}"
    segments = json.loads((tmp_path / "out/call.json").read_text())["segments"]
    assert [(one["channel"], one["start"], one["text"].strip()) for one in segments] == SAID
    assert main(["transcribe", "-", *given[2:]]) == 2
    assert "--channels split reads a recording more than once" in capsys.readouterr().err


def test_rows_of_a_job_mark_speakers_as_the_printed_lines_do(call, heard, tmp_path, capsys):
    ears = str(save_whisper(tiny_whisper(), tmp_path / "ears.pt"))
    given = ["transcribe", "--model", ears, "--language", "en", "--channels", "split"]
    assert main([*given, str(call)]) == 0
    printed = capsys.readouterr().out
    data = tmp_path / "calls.jsonl"
    data.write_text(json.dumps({"audio": call.name}) + "\n")
    assert main([*given, "--data", str(data), "--output", str(tmp_path / "rows")]) == 0
    (row,) = map(json.loads, (tmp_path / "rows/part-00000.jsonl").read_text().splitlines())
    assert row["text"] + "\n" == printed and printed.startswith("Speaker 1: ")


def test_the_command_line_times_words(word, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(transcriber, "COMPRESSION_RATIO", 1e9)
    monkeypatch.setattr(transcriber, "LOG_PROBABILITY", -1e9)
    ears = str(save_whisper(tiny_whisper(0, sharpness=3.0), tmp_path / "ears.pt"))
    given = ["transcribe", str(word), "--model", ears, "--language", "en", "--word-timestamps"]
    assert main(given) == 2 and "give --format json, srt or vtt" in capsys.readouterr().err
    assert main([*given, "--json", "--channels", "split"]) == 0
    segments = json.loads(capsys.readouterr().out)["segments"]
    words = [own for one in segments for own in one["words"]]
    assert words and all(own["start"] <= own["end"] for own in words)
    assert all("".join(own["word"] for own in one["words"]).strip() == one["text"].strip() for one in segments)
    assert main([*given, "--format", "vtt"]) == 0
    assert "<u>" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--language", "elvish"], "elvish"),
        (["--language", "en", "--beam-size", "0"], "--beam-size must be"),
        (["--language", "en", "--beam-size", "200"], "at most 100"),
    ],
)
def test_what_the_model_cannot_is_told_once_before_anything_is_decoded(call, heard, tmp_path, capsys, options, reason):
    ears = str(save_whisper(tiny_whisper(), tmp_path / "ears.pt"))
    assert main(["transcribe", str(call), str(call), "--model", ears, *options]) == 2
    error = capsys.readouterr().err
    assert reason in error and len(error.splitlines()) == 1 and heard == []


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # upstream's beams
def test_packed_and_with_beams_it_says_what_python_says(word, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(transcriber, "COMPRESSION_RATIO", 1e9)
    model = tiny_whisper(0, sharpness=3.0)
    expected = Transcriber(model).transcribe(word, language="en", beam_size=2, temperatures=(0.0,))
    monkeypatch.setattr(transcriber, "LOG_PROBABILITY", -1e9)
    ears = str(save_whisper(model, tmp_path / "ears.pt"))
    given = ["transcribe", str(word), "--model", ears, "--language", "en", "--beam-size", "2", "--json"]
    assert main([*given, "--pack", "exact"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == expected.text != ""
