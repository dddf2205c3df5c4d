"""Readers of paired data, and the stream of examples: counts add up, nothing is lost unseen, order is pure."""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from mmlm.data import BadRecordsError, FileSlice, Record, RecordSet, read_records
from mmlm.data.readers.paths import expand, expand_braces
from mmlm.data.readers.tar import index_tar
from mmlm.data.sampling import ExampleStream

DATA = Path(os.environ.get("MMLM_DATA", Path(__file__).parents[1] / "../shared/data"))


def write_lines(path: Path, *lines) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def pictures(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"picture {name}".encode())


def write_tar(path: Path, members: dict[str, bytes | dict | str]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            data = (
                content
                if isinstance(content, bytes)
                else (json.dumps(content) if isinstance(content, dict) else content).encode()
            )
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_jsonl_takes_every_form_of_text(tmp_path):
    pictures(tmp_path, "a.jpg", "sub/b.png", "c.jpg", "d.jpg", "e.jpg")
    manifest = write_lines(
        tmp_path / "pairs.jsonl",
        {"image": "a.jpg", "caption": "one"},
        {"image": "sub/b.png", "captions": ["two ", "three"]},
        "",
        {"image": "c.jpg", "question": "what?", "answer": "this"},
        {"image": "d.jpg", "qa": [{"question": "q", "answers": ["x", "y"]}, ["r", "z"]], "caption": "both"},
        {"file_name": "e.jpg", "text": "four"},
    )
    records = read_records(manifest)
    assert [(r.captions, r.qa) for r in records] == [
        (("one",), ()),
        (("two", "three"), ()),
        ((), (("what?", "this"),)),
        (("both",), (("q", "x, y"), ("r", "z"))),
        (("four",), ()),
    ]
    assert [r.image for r in records][:2] == [b"picture a.jpg", b"picture sub/b.png"]
    assert records.bad == ()


def test_a_folder_with_metadata(tmp_path):
    pictures(tmp_path, "1.png", "2.png")
    write_lines(tmp_path / "metadata.jsonl", {"file_name": "1.png", "text": "a"}, {"file_name": "2.png", "text": "b"})
    assert [(r.key, r.captions) for r in read_records(tmp_path)] == [("1.png", ("a",)), ("2.png", ("b",))]
    with pytest.raises(FileNotFoundError, match="metadata.jsonl"):
        (tmp_path / "empty").mkdir()
        read_records(tmp_path / "empty")


def test_coco_captions(tmp_path):
    pictures(tmp_path / "photos", "x.jpg", "y.jpg")
    content = {
        "images": [{"id": 7, "file_name": "x.jpg"}, {"id": 9, "file_name": "y.jpg"}],
        "annotations": [
            {"image_id": 9, "caption": "of y"},
            {"image_id": 7, "caption": "of x"},
            {"image_id": 7, "caption": "again x"},
        ],
    }
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(content))
    records = read_records(path, images=tmp_path / "photos")
    assert [(r.image, r.captions) for r in records] == [
        (b"picture x.jpg", ("of x", "again x")),
        (b"picture y.jpg", ("of y",)),
    ]
    with pytest.raises(BadRecordsError, match="no picture at"):
        read_records(path)
    content["annotations"].append({"image_id": 1, "caption": "of nothing"})
    path.write_text(json.dumps(content))
    with pytest.raises(BadRecordsError, match="image 1: a caption for an image that the file does not list"):
        read_records(path, images=tmp_path / "photos")
    path.write_text("[]")
    with pytest.raises(ValueError, match="not a COCO captions file"):
        read_records(path)


