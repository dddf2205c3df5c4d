"""Jobs: every item once, in order, after any number of kills; no two processes write one shard; damage is noticed."""

import codecs
import errno
import itertools
import json
import os
import random
import signal
import tarfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmlm.data.readers.jsonl import lines_of_jsonl, pieces_of_jsonl
from mmlm.data.records import BadRecord
from mmlm.data.streams import UnreachableError
from mmlm.jobs import Item, Job, Ranks, leases, open_job, work
from mmlm.jobs import items as reading
from mmlm.jobs.files import create
from mmlm.jobs.leases import Leases
from mmlm.jobs.parts import Parts

SIZE = 7  # items a shard
ALONE = Ranks()


def manifest(folder: Path, count: int = 40, named: str = "{}.png") -> Path:
    """A manifest of files that exist, with a line in it that is none."""
    folder.mkdir(exist_ok=True)
    lines = []
    for number in range(count):
        name = named.format(number)
        (folder / name).touch()
        lines.append(json.dumps({"image": name}) if number != 11 else "no line of a manifest")
    (folder / "m.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "m.jsonl"


def job(data: Path, **options) -> Job:
    return Job(str(data), "image", {"verb": "count", "options": options}, SIZE)


def rows_of(items, first: int) -> list[dict]:
    return [
        {"key": one.key, "error": one.reason} if isinstance(one, BadRecord) else {"key": one.key, "place": first + n}
        for n, one in enumerate(items)
    ]


def run(data: Path, folder: Path, ranks: Ranks = ALONE, rows=rows_of, silence: float = leases.SILENCE, **options):
    with Leases(folder / "leases", silence) as held:
        plan = open_job(folder, job(data, **options), held, lambda: {"weights": 1})
        return work(plan, Parts(folder), held, lambda shard: plan.items(shard, "image", ("png",)), rows, ranks)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*"))}


@contextmanager
def processes(*actions):
    """A process for each action; their ids. Those that are left are killed in the end."""
    children = []
    for action in actions:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                action()
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    try:
        yield children
    finally:
        for child in children:
            try:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            except (ProcessLookupError, ChildProcessError):
                pass


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def assert_complete(data: Path, folder: Path, undisturbed: Path) -> None:
    """Each item of the list has one row, in order; all is as if nothing had happened, and nothing is left over."""
    rows = [json.loads(line) for part in content(folder).values() for line in part.splitlines()]
    named = [f"{number}.png" if number != 11 else "m.jsonl:12" for number in range(40)]
    assert [row["key"] for row in rows] == named
    assert [row["place"] for row in rows if "error" not in row] == [number for number in range(40) if number != 11]
    assert content(folder) == content(undisturbed)
    assert not list(folder.glob("leases/*"))
    assert sorted(path.name for path in (folder / "done").iterdir()) == [f"{n:05d}.json" for n in range(6)]


@pytest.fixture
def data(tmp_path) -> Path:
    return manifest(tmp_path / "data")


@pytest.fixture
def undisturbed(tmp_path, data) -> Path:
    totals = run(data, tmp_path / "undisturbed")
    assert (totals.shards, totals.done, totals.rows, totals.failed) == (6, 6, 40, 1)
    return tmp_path / "undisturbed"


# ---- kills


def test_killed_at_any_call_of_the_system_it_is_gone_on_with(tmp_path, data, undisturbed):
    """Every call that changes a file is the last one of some process; the next one goes on with what it left."""

    def dying(folder: Path, calls: int) -> None:
        left = itertools.count(calls, -1)
        for name in ("open", "write", "fsync", "link", "replace", "unlink", "mkdir"):
            own = getattr(os, name)

            def call(*arguments, own=own, **keywords):
                if next(left) == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return own(*arguments, **keywords)

            setattr(os, name, call)
        run(data, folder)

    for calls in itertools.count():
        folder = tmp_path / "runs" / str(calls)
        with processes(lambda: dying(folder, calls)) as (child,):  # noqa: B023 - it is used at once
            code = ended(child)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        run(data, folder, silence=0.05)  # a lease without a name has no owner that could be known to be dead
        for left in [*folder.glob(".*.tmp"), *folder.glob("done/.*.tmp")]:
            left.unlink()  # of the killed process; no reader takes it for a part
        assert_complete(data, folder, undisturbed)
    assert calls > 50


def test_ranks_come_and_go_at_random(tmp_path, data, undisturbed):
    """Three processes at first, of which one is killed at a random moment and then all, six times."""
    draw, folder = random.Random(0), tmp_path / "run"

    def slowly(items, first):
        time.sleep(0.02)
        return rows_of(items, first)

    def rank(number: int, world: int):
        return lambda: run(data, folder, Ranks(number, world), slowly, silence=0.5)

    for _ in range(6):
        with processes(*(rank(number, 3) for number in range(3))) as children:
            time.sleep(draw.uniform(0, 0.06))
            os.kill(draw.choice(children), signal.SIGKILL)
            time.sleep(draw.uniform(0, 0.03))
    world = 5
    with processes(*(rank(number, world) for number in range(world))) as children:
        assert [ended(child) for child in children] == [0] * world
    for left in folder.rglob(".*.tmp"):
        left.unlink()
    assert_complete(data, folder, undisturbed)


def test_every_shard_is_done_once_by_processes_that_live(tmp_path, data, undisturbed):
    """With more processes than shards, and without kills, nobody does what another one does."""
    log = tmp_path / "log"

    def logged(items, first):
        with open(log, "a") as file:
            file.write(f"{first}\n")
        time.sleep(0.05)
        return rows_of(items, first)

    ranks = [Ranks(number, 8) for number in range(8)]
    with processes(*(lambda own=own: run(data, tmp_path / "run", own, logged) for own in ranks)) as children:
        assert [ended(child) for child in children] == [0] * 8
    assert sorted(map(int, log.read_text().split())) == [0, 7, 14, 21, 28, 35]
    assert_complete(data, tmp_path / "run", undisturbed)


# ---- leases


def test_a_lease_has_one_owner(tmp_path):
    """Each looks, as soon as it has the lease, for the marks of others."""

    def taking():
        until = time.monotonic() + 0.4
        with Leases(tmp_path / "leases") as held:
            while time.monotonic() < until:
                with held.take("one") as ours:
                    if ours:
                        os.mkdir(tmp_path / "mark")  # FileExistsError beside another owner
                        os.rmdir(tmp_path / "mark")

    with processes(*[taking] * 4) as children:
        assert [ended(child) for child in children] == [0] * 4


def owner(folder: Path, writing: int, silence: float) -> None:
    with Leases(folder, silence) as held, held.take("one") as ours:
        assert ours
        os.write(writing, b"!")
        time.sleep(600)


def test_a_dead_owner_is_noticed_at_once_and_a_living_one_left_alone(tmp_path):
    reading_end, writing = os.pipe()
    with processes(lambda: owner(tmp_path, writing, 0.3)) as (child,), Leases(tmp_path, 0.3) as held:
        os.read(reading_end, 1)
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            with held.take("one") as ours:
                assert not ours
            time.sleep(0.02)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with Leases(tmp_path, 600) as held, held.take("one") as ours:
        assert ours


def test_a_stopped_owner_and_one_of_another_machine_are_silent(tmp_path, monkeypatch):
    reading_end, writing = os.pipe()
    with processes(lambda: owner(tmp_path, writing, 60)) as (child,), Leases(tmp_path, 0.2) as held:
        os.read(reading_end, 1)
        os.kill(child, signal.SIGSTOP)
        (tmp_path / "two").write_text("the name of another machine")
        for name in ("one", "two"):
            with held.take(name) as ours:
                assert not ours  # it may have given a sign of life just now
        time.sleep(0.3)
        for name in ("one", "two"):
            with held.take(name) as ours, Leases(tmp_path, 600).take(name) as others:
                assert ours and not others


def test_one_that_was_taken_for_dead_neither_writes_nor_ends_the_other_lease(tmp_path, data, undisturbed):
    """Both do the shard. The first to publish it wins, and what is said of it is of its bytes."""
    second_done, folder = threading.Event(), tmp_path / "run"

    def late(items, first):
        second_done.wait(20)
        return [{"key": one.key, "late": True} for one in items]

    first = threading.Thread(target=lambda: run(data, folder, rows=late, silence=1000))
    first.start()
    while not list(folder.glob("leases/00000")):
        time.sleep(0.01)
    assert run(data, folder, silence=0.1).done == 6
    second_done.set()
    first.join()
    assert_complete(data, folder, undisturbed)


def test_of_many_that_publish_one_file_one_does(tmp_path):
    begin = threading.Barrier(8)
    won = []

    def publishing(number):
        begin.wait()
        if create(tmp_path / "part", str(number).encode() * 1000):
            won.append(number)

    threads = [threading.Thread(target=publishing, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and (tmp_path / "part").read_bytes() == str(won[0]).encode() * 1000
    assert os.listdir(tmp_path) == ["part"]


def test_without_links_a_file_is_not_replaced_either(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refused)
    assert create(tmp_path / "part", b"one") and not create(tmp_path / "part", b"two")
    assert (tmp_path / "part").read_bytes() == b"one" and os.listdir(tmp_path) == ["part"]


# ---- damage


def cut(part: Path, note: Path):
    part.write_bytes(part.read_bytes()[:-5])


def flipped(part: Path, note: Path):
    part.write_bytes(part.read_bytes().replace(b'"place": 8', b'"place": 9'))


def emptied(part: Path, note: Path):
    part.write_bytes(b"")


def unsaid_and_cut(part: Path, note: Path):
    note.unlink()
    part.write_bytes(part.read_bytes()[:-5])


@pytest.mark.parametrize(
    "damage",
    [cut, flipped, emptied, unsaid_and_cut, lambda part, note: part.unlink(), lambda part, note: note.unlink(),
     lambda part, note: note.write_text("{"), lambda part, note: note.write_text("[]")],
)  # fmt: skip
def test_what_is_damaged_is_made_anew(tmp_path, data, undisturbed, damage):
    run(data, tmp_path / "run")
    damage(tmp_path / "run/part-00001.jsonl", tmp_path / "run/done/00001.json")
    assert run(data, tmp_path / "run").done == 6
    assert_complete(data, tmp_path / "run", undisturbed)


def test_a_damaged_plan_is_refused(tmp_path, data):
    for text in ("{", "[]", '{"shards": 3}', ""):
        folder = tmp_path / f"run{len(text)}"
        run(data, folder)
        (folder / "job.json").write_text(text)
        with pytest.raises(ValueError, match=r"job.json is damaged .*choose another folder"):
            run(data, folder)


# ---- which job it is


def test_another_job_is_refused_by_the_name_of_what_differs(tmp_path, data):
    folder = tmp_path / "run"
    run(data, folder, beams=2)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"another job \(options: beams was 2, now 3\)"):
        run(data, folder, beams=3)
    with Leases(folder / "leases") as held:
        with pytest.raises(ValueError, match=r"another job \(model: weights was 1, now 2\)"):
            open_job(folder, job(data, beams=2), held, lambda: {"weights": 2})
        other = Job(str(data), "image", {"verb": "count", "options": {"beams": 2}}, 8)
        with pytest.raises(ValueError, match="shard_size was 7, now 8"):
            open_job(folder, other, held, lambda: {"weights": 1})
        other = Job(str(data), "image", {"verb": "tell", "options": {"stop": ["a", "b"], "pack": True}}, 7)
        words = "verb was count, now tell; options: beams was 2, now not given, stop was not given, now a, b, pack was "
        with pytest.raises(ValueError, match=f"{words}not given, now on") as told:
            open_job(folder, other, held, lambda: {"weights": 1})
        assert not set('{}"[]') & set(str(told.value)), "it is for people"
    os.utime(data, (1, 1))
    with pytest.raises(ValueError, match=r"\(data: data/m.jsonl has changed since\)"):
        run(data, folder, beams=2)
    with open(data, "a") as file:
        file.write('{"image": "0.png"}\n')
    with pytest.raises(ValueError, match=r"data: data/m.jsonl had [\d,]+ bytes, now [\d,]+\)"):
        run(data, folder, beams=2)
    os.rename(data, tmp_path / "data" / "n.jsonl")
    with pytest.raises(ValueError, match=r"\(data: data/m.jsonl is not given now, data/n.jsonl is new\)"):
        run(tmp_path / "data" / "n.jsonl", folder, beams=2)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_is_published_of_a_list_that_was_written_again_meanwhile(tmp_path, data, undisturbed):
    whole, state = data.read_bytes(), data.stat()

    def rewriting(items, first: int) -> list[dict]:
        if first >= 2 * SIZE:
            data.write_bytes(whole.replace(b"20.png", b"21.png"))
        return rows_of(items, first)

    with pytest.raises(UnreachableError, match="m.jsonl has changed since: what was read of it meanwhile is not kept"):
        run(data, tmp_path / "run", rows=rewriting)
    assert list(content(tmp_path / "run")) == ["part-00000.jsonl", "part-00001.jsonl"]
    data.write_bytes(whole)
    os.utime(data, ns=(state.st_mtime_ns, state.st_mtime_ns))
    run(data, tmp_path / "run")
    assert content(tmp_path / "run") == content(undisturbed)


def test_the_same_list_elsewhere_is_the_same_job(tmp_path, data, undisturbed):
    """As where another machine has mounted the folder under another name."""
    run(data, tmp_path / "run")
    (tmp_path / "mounted").mkdir()
    os.rename(tmp_path / "data", tmp_path / "mounted/data")
    assert run(tmp_path / "mounted/data/m.jsonl", tmp_path / "run").done == 6


def test_a_folder_of_something_else_is_refused(tmp_path, data):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").touch()
    with pytest.raises(ValueError, match="holds files of something else: choose another folder"):
        run(data, tmp_path / "run")


def test_a_model_is_not_loaded_for_a_list_that_cannot_be_read(tmp_path, data):
    def loads():
        raise AssertionError("it is loaded")

    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with tarfile.open(tmp_path / "cut.tar", "w") as tar:
        tar.add(tmp_path / "data/0.png", "0.png")
    (tmp_path / "cut.tar").write_bytes((tmp_path / "cut.tar").read_bytes()[:600])
    with Leases(tmp_path / "run/leases") as held:
        for name, message in (("empty.jsonl", "no records"), ("cut.tar", "truncated"), ("gone", "no file matches")):
            with pytest.raises((ValueError, OSError), match=message):
                open_job(tmp_path / "run", job(tmp_path / name), held, loads)
    assert not (tmp_path / "run/job.json").exists()


# ---- what lies in a shard


@given(
    lines=st.lists(st.text(st.sampled_from("aé漢😀 \u2028\x85"), max_size=9), max_size=12),
    ending=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be"]),
    size=st.integers(1, 5),
    order=st.randoms(use_true_random=False),
    last=st.booleans(),
)
def test_pieces_of_a_manifest_are_the_manifest(tmp_path_factory, lines, ending, encoding, size, order, last):
    path = tmp_path_factory.mktemp("manifest") / "m.jsonl"
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    path.write_bytes(mark + (ending.join(lines) + ending * last).encode(encoding))
    pieces = list(pieces_of_jsonl(path, size))
    order.shuffle(pieces)
    found = {piece.before: list(lines_of_jsonl(path, piece)) for piece in pieces}
    expected = [(f"m.jsonl:{number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    joined = [line for before in sorted(found) for line in found[before]]
    assert [(where, line.rstrip("\n")) for where, line in joined] == expected
    assert all(piece.count == size for piece in pieces if piece.before != max(found)) if found else not expected


@pytest.mark.parametrize("world", [1, 2, 3, 8, 50])
def test_ranks_share_all_shards(world):
    for shards in (0, 1, 7, 40):
        owned = [list(Ranks(rank, world).own(shards)) for rank in range(world)]
        assert sorted(itertools.chain(*owned)) == list(range(shards))
        assert max(map(len, owned)) - min(map(len, owned)) <= 1
        for rank in range(world):
            order = Ranks(rank, world).order(shards)
            assert order[: len(owned[rank])] == owned[rank] and sorted(order) == list(range(shards))


def test_ranks_are_those_of_the_environment(monkeypatch):
    assert Ranks.of_environment() == Ranks(0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert Ranks.of_environment() == Ranks(2, 3)
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(ValueError, match="ranks begin at 0"):
        Ranks.of_environment()


def test_items_of_each_format_with_their_questions(tmp_path):
    (tmp_path / "a.png").touch()
    lines = {
        '{"image": "a.png", "question": "what?"}': ("what?",),
        '{"file_name": "a.png", "qa": [{"question": "one"}, ["two", "x"]]}': ("one", "two"),
        '{"image": "a.png", "audio": "gone.wav"}': (),
        '{"image": "gone.png"}': "no picture at",
        '{"audio": "a.png"}': "names no file",
        '{"image": "a.png", "question": 3}': "a question is missing",
        '{"image": "a.png", "qa": 3}': '"qa" is not a list',
        '{"image": 3}': "names no file",
        "{": "unreadable JSON",
        '{"image": ["a.png"], "conversations": []}': "a conversation or a document: in tars",
    }
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(lines))
    (piece,) = reading.pieces(path, 100)
    found = reading.items(path, piece, "image", ("png",))
    keys = ["a.png", "a.png", "a.png", "gone.png", *(f"m.jsonl:{line}" for line in (5,)), "a.png", "a.png"]
    assert [one.key for one in found] == [*keys, "m.jsonl:8", "m.jsonl:9", "m.jsonl:10"]
    for one, expected in zip(found, lines.values(), strict=True):
        if isinstance(expected, str):
            assert isinstance(one, BadRecord) and expected in one.reason
        else:
            assert isinstance(one, Item) and one.questions == expected and one.place.path == tmp_path / "a.png"


def test_a_tar_is_read_in_pieces_by_its_samples(tmp_path):
    members = {"a.png": b"1", "a.json": b'{"question": "what?"}', "b.txt": b"", "c.png": b"2", "c.jpg": b"3"}
    members |= {"d.mp4": b"4", "e.0.jpg": b"5", "e.json": b"{}"}  # the last is how conversations are converted
    for name, data in members.items():
        (tmp_path / name).write_bytes(data)
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w") as tar:
        for name in members:
            tar.add(tmp_path / name, name)
    pieces = list(reading.pieces(path, 3))
    assert [piece.count for piece in pieces] == [3, 2]
    found = [one for piece in pieces for one in reading.items(path, piece, "image", ("png", "jpg", "mp4"))]
    a, b, c, d, e = found
    assert (a.key, a.name, a.place.read(), a.questions) == ("t.tar/a", "t.tar/a.png", b"1", ("what?",))
    assert (b.key, b.reason) == ("t.tar/b", "no picture in txt")
    assert (c.key, c.reason) == ("t.tar/c", "2 pictures in png, jpg")
    assert (d.key, d.name, d.place.read()) == ("t.tar/d", "t.tar/d.mp4", b"4")
    assert (e.key, e.name, e.place.read()) == ("t.tar/e", "t.tar/e.0.jpg", b"5")


@pytest.mark.parametrize("name, content", [("a.parquet", ""), ("q.json", '{"questions": []}')])
def test_other_formats_are_refused_with_what_converts_them(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name}.*mmlm data convert"):
        run(tmp_path / name, tmp_path / "out")


def test_a_coco_file_is_read_in_pieces_by_its_pictures(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").touch()
    images = [{"id": number, "file_name": f"{number}.png"} for number in range(3)]
    captions = [{"image_id": number, "caption": "a"} for number in range(3)]
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"images": images, "annotations": captions}))
    pieces = list(reading.pieces(path, 2))
    found = [one for piece in pieces for one in reading.items(path, piece, "image", ())]
    assert [one.key for one in found] == ["0.png", "1.png", "2.png"] and [piece.count for piece in pieces] == [2, 1]


@pytest.mark.parametrize("annotations", [{"annotations": []}, {}], ids=["no captions", "no list of captions"])
def test_pictures_of_a_coco_file_need_no_captions(tmp_path, annotations):
    (tmp_path / "a.png").touch()
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "gone.png"}, {"id": 3}]
    (tmp_path / "c.json").write_text(json.dumps({"images": images, **annotations}))
    assert run(tmp_path / "c.json", tmp_path / "out").rows == 3
    rows = [json.loads(line) for line in (tmp_path / "out/part-00000.jsonl").read_text().splitlines()]
    assert {row["key"]: "error" in row for row in rows} == {
        "a.png": False, "c.json image 2": True, "c.json images[3]": True}  # fmt: skip


