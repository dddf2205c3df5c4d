"""Linear probes: labels are read as they are written, the fit is the minimum, and what cannot be right is told."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from encoders.media.source import MediaError
from mmlm.cli import main
from mmlm.evaluation.labelled import modality_of, read_labelled
from mmlm.evaluation.probe import fitted, mean_tokens, probe
from support.together import wav
from support.training_objectives import COLOURS, png, tiny_encoder


def folders(home: Path, labels: dict[str, int], start: int = 0) -> Path:
    """A folder for each label with so many pictures of its colour, none like another."""
    for label, count in labels.items():
        (home / label).mkdir(parents=True)
        for number in range(start, start + count):
            (home / label / f"{number}.png").write_bytes(png(COLOURS[label], dot=number))
    return home


def tar(path: Path, members: dict[str, bytes]) -> Path:
    for name, data in members.items():
        (path.parent / name).write_bytes(data)
    with tarfile.open(path, "w") as file:
        for name in members:
            file.add(path.parent / name, name)
    return path


def test_labels_of_folders_and_tars(tmp_path):
    home = folders(tmp_path / "photos", {"red": 2, "blue": 1})
    (home / "red" / "note.txt").touch()
    (home / ".small").mkdir()  # what systems keep for themselves
    for hidden in (home / ".small" / "0.png", home / "red" / "._0.png"):
        hidden.write_bytes(png((9, 9, 9)))
    found = read_labelled(str(home), "image")
    assert [(one.key, one.label) for one in found] == [
        ("blue/0.png", "blue"),
        ("red/0.png", "red"),
        ("red/1.png", "red"),
    ]
    assert found[0].place.read() == png(COLOURS["blue"])
    members = {"a.png": png((9, 9, 9)), "a.json": b'{"label": 7}', "b.json": b"{}", "c.wav": wav(0)}
    members["c.json"] = b'{"label": "a tone"}'
    path = tar(tmp_path / "t.tar", members)
    (seen,), (heard,) = (read_labelled(str(path), modality) for modality in ("image", "audio"))
    assert (seen.label, seen.place.read()) == ("7", members["a.png"])
    assert (heard.label, heard.place.read()) == ("a tone", members["c.wav"])
    assert modality_of(str(path)) == "image" and modality_of(str(home)) == "image"


@pytest.mark.parametrize("fields", [None, {}, {"label": None}, {"label": True}, {"label": ["x"]}])
def test_a_medium_without_a_label_is_named(tmp_path, fields):
    members = {"a.png": png((9, 9, 9))} | ({} if fields is None else {"a.json": json.dumps(fields).encode()})
    with pytest.raises(ValueError, match='t.tar: a has no "label"'):
        read_labelled(str(tar(tmp_path / "t.tar", members)), "image")


def test_sources_without_labelled_media_are_refused(tmp_path):
    (tmp_path / "pairs.jsonl").touch()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(png((9, 9, 9)))  # in no folder of a label
    for source, words in (("photos", "holds no pictures"), ("pairs.jsonl", "labelled media are in tars")):
        with pytest.raises(ValueError, match=words):
            modality_of(str(tmp_path / source))
    with pytest.raises(FileNotFoundError):
        read_labelled(str(tmp_path / "no-such"), "image")


def test_the_fit_is_where_the_gradient_is_zero():
    draws = np.random.default_rng(0)
    x, y, penalty = draws.normal(size=(40, 5)), draws.integers(3, size=40), 0.1
    weights = fitted(torch.from_numpy(x), torch.from_numpy(y), 3, penalty).numpy()
    scores = np.exp(x @ weights[:-1] + weights[-1])
    miss = scores / scores.sum(1, keepdims=True) - np.eye(3)[y]
    assert np.abs(x.T @ miss / 40 + penalty * weights[:-1]).max() < 1e-4
    assert np.abs(miss.mean(0)).max() < 1e-4, "the bias is not penalised"


def test_a_probe_reads_colours_and_tells_of_labels_that_it_never_saw(tmp_path):
    train = folders(tmp_path / "train", {"red": 8, "blue": 8, "green": 4})
    test = folders(tmp_path / "test", {"red": 2, "blue": 1, "yellow": 1}, start=50)
    encoder = tiny_encoder()
    found = probe(encoder, *(read_labelled(str(home), "image") for home in (train, test)))
    assert (found.accuracy, found.unseen, found.labels, found.train, found.test) == (0.75, 1, 3, 20, 4)
    assert found.chance in (0.5, 0.25), "red and blue are as common"
    assert "1 to test have labels that none to train has" in str(found)
    one = read_labelled(str(test), "image")[:1]
    alone = encoder.features([png(COLOURS["blue"], dot=50)])[0].tokens[0].mean(dim=0)
    torch.testing.assert_close(mean_tokens(encoder, one)[0].float(), alone)


def test_what_a_probe_cannot_use_is_named(tmp_path):
    train = folders(tmp_path / "train", {"red": 8, "blue": 8})
    media = read_labelled(str(train), "image")
    with pytest.raises(ValueError, match="ten media with two labels"):
        probe(tiny_encoder(), media[:9], media)
    with pytest.raises(ValueError, match="ten media with two labels"):
        probe(tiny_encoder(), media, [])
    (train / "red" / "3.png").write_bytes(b"no picture")
    with pytest.raises(MediaError, match="red/3.png cannot be used"):
        probe(tiny_encoder(), media, media)


def test_the_verb_refuses_the_encoder_of_the_other_kind_and_loads_no_language_model(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mmlm.assembly.load.language_model_of", lambda *_: pytest.fail("a language model is loaded"))
    home = str(folders(tmp_path / "photos", {"red": 6, "blue": 6}))
    assert main(["probe", home, home, "--audio-encoder", "whisper/base"]) == 2
    assert "give --image-encoder, not --audio-encoder" in capsys.readouterr().err
    assert main(["probe", home, home, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"] == 1.0 and found["chance"] == 0.5 and found["unseen"] == 0