def test_coco_names_that_are_no_names(tmp_path):
    pictures(tmp_path, "a.jpg")
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": 5}],
        "annotations": [{"image_id": 1, "caption": "one"}, {"image_id": 2, "caption": "two"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    records = read_records(tmp_path / "coco.json", bad_limit=0.5)
    assert [record.captions for record in records] == [("one",)]
    assert [(bad.key, bad.reason) for bad in records.bad] == [("coco.json image 2", "its file_name is 5")]


def test_tars_are_read_in_order_by_pattern_and_by_glob(tmp_path):
    for shard in range(3):
        write_tar(
            tmp_path / f"train-{shard:06}.tar",
            {f"{shard}{i}.{suffix}": content for i in range(2) for suffix, content in (
                ("jpg", os.urandom(700 * i + shard)), ("json", {"captions": [f"text {shard} {i}"]}))},
        )  # fmt: skip
    by_braces = read_records(str(tmp_path / "train-{000000..000002}.tar"))
    assert [r.key for r in by_braces] == ["00", "01", "10", "11", "20", "21"]
    assert by_braces.records == read_records(str(tmp_path / "train-*.tar")).records
    for record in reversed(by_braces):  # random access: any order
        with tarfile.open(record.source.path) as tar:
            assert record.image == tar.extractfile(f"{record.key}.jpg").read()
    with pytest.raises(FileNotFoundError, match="train-000003.tar"):
        read_records(str(tmp_path / "train-{000000..000003}.tar"))
    with pytest.raises(FileNotFoundError):
        read_records(str(tmp_path / "dev-*.tar"))


def test_braces():
    assert expand_braces("plain.tar") == ["plain.tar"]
    assert expand_braces("a{08..11}") == ["a08", "a09", "a10", "a11"]
    assert expand_braces("{x,y}/{1..2}.tar") == ["x/1.tar", "x/2.tar", "y/1.tar", "y/2.tar"]


def test_what_exists_needs_no_escaping(tmp_path):
    folder = tmp_path / "photos [x] {a,b}"
    folder.mkdir()
    for name in ("w {1..2}.tar", "w 1.tar", "v[1].tar", "v1.tar"):
        (folder / name).touch()

    def found(pattern: str) -> list[str]:
        return [path.name for path in expand(f"{folder}/{pattern}")]

    assert found("w {1..2}.tar") == ["w {1..2}.tar"] and found("v[1].tar") == ["v[1].tar"]
    assert expand(str(folder)) == [folder]
    os.rename(folder, folder := tmp_path / "photos [x]")
    assert found("v?.tar") == ["v1.tar"] and found("*1].tar") == ["v[1].tar"]
    assert found("{v,w }1.tar") == ["v1.tar", "w 1.tar"] and found("v[12].tar") == ["v1.tar"]
    with pytest.raises(FileNotFoundError, match="no file matches"):
        found("x*.tar")


def test_each_half_sample_is_counted_and_named(tmp_path):
    whole = {"caption": "x"}
    tar = write_tar(
        tmp_path / "s.tar",
        {
            "good.jpg": b"p", "good.json": whole, "txt.png": b"p", "txt.txt": "a caption\n",
            "lonely.jpg": b"p", "blind.json": whole, "two.jpg": b"p", "two.png": b"p", "two.json": whole,
            "broken.jpg": b"p", "broken.json": b"{", "list.jpg": b"p", "list.json": b"[]", "number.jpg": b"p",
            "number.cls": "7", "pages.0.jpg": b"p", "pages.1.jpg": b"p", "pages.txt": "x", "latin.jpg": b"p",
            "latin.txt": b"caf\xe9",
        },
    )  # fmt: skip
    records = read_records(tar, bad_limit=1)
    assert [(r.key, r.captions) for r in records] == [("good", ("x",)), ("txt", ("a caption",))]
    whole_reasons = {b.key.split()[-1]: b.reason for b in records.bad}
    assert "(members: jpg, cls)" in whole_reasons["number"] and "(members: 0.jpg, 1.jpg, txt" in whole_reasons["pages"]
    assert {key: reason.split("(")[0].strip() for key, reason in whole_reasons.items()} == {
        "lonely": "no text: neither lonely.json nor lonely.txt",
        "blind": "no picture and no recording",
        "two": "2 pictures",
        "broken": "unreadable JSON",
        "list": "the JSON is a list, not an object",
        "number": "no text: neither number.json nor number.txt",
        "pages": "2 media for one caption or question",
        "latin": "its caption is not valid Unicode; save the file as UTF-8",
    }
    assert records.total == 10


def test_a_member_that_comes_twice_is_bad(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name, data in (("k.jpg", b"1"), ("k.jpg", b"2"), ("k.json", b'{"caption": "x"}')):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(BadRecordsError, match="several members"):
        read_records(tmp_path / "t.tar")


def test_a_truncated_tar_is_an_error_wherever_it_is_cut(tmp_path):
    whole = write_tar(
        tmp_path / "whole.tar",
        {f"{i}.{s}": c for i in range(3) for s, c in (("jpg", os.urandom(600)), ("json", {"caption": "x"}))},
    ).read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as tar:
        last = tar.getmembers()[-1]
        end = last.offset_data + 512
    for length in [*range(0, end + 1, 512), 100, 700, 1500, end - 1]:
        cut = tmp_path / "cut.tar"
        cut.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="truncated|damaged"):
            read_records(cut)


def test_joined_tars_are_read_to_the_end_of_the_file(tmp_path):
    one = write_tar(tmp_path / "one.tar", {"a.jpg": b"1" * 700, "a.txt": "first"})
    two = write_tar(tmp_path / "two.tar", {"b.jpg": b"2" * 900, "b.txt": "second"})
    joined = tmp_path / "joined.tar"
    joined.write_bytes(one.read_bytes() + two.read_bytes() + bytes(3 << 20) + two.read_bytes())
    assert [len(slices) for members in index_tar(joined).values() for slices in members.values()] == [1, 1, 2, 2]
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    records = read_records(joined)
    assert [(record.captions, record.image) for record in records] == [
        (("first",), b"1" * 700),
        (("second",), b"2" * 900),
    ]


def test_a_tar_without_members_holds_no_records(tmp_path):
    """As writers leave it that have fewer records than shards; joined to another one as well."""
    one = write_tar(tmp_path / "0.tar", {"a.jpg": b"1", "a.txt": "first"})
    none = write_tar(tmp_path / "1.tar", {})
    (tmp_path / "2.tar").write_bytes(none.read_bytes() + one.read_bytes())
    assert [record.image for record in read_records(f"{tmp_path}/?.tar")] == [b"1", b"1"]
    with pytest.raises(BadRecordsError, match="there are no records"):
        read_records(none)
    (tmp_path / "3.tar").touch()
    with pytest.raises(ValueError, match="3.tar is damaged.*empty file"):
        read_records(f"{tmp_path}/?.tar")


def test_a_text_in_a_tar_may_begin_with_a_mark(tmp_path):
    path = write_tar(tmp_path / "t.tar", {"a.JPG": b"1", "a.txt": b"\xef\xbb\xbfa dog\r\n"})
    assert read_records(path)[0].captions == ("a dog",)


def test_a_damaged_header_within_a_tar_is_an_error(tmp_path):
    """tarfile itself stops there without a word, and the rest would be lost."""
    path = write_tar(tmp_path / "t.tar", {f"{i}.{s}": b"x" for i in range(3) for s in ("jpg", "txt")})
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        header = tar.getmembers()[2].offset
    data[header + 150] ^= 1  # of the checksum
    path.write_bytes(data)
    with tarfile.open(path) as tar:
        assert len(tar.getmembers()) == 2
    with pytest.raises(ValueError, match="damaged"):
        read_records(path)
    one = write_tar(tmp_path / "one.tar", {"a.jpg": b"1", "a.txt": "first"}).read_bytes()
    (tmp_path / "junk.tar").write_bytes(one + b"junk" * 200 + bytes(1024))
    with pytest.raises(ValueError, match="damaged"):
        read_records(tmp_path / "junk.tar")


def test_links_in_a_tar_stand_for_their_files(tmp_path):
    def add(tar, name, data=b"", kind=tarfile.REGTYPE, link=""):
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, len(data)
        tar.addfile(info, io.BytesIO(data))

    with tarfile.open(tmp_path / "links.tar", "w") as tar:
        add(tar, "d/a.jpg", b"picture")
        add(tar, "d/b.jpg", kind=tarfile.LNKTYPE, link="d/a.jpg")
        add(tar, "d/c.jpg", kind=tarfile.SYMTYPE, link="a.jpg")
        for key in "abc":
            add(tar, f"d/{key}.txt", f"text {key}".encode())
    records = read_records(tmp_path / "links.tar")
    assert [(record.image, record.captions) for record in records] == [(b"picture", (f"text {k}",)) for k in "abc"]
    with tarfile.open(tmp_path / "lost.tar", "w") as tar:
        add(tar, "a.jpg", kind=tarfile.SYMTYPE, link="/elsewhere/a.jpg")
    with pytest.raises(ValueError, match="a.jpg is a link to /elsewhere/a.jpg.*--dereference"):
        read_records(tmp_path / "lost.tar")


def test_a_key_ends_at_the_first_dot_and_the_message_says_so(tmp_path):
    path = write_tar(tmp_path / "dots.tar", {"v1.5.jpg": b"x", "v1.5.txt": "one"})
    with pytest.raises(BadRecordsError, match="a key ends at the first dot"):
        read_records(path)


def test_null_means_absent(tmp_path):
    pictures(tmp_path, "a.jpg")
    empty = dict.fromkeys(("captions", "qa", "question", "answer", "answers", "audio", "transcript"))
    manifest = write_lines(
        tmp_path / "m.jsonl",
        {"image": "a.jpg", "caption": None, "text": "one", **empty},
        {"image": None, "file_name": "a.jpg", "caption": ["two", "three"], "text": None},
    )
    assert [record.captions for record in read_records(manifest)] == [("one",), ("two", "three")]
    tar = write_tar(tmp_path / "t.tar", {"k.jpg": b"p", "k.json": {"caption": None, "text": "three"}})
    assert read_records(tar)[0].captions == ("three",)
    bad = write_lines(tmp_path / "bad.jsonl", {"image": "a.jpg", "caption": None})
    with pytest.raises(BadRecordsError, match="no caption and no question"):
        read_records(bad)


def test_manifests_as_windows_writes_them(tmp_path):
    pictures(tmp_path / "photos", "1.jpg")
    line = json.dumps({"image": "photos\\1.jpg", "caption": "café"}, ensure_ascii=False) + "\r\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "m.jsonl").write_bytes(line.encode(encoding))
        assert [(r.image, r.captions) for r in read_records(tmp_path / "m.jsonl")] == [(b"picture 1.jpg", ("café",))]
    (tmp_path / "m.jsonl").write_bytes(line.encode("latin-1"))
    with pytest.raises(BadRecordsError, match="save the file as UTF-8"):
        read_records(tmp_path / "m.jsonl")


def test_lists_are_refused_with_a_way_out(tmp_path):
    pictures(tmp_path, "a.jpg")
    (tmp_path / "list.json").write_text(json.dumps([{"image": "a.jpg", "caption": "x"}]))
    with pytest.raises(ValueError, match=r"one object a line \(jq -c"):
        read_records(tmp_path / "list.json")


def test_other_containers_are_refused_with_a_reason(tmp_path):
    with tarfile.open(tmp_path / "c.tar", "w:gz"):
        pass
    with pytest.raises(ValueError, match="not a plain tar"):
        read_records(tmp_path / "c.tar")
    for name, words in (("a.tar.gz", "unpack it first"), ("a.csv", "not one of")):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ValueError, match=words):
            read_records(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="nowhere.jsonl"):
        read_records("nowhere.jsonl")
    with pytest.raises(TypeError):
        read_records(3)


@pytest.mark.parametrize(
    "line, reason",
    [
        ('{"image": "a.jpg", "caption": ', "unreadable JSON"),
        ("[" * 100_000, "unreadable JSON"),
        ('{"image": "a.jpg", "caption": "x", "y": ' + "[" * 50_000 + "]" * 50_000 + "}", "unreadable JSON"),
        ("7", "the JSON is a int"),
        ({"caption": "x"}, "no picture"),
        ({"image": "gone.jpg", "caption": "x"}, "no picture at"),
        ({"image": "data:image/png;base64," + "A" * 6000, "caption": "x"}, "in place of its name"),
        ({"image": "https://a.b/c.png", "caption": "x"}, "https://a.b/c.png is an address: download it"),
        ({"image": "a.jpg"}, "no caption and no question"),
        ({"image": "a.jpg", "captions": []}, "no caption and no question"),
        ({"image": "a.jpg", "caption": "  "}, "an empty caption"),
        ({"image": "a.jpg", "captions": ["fine", ""]}, "an empty caption"),
        ({"image": "a.jpg", "captions": "one"}, "not a list"),
        ({"image": "a.jpg", "caption": 5}, "not text"),
        ({"image": "a.jpg", "caption": "\ud800"}, "not valid Unicode"),
        ({"image": "a.jpg", "question": "what?"}, "no answer"),
        ({"image": "a.jpg", "qa": [{"question": "", "answer": "x"}]}, "an empty caption, question or answer"),
        ({"image": "a.jpg", "qa": ["what?"]}, "neither"),
        ({"image": "a.jpg", "qa": [{"question": "q", "answers": []}]}, "an answer that is not text"),
        (b'{"image": "a.jpg", "caption": "\xff"}', "not valid Unicode"),
    ],
)
def test_bad_lines(tmp_path, line, reason):
    pictures(tmp_path, "a.jpg")
    good = json.dumps({"image": "a.jpg", "caption": "good"}).encode()
    raw = line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
    (tmp_path / "m.jsonl").write_bytes(good + b"\n" + raw + b"\n" + good)
    records = read_records(tmp_path / "m.jsonl", bad_limit=0.5)
    assert len(records) == 2 and records.total == 3
    assert records.bad[0].key == "m.jsonl:2" and reason in records.bad[0].reason


@pytest.mark.parametrize("name", ["m.jsonl", "m.json", "m.tar"])
def test_a_compressed_file_says_so_whatever_its_name(tmp_path, name):
    packed = {"gzip": gzip.compress(b"{}"), "bzip2": bz2.compress(b"{}"), "xz": lzma.compress(b"{}"),
              "zstd": bytes.fromhex("28b52ffd2002110000") + b"{}"}  # fmt: skip
    for way, data in packed.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"{name} is .*compressed by {way}, and has to be unpacked first"):
            read_records(tmp_path / name)