def test_what_lies_beside_a_picture_under_another_name_is_not_its_row(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name in ("a.png", "a.depth.png", "b.0.png", "c.0.png", "c.1.png"):
            tar.addfile(tarfile.TarInfo(name))
    (piece,) = reading.pieces(tmp_path / "t.tar", 9)
    found = reading.items(tmp_path / "t.tar", piece, "image", ("png",))
    assert [(one.name if isinstance(one, Item) else one.reason[:10]) for one in found] == [
        "t.tar/a.png", "t.tar/b.0.png", "2 pictures"]  # fmt: skip


def test_a_full_disk_is_told_with_the_file_and_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="part-00000.jsonl cannot be written.*goes on"):
        patch.setattr(os, "fsync", full)
        Parts(tmp_path).publish(0, [{"key": "a"}])
    assert not list(tmp_path.iterdir())
    data = manifest(tmp_path / "data")
    assert run(data, tmp_path / "out").rows == 40


def test_names_that_are_no_text_are_still_json(tmp_path):
    (tmp_path / "done").mkdir()
    Parts(tmp_path).publish(0, [{"key": "caf\udce9.png", "caption": "a\u2028b ☕"}])
    (row,) = (tmp_path / "part-00000.jsonl").read_bytes().decode("utf-8").split("\n")[:-1]
    assert json.loads(row) == {"key": "caf\udce9.png", "caption": "a\u2028b ☕"} and "☕" in row
