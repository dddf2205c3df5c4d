"""`mmlm data`: what is counted, what is written reads back as the same records, what the page shows."""

import errno
import gzip
import json
import os
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import mmlm
from mmlm.cli import main
from mmlm.data import BadRecordsError, FileSlice, Record, RecordSet, convert, read_records
from mmlm.data.check import check_data
from mmlm.data.convert import convert_data
from mmlm.data.prompts import example_of
from mmlm.model.config import FusionConfig, ResamplerConfig
from mmlm.prompting import Image, Sound
from mmlm.prompting.messages import Message
from mmlm.training.preview import preview_data, runs_of, visible_to
from mmlm.training.rows import Ready, batch_of
from support import families, parts
from support.training_objectives import png, tiny_model

RED, BLUE = png((250, 0, 0)), png((0, 0, 250))


def wave(folder: Path) -> bytes:
    soundfile.write(folder / "a.wav", np.sin(np.arange(4000) / 9), 8000)
    return (folder / "a.wav").read_bytes()


def records(folder: Path) -> RecordSet:
    """One of each form."""
    sound = wave(folder)
    (folder / "photo.png").write_bytes(BLUE)
    talk = (
        Message("system", ("Be short.",)),
        Message("user", (Image(RED), "or", Image(BLUE), "?")), Message("assistant", ("Both.",)),
        Message("user", (Sound(sound),)), Message("assistant", ("A tone.\n\nHigh.",)),
    )  # fmt: skip
    return RecordSet((
        Record("a/b.png", RED, ("red", "a “red” one"), (("what?", "red"), ("is it?", "yes"))),
        Record("photo", FileSlice(folder / "photo.png"), ("blue",)),
        Record("heard", None, (), (), sound, "a tone", "yes"),
        Record("silent", RED, (), (("what?", "a thing"),), sound, ""),
        Record("talk", messages=talk),
        Record("page", document=("Before.", Image(RED), "One.", Image(BLUE), Image(RED), "Two.")),
    ))  # fmt: skip


def content(found: RecordSet) -> list[tuple]:
    """All that a run depends on."""
    places = [[(kind, own if isinstance(own, bytes) else own.read()) for kind, own in one.places] for one in found]
    return [(one.identity(), own) for one, own in zip(found, places, strict=True)]


def test_what_asks_for_nothing_is_no_prompt_for_rewards(tmp_path, capsys):
    (tmp_path / "red.png").write_bytes(RED)
    document = {"texts": ["A text that goes on.", None], "images": [None, "red.png"]}
    asked = {"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]}
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(map(json.dumps, [document, asked])))
    assert main(["data", "check", str(path)]) == 0
    assert main(["data", "check", str(path), "--prompts"]) == 1
    out = capsys.readouterr().out
    assert "1 can be used, 1 cannot" in out and "a document asks for nothing" in out
    assert main(["data", "convert", str(path), "--prompts", "-o", str(tmp_path / "out")]) == 2


# Convert


@pytest.mark.parametrize("form", ["tar", "jsonl"])
def test_what_is_written_reads_back_as_the_same_records(tmp_path, form):
    data = records(tmp_path)
    done = convert_data(data, tmp_path / "out", form=form, shard_size=4)
    assert (done.records, done.bad) == (6, 0)
    back = tmp_path / "out" if form == "jsonl" else f"{done.output}/*.tar"
    assert content(read_records(back)) == content(data)
    assert len(list(done.output.glob("*.tar"))) == (2 if form == "tar" else 0)
    assert not [path for path in done.output.rglob(".*")] and not (tmp_path / "out.partial").exists()
    again = convert_data(back, tmp_path / "again", form="tar" if form == "jsonl" else "jsonl")
    other = tmp_path / "again" if form == "tar" else f"{again.output}/*.tar"
    assert content(read_records(other)) == content(data)


@pytest.mark.parametrize("form", ["tar", "jsonl"])
@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_conversion_that_was_killed_goes_on_and_ends_with_the_same_bytes(tmp_path, monkeypatch, form, at):
    data = records(tmp_path)
    settings = dict(form=form, shard_size=2)
    convert_data(data, tmp_path / "whole", **settings)
    calls = []

    def killed(place, members, plain=convert._medium):
        calls.append(place)
        if len(calls) == at:
            raise KeyboardInterrupt
        return plain(place, members)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(convert, "_medium", killed)
        convert_data(data, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="begun with other data or settings"):
        convert_data(data, tmp_path / "out", form=form, shard_size=3)
    convert_data(data, tmp_path / "out", **settings)
    files = [{p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()}
             for f in (tmp_path / "whole", tmp_path / "out")]  # fmt: skip
    assert files[0] == files[1]