def test_the_limit_is_passed_only_above_it(tmp_path):
    pictures(tmp_path, "a.jpg")
    good, bad = {"image": "a.jpg", "caption": "x"}, {"image": "a.jpg"}
    at_limit = write_lines(tmp_path / "at.jsonl", *[good] * 99, bad)
    assert len(read_records(at_limit)) == 99
    above = write_lines(tmp_path / "above.jsonl", *[good] * 98, bad, bad)
    with pytest.raises(BadRecordsError, match=r"(?s)2 of 100 records are bad.*above.jsonl:99.*above.jsonl:100"):
        read_records(above)
    assert read_records([at_limit, at_limit, above], bad_limit=0.02).total == 300  # a list is judged as a whole
    with pytest.raises(BadRecordsError, match="no records to use in .*empty.jsonl"):
        read_records(write_lines(tmp_path / "empty.jsonl"))


def test_records_may_be_given_ready_made():
    record = Record("k", b"bytes", captions=("c",))
    assert read_records([record])[0].image == b"bytes"
    assert read_records(RecordSet((record,))).records == (record,)
    with pytest.raises(ValueError, match="no caption"):
        Record("k", b"bytes")


def test_a_member_of_a_tar_that_was_written_again_is_an_error(tmp_path):
    tar = write_tar(tmp_path / "a.tar", {"a.png": b"one", "a.txt": b"x"})
    (record,) = read_records(tar)
    assert record.image == b"one"
    os.utime(write_tar(tmp_path / "a.tar", {"a.png": b"two", "a.txt": b"x"}), (1, 1))
    with pytest.raises(OSError, match="a.tar was written again since it was read; the same call reads it anew"):
        _ = record.image


