"""Real recordings, end to end with nano: every mode and every output format. How right it is, docs/nano.md tells."""

import json
import math
import re

import pytest

import mmlm
from encoders.media.sound import load_audio
from mmlm.cli import main


@pytest.fixture(scope="module")
def recordings(data_folder):
    found = sorted((data_folder / "test_inputs").glob("*.flac"))
    if not found:
        pytest.skip(f"no recordings in {data_folder / 'test_inputs'}")
    return found


@pytest.fixture(scope="module")
def nano():
    return mmlm.load("nano")


def test_every_recording_is_written_down_in_every_format(recordings, tmp_path):
    names = list(map(str, recordings))
    assert main(["transcribe", *names, "--format", "all", "--output", str(tmp_path)]) == 0
    for recording in recordings:
        seconds = load_audio(recording).seconds
        written = {path.suffix[1:]: path.read_text() for path in tmp_path.glob(f"{recording.stem}.*")}
        assert set(written) == {"txt", "srt", "vtt", "tsv", "json"}
        transcript = json.loads(written["json"])
        assert transcript["text"].strip(), "somebody speaks in each of them"
        assert re.sub(r"\s", "", written["txt"]) == re.sub(r"\s", "", transcript["text"])
        segments = transcript["segments"]
        window = 30.0 * math.ceil(seconds / 30.0)  # its timestamps, like upstream's, may lie behind a short recording
        assert all(0 <= one["start"] < one["end"] <= window for one in segments)
        assert [one["start"] for one in segments] == sorted(one["start"] for one in segments)
        assert written["srt"].count(" --> ") == written["vtt"].count(" --> ") == len(segments)
        assert len(written["tsv"].splitlines()) == len(segments) + 1


@pytest.mark.parametrize("mode", ["transcript", "features", "both"])
def test_every_recording_can_be_asked_about(recordings, nano, mode):
    answers = nano.ask(list(recordings), "what is said?", mode=mode, max_new_tokens=12)
    assert len(answers) == len(recordings) and all(isinstance(answer, str) for answer in answers)
    if mode == "features":
        assert len(set(answers)) > 1, "they are not all heard as one"