def test_a_conversion_of_a_tar_that_was_written_again_is_not_gone_on_with(tmp_path, monkeypatch):
    whole = convert_data(records(tmp_path), tmp_path / "whole").output / "000000.tar"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(convert, "_medium", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        convert_data(whole, tmp_path / "out")
    os.utime(whole, (1, 1))
    with pytest.raises(ValueError, match="begun with other data or settings"):
        convert_data(whole, tmp_path / "out")


def test_media_that_cannot_be_taken_along_are_named_and_counted(tmp_path):
    gone = Record("gone", FileSlice(tmp_path / "gone.png"), ("x",))
    odd = Record("odd", b"what is that", ("x",))
    data = RecordSet((*records(tmp_path), gone, odd))
    with pytest.raises(BadRecordsError, match="gone"):
        convert_data(data, tmp_path / "strict")
    done = convert_data(data, tmp_path / "out", bad_limit=0.5)
    assert (done.records, done.bad) == (6, 2)
    lines = (done.output / "bad_records.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["gone", "odd"]
    for wrong, words in (("out", "is there already"), ("in the way", "in the way")):
        (tmp_path / "in the way.partial").mkdir(exist_ok=True)
        (tmp_path / "in the way.partial" / "mine").touch()
        with pytest.raises(ValueError, match=words):
            convert_data(data, tmp_path / wrong)


def test_media_whose_suffix_no_reader_knows_are_found_again(tmp_path):
    """A picture by a name of its own, and MP3 of MPEG-2, as speech at 24 kHz is, without a name."""
    (tmp_path / "photo.jfif").write_bytes(RED)
    heard = b"\xff\xf3\x84\xc4" + bytes(100)
    given = [Record("seen", FileSlice(tmp_path / "photo.jfif"), ("red",)), Record("heard", sound=heard, transcript="a")]
    convert_data(given, tmp_path / "tars")
    seen, found = read_records(f"{tmp_path}/tars/*.tar", bad_limit=0.0)
    assert (seen.image, found.audio) == (RED, heard)


def test_a_film_goes_into_a_folder_and_not_into_a_tar(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"film")
    film = Record("film", FileSlice(tmp_path / "a.mp4"), ("a film",))
    with pytest.raises(BadRecordsError, match="a film is read as its sound"):
        convert_data([film], tmp_path / "tars")
    convert_data([film], tmp_path / "out", form="jsonl")
    (back,) = read_records(tmp_path / "out")
    assert back.source.path.suffix == ".mp4" and back.image == film.image


# Check


def test_a_check_counts_everything_and_names_what_is_bad(tmp_path):
    data = records(tmp_path)
    report = check_data(data, media=True)
    assert (report.records, report.pictures, report.films, report.recordings) == (6, 8, 0, 3)
    assert report.texts == dict(caption=3, question=3, transcript=2, reply=3, conversation=1, document=1)
    (tmp_path / "m.jsonl").write_text('{"image": "photo.png", "caption": "x"}\n{"image": "no.png"}\n{}\n')
    (tmp_path / "no.png").write_bytes(b"no picture")
    broken = Record("broken", b"no picture", ("abc",))
    report = check_data([tmp_path / "m.jsonl", broken], media=True)
    assert report.records == 1 and [one.key for one in report.bad] == ["m.jsonl:2", "m.jsonl:3", "broken"]
    assert check_data([tmp_path / "m.jsonl", broken]).records == 2
    (tmp_path / "all_bad.jsonl").write_text("{}\n")
    assert check_data(tmp_path / "all_bad.jsonl").records == 0
    (tmp_path / "empty.jsonl").touch()
    assert not check_data(tmp_path / "empty.jsonl").within(1.0), "which training refuses"


def test_the_verb(tmp_path, capsys):
    records(tmp_path)
    (tmp_path / "m.jsonl").write_text('{"image": "photo.png", "captions": ["a", "bcd"]}\n{"image": "no.png"}\n')
    assert main(["data", "check", f"{tmp_path}/m.jsonl", "--media", "--json", "--bad-limit", "0.5"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["records"] == 1 and shown["characters"] == [1, 1, 3] and shown["bad"][0]["key"] == "m.jsonl:2"
    assert main(["data", "check", f"{tmp_path}/m.jsonl"]) == 1  # what training would refuse
    assert "records:    1 can be used, 1 cannot" in capsys.readouterr().out
    assert main(["data", "convert", f"{tmp_path}/m.jsonl", "-o", f"{tmp_path}/out"]) == 2
    assert "raise --bad-limit" in capsys.readouterr().err
    assert main(["data", "convert", f"{tmp_path}/m.jsonl", "-o", f"{tmp_path}/out", "--bad-limit", "0.5"]) == 0
    assert len(read_records(f"{tmp_path}/out/*.tar")) == 1
    assert main(["data", "preview", f"{tmp_path}/m.jsonl"]) == 2
    assert "preview needs --output" in capsys.readouterr().err
    page = tmp_path / "page.html"
    assert main(["data", "preview", f"{tmp_path}/out/000000.tar", "-o", str(page), "--first", "3"]) == 0
    assert page.read_text().count("<section>") == 1


def test_a_check_names_every_damaged_file_and_counts_the_others(tmp_path, capsys):
    convert_data(records(tmp_path), tmp_path / "out", shard_size=3)
    good, cut = sorted((tmp_path / "out").glob("*.tar"))
    packed = tmp_path / "out" / "000002.tar"
    packed.write_bytes(gzip.compress(good.read_bytes()))
    cut.write_bytes(cut.read_bytes()[:700])
    report = check_data([str(tmp_path / "out" / "*.tar")])
    assert report.records == 3 and not report.bad and not report.within(1.0)
    assert [str(path) in said for path, said in zip((cut, packed), report.damaged, strict=True)] == [True, True]
    assert "truncated" in report.damaged[0] and "compressed by gzip" in report.damaged[1]
    assert main(["data", "check", str(tmp_path / "out" / "*.tar")]) == 1
    assert capsys.readouterr().out.count("damaged:") == 2
    with pytest.raises(ValueError, match="truncated"):
        check_data(cut)
    with pytest.raises(FileNotFoundError):
        check_data([good, str(tmp_path / "no-such.jsonl")])


def test_an_interrupted_conversion_says_that_it_can_be_gone_on_with(tmp_path, monkeypatch, capsys):
    records(tmp_path)
    (tmp_path / "m.jsonl").write_text('{"image": "photo.png", "caption": "a"}\n')
    arguments = ["data", "convert", str(tmp_path / "m.jsonl"), "-o", str(tmp_path / "out")]

    def interrupted(place, members):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(convert, "_medium", interrupted)
        assert main(arguments) == 130
    assert "stopped; the same command goes on" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main(arguments) == 0 and len(read_records(str(tmp_path / "out" / "*.tar"))) == 1


def test_a_full_disk_is_told_with_the_folder_and_the_same_goes_on(tmp_path, monkeypatch):
    def full(*names):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    given = records(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="out.partial cannot be written to .*make room"):
        patch.setattr(tarfile.TarFile, "addfile", full)
        convert_data(given, tmp_path / "out")
    assert convert_data(given, tmp_path / "out").records == len(given)


def test_long_work_says_how_far_it_is(tmp_path):
    said: dict[str, list[tuple[int, int]]] = {"check": [], "convert": []}
    data = records(tmp_path)
    check_data(data, media=True, told=lambda *now: said["check"].append(now))
    convert_data(data, tmp_path / "out", shard_size=4, told=lambda *now: said["convert"].append(now))
    assert said == {"check": [(done, 6) for done in range(6)], "convert": [(4, 6), (6, 6)]}


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["check", "m.jsonl", "-o", "x"], "check writes nothing"),
        (["check", "s3://bucket/a.tar"], "is an address"),
        (["preview", "m.jsonl", "-o", "page.html", "--first", "0"], "--first must be at least 1"),
        (["preview", "m.jsonl", "-o", "."], "is a folder: give the name of a page"),
        (["preview", "m.jsonl", "-o", "m.jsonl/page.html"], "is a file"),
        (["convert", "m.jsonl", "-o", "m.jsonl/x"], "is a file"),
        (["convert", "m.jsonl", "-o", "x", "--language-model", "y"], "which is for preview"),
    ],
)
def test_what_has_no_use_is_refused_before_anything_is_read(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    Path("m.jsonl").write_text("{}\n")
    assert main(["data", *arguments]) == 2
    assert words in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["m.jsonl"]


# Preview

IMAGE = 9  # an id; the other tokens are 0


@pytest.mark.parametrize(
    "visibility, table",
    [
        ("latest", [(), (1,), (1,), (2,), (3,), (3,), (4,), (4,)]),
        ("group", [(), (1,), (1,), (2,), (2, 3), (2, 3), (4,), (4,)]),
        ("all", [(), (1,), (1,), (1, 2), (1, 2, 3), (1, 2, 3), (1, 2, 3, 4), (1, 2, 3, 4)]),
    ],
)
def test_which_text_sees_which_medium(visibility, table):
    assert visible_to([0, IMAGE, 0, IMAGE, IMAGE, 0, IMAGE, 0], [IMAGE], visibility) == table


def test_the_page_marks_what_is_learned_and_shows_media_as_the_encoder_gets_them(tmp_path):
    model = tiny_model()
    data = records(tmp_path)
    pictures = RecordSet(tuple(one for one in data if all(kind == "image" for kind, _ in one.places)))
    for record in pictures:
        for text in record.texts:
            example = example_of(model.processor, model.template, record, text)
            runs = runs_of(model, example)
            learned = "".join(run.text for run in runs if run.learned).replace("<|endofchunk|>", "")
            assert learned == (text.answer.replace("\n", "") if record.document else text.answer)
            assert sum(run.medium for run in runs) == len(record.places)
    page = preview_data(model, pictures, tmp_path / "a" / "page.html", first=5).read_text()
    assert page.count("<section>") == 3 and page.count("<img") == 5
    assert re.findall(r'class="learned">(.*?)</span>(.*?)<span', page)
    assert '<span class="learned">Before.</span><sup class="blind">–</sup>' in page
    assert '<span class="mark">&lt;image 1&gt;</span><span class="learned">One.</span><sup>1</sup>' in page
    bad = replace(pictures[0], source=b"no picture", key="<b>")
    page = preview_data(model, RecordSet((bad,)), tmp_path / "bad.html").read_text()
    assert "&lt;b&gt;" in page and "<b>" not in page and 'class="bad"' in page


def test_text_behind_a_prefix_sees_all_media_before_it():
    model = mmlm.assemble(
        families.language_model("llama"), parts.image_encoder(), tokenizer=families.tokenizer(),
        resampler=ResamplerConfig(depth=0), fusion=FusionConfig(kind="prefix"),
    )  # fmt: skip
    page = Record("page", document=("Before.", Image(RED), "One.", Image(BLUE), "Two."))
    example = example_of(model.processor, model.template, page, page.texts[0])
    seen = {run.text: run.sees for run in runs_of(model, example) if run.learned and "<|" not in run.text}
    assert seen == {"Before.": (), "One.": (1,), "Two.": (1, 2)}
    # What the language model makes of the last word does depend on the first picture.
    logits = []
    for picture in (RED, png((0, 250, 0))):
        media = model.encode_media([Image(picture), Image(BLUE)])
        batch, own = batch_of(model.processor, [[Ready(example, media)]])
        logits.append(model(replace(batch, labels=None), own).logits[0, -1])
    assert not torch.equal(*logits)


def test_pictures_on_the_page_have_their_colours(tmp_path):
    from mmlm.training.preview import _as_seen

    shown = np.asarray(_as_seen(tiny_model().encoders["image"], png((250, 10, 40))))
    assert shown.shape == (16, 16, 3) and np.abs(shown[8, 8].astype(int) - (250, 10, 40)).max() <= 1


def test_nano_shows_recordings_too(tmp_path):
    data = [one for one in records(tmp_path) if one.key == "silent"]
    page = preview_data(mmlm.load("nano"), RecordSet(tuple(data)), tmp_path / "page.html").read_text()
    assert "2: audio 0.5 s" in page and page.count("<img") == 2


@pytest.mark.parametrize(
    "action, option", [("check", "--shard-size=5"), ("convert", "--media"), ("check", "--first=3")]
)
def test_an_option_of_another_action_is_refused(tmp_path, capsys, action, option):
    (tmp_path / "a.jsonl").write_text("")
    assert main(["data", action, str(tmp_path / "a.jsonl"), option, "--output", str(tmp_path / "out")]) == 2
    assert f"{action} has no {option.partition('=')[0]}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