def test_a_file_that_shrank_is_an_error(tmp_path):
    (tmp_path / "f").write_bytes(b"0123456789")
    assert FileSlice(tmp_path / "f", 2, 5).read() == b"23456"
    with pytest.raises(OSError, match="2 bytes too early"):
        FileSlice(tmp_path / "f", 7, 5).read()


@pytest.mark.skipif(not (DATA / "emoji").is_dir(), reason="shared paired data is not here (set MMLM_DATA)")
def test_agrees_with_webdataset_on_real_tars():
    webdataset = pytest.importorskip("webdataset")
    path = DATA / "emoji" / "dev-000000.tar"
    theirs = {sample["__key__"]: sample for sample in webdataset.WebDataset(str(path), shardshuffle=False)}
    ours = read_records(path)
    assert [r.key for r in ours] == list(theirs)
    for record in ours:
        assert record.image == theirs[record.key]["jpg"]
        assert list(record.captions) == json.loads(theirs[record.key]["json"])["captions"]


# The stream of examples


def some_records(count: int, captions: int = 3, questions: int = 4) -> RecordSet:
    return RecordSet(tuple(
        Record(str(i), b"", tuple(f"c{j}" for j in range(captions)), tuple((f"q{j}", "a") for j in range(questions)))
        for i in range(count)
    ))  # fmt: skip


def test_every_epoch_holds_every_record_once_and_every_step_is_full():
    stream = ExampleStream(some_records(10), 4, seed=3)
    flat = [pair for step in range(15) for pair in stream.step(step)]
    assert len(flat) == 60
    for epoch in range(6):
        assert sorted(record for record, _ in flat[epoch * 10 : epoch * 10 + 10]) == list(range(10))
    assert flat[:10] != flat[10:20]


@pytest.mark.parametrize("window", [1, 4])
def test_a_step_depends_on_nothing_but_seed_and_number(window):
    records = some_records(23)
    arguments = dict(seed=1, length=lambda record, text: (record * 7 + text * 3) % 11, window=window)
    straight = [ExampleStream(records, 5, **arguments).step(i) for i in range(40)]
    stream, order = ExampleStream(records, 5, **arguments), list(range(40))
    random.Random(0).shuffle(order)
    assert {i: stream.step(i) for i in order} == dict(enumerate(straight))
    assert [ExampleStream(records, 5, **{**arguments, "seed": 2}).step(i) for i in range(40)] != straight


def test_sorting_keeps_a_window_s_examples_and_saves_padding():
    records, lengths = some_records(64), [random.Random(i).randint(1, 100) for i in range(64)]
    plain = ExampleStream(records, 8, seed=5)
    sorted_ = ExampleStream(records, 8, seed=5, length=lambda record, text: lengths[record], window=4)

    def padded(stream, steps):
        return sum(8 * max(lengths[record] for record, _ in stream.step(i)) for i in steps)

    for window in range(4):
        steps = range(window * 4, window * 4 + 4)
        assert Counter(p for i in steps for p in plain.step(i)) == Counter(p for i in steps for p in sorted_.step(i))
    assert padded(sorted_, range(16)) < 0.75 * padded(plain, range(16))
    firsts = [max(lengths[r] for r, _ in sorted_.step(4 * w)) for w in range(16)]
    assert firsts != sorted(firsts)  # steps of a window are shuffled: no curriculum from short to long


def test_texts_are_drawn_evenly_and_by_share():
    stream = ExampleStream(some_records(4000, captions=3, questions=4), 4000, caption_share=0.25)
    drawn = Counter(text for _, text in stream.step(0))
    for text in range(3):
        assert drawn[text] == pytest.approx(4000 * 0.25 / 3, rel=0.2)
    for text in range(3, 7):
        assert drawn[text] == pytest.approx(4000 * 0.75 / 4, rel=0.2)
    first, second = dict(stream.step(0)), dict(stream.step(1))
    assert 0.1 < sum(first[r] == second[r] for r in range(4000)) / 4000 < 0.25  # other epochs draw other texts


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_records_of_one_kind_ignore_the_share(share):
    records = RecordSet((*some_records(5, questions=0), *some_records(5, captions=0)))
    for record, text in ExampleStream(records, 10, caption_share=share).step(0):
        assert 0 <= text < (3 if record < 5 else 4)
    both = ExampleStream(some_records(50), 50, caption_share=share).step(0)
    assert all((text < 3) == (share == 1.0) for _, text in both)


def test_media_of_records_lie_where_their_records_say():
    from mmlm.data.media import find_media

    seen, both = Record("a", b"picture", captions=("x",)), Record("b", b"other", captions=("y",), sound=b"sound")
    assert find_media(RecordSet((seen, both)), "image") == [b"picture", b"other"]
    assert find_media([seen, both], "audio") == [b"sound"]


# What is no record


FALSY = ["", {}, [], 0, False]
DEEP = "[" * 100_000
NESTED = '{"image": "a.png", "caption": "x", "y": ' + DEEP + "]" * 100_000 + "}"
UNREADABLE = [DEEP, '{"a":' * 100_000, NESTED, "null", "1", "\0"]


@pytest.mark.parametrize("field", ["image", "file_name", "audio"])
@pytest.mark.parametrize("folder", [True, False])
def test_a_field_of_media_that_names_nothing_is_a_bad_record(tmp_path, field, folder):
    """Beside a medium of the other kind, too; null means absent."""
    pictures(tmp_path, "a.png", "a.wav")
    beside = {"image": "a.png", "caption": "x"} if field == "audio" else {"audio": "a.wav", "transcript": "x"}
    lines = [{field: value, **beside} for value in (*FALSY, 1.5, True, "\0", "\ud800", "x" * 5000, ".")]
    path = write_lines(tmp_path / "metadata.jsonl", beside, {field: None, **beside}, *lines)
    source = tmp_path if folder else path
    found = read_records(source, bad_limit=0.99)
    assert len(found) == 2 and len(found.bad) == len(lines)
    for number, value in enumerate(FALSY):
        assert found.bad[number].key == f"metadata.jsonl:{number + 3}"
        assert found.bad[number].reason.startswith(f'"{field}" is {value!r}, not the name of a file')


@pytest.mark.parametrize("text", UNREADABLE, ids=range(len(UNREADABLE)))
def test_json_that_cannot_be_parsed_is_a_bad_record_in_every_reader(tmp_path, text):
    pictures(tmp_path, "a.png")
    good = {"image": "a.png", "caption": "x"}
    for name in ("a.jsonl", "metadata.jsonl"):
        found = read_records(write_lines(tmp_path / name, good, text, good), bad_limit=0.5)
        assert len(found) == 2 and [bad.key for bad in found.bad] == [f"{name}:2"]
    tar = write_tar(tmp_path / "t.tar", {"a.png": b"picture", "a.txt": "x", "b.png": b"picture", "b.json": text})
    found = read_records(tar, bad_limit=0.5)
    assert len(found) == 1 and [bad.key for bad in found.bad] == ["t.tar b"]
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ValueError, match="c.json (is not a COCO captions file|holds no JSON)"):
        read_records(tmp_path / "c.json")


def test_a_caption_of_coco_that_is_none_drops_itself_alone(tmp_path):
    pictures(tmp_path, "a.png")
    notes = [{"image_id": 1, "caption": text} for text in ("one", "", None, 5, "two")]
    content = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": notes}
    (tmp_path / "c.json").write_text(json.dumps(content))
    found = read_records(tmp_path / "c.json", bad_limit=0.9)
    assert [record.captions for record in found] == [("one", "two")]
    assert [(bad.key, bad.reason) for bad in found.bad] == [
        ("c.json annotations[2]", "an empty caption"),
        ("c.json annotations[3]", "no caption"),
        ("c.json annotations[4]", "a caption that is not text"),
    ]


def test_entries_of_coco_that_are_none_are_bad_records(tmp_path):
    pictures(tmp_path, "a.png")
    images = [{"id": 1, "file_name": "a.png"}, None, 5, {"id": {}, "file_name": "a.png"}, {"file_name": "a.png"}]
    images += [{"id": 10 + index, "file_name": value} for index, value in enumerate(FALSY)]
    notes = [{"image_id": 1, "caption": "x"}, None, {"image_id": [], "caption": "x"}, {"caption": "x"}, "text"]
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": notes}))
    found = read_records(tmp_path / "c.json", bad_limit=0.99)
    assert [record.captions for record in found] == [("x",)] and len(found.bad) == 4 + len(FALSY) + 4
    for content in ({"images": {}, "annotations": []}, {"images": []}, 5, None, "x"):
        (tmp_path / "c.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match="c.json is not a COCO captions file"):
            read_records(tmp_path / "c.json")


@pytest.mark.parametrize("damage", [b"x", b"\x00\xd8\x00\xd8"])
def test_utf_16_that_is_damaged_is_an_error(tmp_path, damage):
    pictures(tmp_path, "a.png")
    line = json.dumps({"image": "a.png", "caption": "x"}) + "\n"
    (tmp_path / "m.jsonl").write_bytes((line * 2).encode("utf-16") + damage + "\n".encode("utf-16-le"))
    with pytest.raises(ValueError, match=r"m.jsonl is damaged after line \d"):
        read_records(tmp_path / "m.jsonl")


@pytest.mark.parametrize("medium", [*FALSY, "a.png", Path("a.png")])
def test_a_record_takes_places_and_bytes_alone(medium):
    for media in ({"source": medium}, {"source": b"picture", "sound": medium}):
        with pytest.raises(TypeError, match="the medium of a record is a FileSlice or bytes, not"):
            Record("r", captions=("x",), **media)


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_a_films_text_in_a_tar_is_no_transcript_by_guess(tmp_path, suffix):
    members = {
        f"a.{suffix}": b"film", "a.txt": "a dog runs", f"b.{suffix}": b"film", "b.json": {"text": "a dog runs"},
        f"c.{suffix}": b"film", "c.json": {"transcript": "good morning"}, "d.wav": b"sound", "d.txt": "good morning",
        f"e.{suffix}": b"film", "e.json": {"transcript": "good morning"}, "e.txt": "a caption, perhaps",
    }  # fmt: skip
    found = read_records(write_tar(tmp_path / "t.tar", members), bad_limit=0.5)
    assert {record.key: record.transcript for record in found} == dict.fromkeys("cde", "good morning")
    assert [bad.key for bad in found.bad] == ["t.tar a", "t.tar b"]
    for bad in found.bad:
        assert "a tar gives the sound alone" in bad.reason and '"transcript"' in bad.reason


def test_a_line_that_names_a_video_is_told_where_films_go(tmp_path):
    (tmp_path / "m.jsonl").write_text(json.dumps({"video": "a.mp4", "caption": "a dog runs"}) + "\n")
    with pytest.raises(BadRecordsError, match='a film has the place of a picture: name it as "image"'):
        read_records(tmp_path / "m.jsonl")
