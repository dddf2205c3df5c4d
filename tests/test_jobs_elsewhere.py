"""Jobs on tars at addresses: the rows of the same tars on this machine, whatever the network and the processes do."""

import hashlib
import itertools
import json
import os
import signal
import tarfile
from pathlib import Path

import fsspec
import pytest
import soundfile
from PIL import Image

from encoders.media.sound import SAMPLE_RATE
from mmlm.cli import main
from mmlm.data.records import BadRecord
from mmlm.data.streams import Shard, UnreachableError, shards
from mmlm.jobs import Ranks, remote
from support.hearing import noise, save_whisper, tiny_whisper
from support.site import site
from test_jobs import ALONE, content, ended, processes, run
from test_streams import tar_of
from test_video import film

PIECES = 3  # shards of the job: the first tar has two


@pytest.fixture
def tars(tmp_path) -> Path:
    """Two tars of nine and five samples: with questions, without a picture, empty, larger than a block."""
    folder = tmp_path / "tars"
    folder.mkdir()
    for tar, count in enumerate((9, 4)):
        members = {}
        for number in range(count):
            media = os.urandom(500 + 300 * number)
            members |= {f"{number}.png": media, f"{number}.json": json.dumps({"question": f"{number}?"}).encode()}
        members |= {"2.json": b"no json", "1.png": b"", "3.png": os.urandom(remote.BLOCK + 9)}
        members["4.txt"] = members.pop("0.png")
        (folder / f"{tar}.tar").write_bytes(tar_of(dict(sorted(members.items()))))
    return folder


@pytest.fixture
def web(tars):
    pytest.importorskip("aiohttp", reason="needs aiohttp, by which fsspec reads https://")
    with site(tars) as running:
        yield running


@pytest.fixture(params=["memory", "http"])
def address(request, tars) -> str:
    """Where the same tars lie elsewhere."""
    if request.param == "http":
        return request.getfixturevalue("web").url("{0,1}.tar")
    memory = fsspec.filesystem("memory")
    for path in tars.glob("*.tar"):
        memory.pipe(f"/{tars}/{path.name}", path.read_bytes())
    return f"memory://{tars}/*.tar"


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    """Blocks that another test has read are those of other tars; pauses are short."""
    remote._block.cache_clear()
    monkeypatch.setattr(shards, "PAUSES", (0.001,) * 6)


def rows_of(items, first: int) -> list[dict]:
    """The bytes of each item, as their digest."""
    return [
        {"key": one.key, "error": one.reason}
        if isinstance(one, BadRecord)
        else {
            "key": one.key, "name": one.name, "place": first + n, "questions": one.questions,
            "bytes": hashlib.sha256(one.place.read()).hexdigest(),
        }
        for n, one in enumerate(items)
    ]  # fmt: skip


def work(data: Path | str, folder: Path, ranks: Ranks = ALONE):
    return run(data, folder, ranks, rows_of)


@pytest.fixture
def here(tars, tmp_path) -> dict[str, bytes]:
    """The parts of the job on the tars of this machine."""
    totals = work(tars / "*.tar", tmp_path / "here")
    assert (totals.shards, totals.rows, totals.failed) == (PIECES, 14, 5)
    return content(tmp_path / "here")


def written(folder: Path) -> bytes:
    """All that a job has written: names and contents."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return b"\n".join(str(path).encode() + b"\n" + path.read_bytes() for path in files)


# ---- the same rows


@pytest.mark.parametrize("block", [100, 1000, 1 << 20])
def test_rows_are_those_of_the_same_tars_here(tars, here, address, tmp_path, monkeypatch, block):
    monkeypatch.setattr(remote, "BLOCK", block)
    assert work(address, tmp_path / "there").rows == 14
    assert content(tmp_path / "there") == here


def test_a_tar_is_read_once_for_its_index_and_then_in_pieces(tars, here, web, tmp_path):
    folder = tmp_path / "there"
    work(web.url("{0,1}.tar"), folder)
    indexes = {path: path.read_bytes() for path in (folder / "index").iterdir()}
    assert len(indexes) == 2
    sizes = {f"/{path.name}": path.stat().st_size for path in tars.glob("*.tar")}
    for path in folder.glob("part-00002*"):
        path.unlink()
    web.asked.clear()
    remote._block.cache_clear()
    work(web.url("{0,1}.tar"), folder)
    assert content(folder) == here
    assert indexes == {path: path.read_bytes() for path in (folder / "index").iterdir()}
    read = [(path, [int(end) for end in piece[6:].split("-")]) for way, path, piece in web.asked if way == "GET"]
    assert {path for path, _ in read} == {"/1.tar"}
    assert sum(end - start + 1 for _, (start, end) in read) < 2 * sizes["/1.tar"]  # it has a member of a block
    assert len(read) <= 4  # for 9 members


def test_several_processes_share_it(tars, here, address, tmp_path):
    ranks = [Ranks(number, 3) for number in range(3)]
    with processes(*(lambda own=own: work(address, tmp_path / "there", own) for own in ranks)) as children:
        assert [ended(child) for child in children] == [0] * 3
    assert content(tmp_path / "there") == here and not list(tmp_path.glob("there/leases/*"))


# ---- kills, networks, changes


def test_killed_at_any_read_it_is_gone_on_with(tars, here, address, tmp_path):
    """Each look at a tar is the last one of some process."""

    def dying(folder: Path, reads: int) -> None:
        left = itertools.count(reads, -1)

        def counted(way):
            def call(self, *arguments):
                if next(left) == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return way(self, *arguments)

            return call

        remote._block.cache_clear()
        remote.BLOCK = 1000
        Shard.read, Shard.open = counted(Shard.read), counted(Shard.open)
        work(address, folder)

    for reads in itertools.count():
        folder = tmp_path / "runs" / str(reads)
        with processes(lambda: dying(folder, reads)) as (child,):  # noqa: B023 - it is used at once
            code = ended(child)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        # By a process of its own: a fork shares the connections of one that has any, and may end them.
        with processes(lambda: work(address, folder)) as (child,):  # noqa: B023
            assert ended(child) == 0
        assert content(folder) == here
        assert len(list((folder / "index").glob("*.index"))) == 2  # what was half-written is removed after an hour
    assert reads > 20


@pytest.mark.parametrize("begun", [False, True], ids=["while it is indexed", "while it is worked on"])
def test_an_unreachable_tar_ends_the_process_and_no_item_has_its_error(here, web, tmp_path, monkeypatch, begun):
    way, calls = ("read" if begun else "open"), itertools.count()
    plain = getattr(Shard, way)

    def break_off(self, *arguments):
        web.down = next(calls) > 0
        return plain(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(UnreachableError, match=r"\d.tar cannot be read") as told:
        patch.setattr(Shard, way, break_off)
        work(web.url("{0,1}.tar"), tmp_path / "there")
    assert "\n" not in str(told.value) and web.url("") in str(told.value)
    assert b"cannot be read" not in written(tmp_path / "there")
    with pytest.raises(FileNotFoundError, match=r"no shard at .*/0.tar \(of .*Server disconnected"):
        work(web.url("{0,1}.tar"), tmp_path / "there")
    web.down = False
    assert work(web.url("{0,1}.tar"), tmp_path / "there").failed == 5
    assert content(tmp_path / "there") == here


@pytest.mark.parametrize("way", ["open", "read"])
@pytest.mark.parametrize("status", [500, 503, 429, 408, None])
def test_a_server_that_fails_now_and_then_is_asked_again(here, web, tmp_path, monkeypatch, caplog, way, status):
    """Before each tar is indexed, or each piece is read, twice: by an answer, or by a broken connection."""
    plain, failed = getattr(Shard, way), []
    if status is None:
        monkeypatch.setattr(shards, "PAUSES", _Repairing(web))

    def failing(self, *arguments):
        if way == "read" or self not in failed:
            # Two tars are opened at once, each by two requests of which the second makes up for the first.
            web.failing, web.status, web.down = (0, 0, True) if status is None else (4, status, False)
            failed.append(self)
        return plain(self, *arguments)

    monkeypatch.setattr(Shard, way, failing)
    assert work(web.url("{0,1}.tar", user="alice:passport@"), tmp_path / "there").failed == 5
    assert content(tmp_path / "there") == here
    told = [record.getMessage() for record in caplog.records if "read again" in record.getMessage()]
    assert (
        len(told) >= (len(failed) if way == "read" else 1) and "passport" not in "".join(told) and ".tar: " in told[0]
    )


class _Repairing:
    """Pauses, after each of which a server is there again."""

    def __init__(self, web):
        self.web = web

    def __iter__(self):
        for _ in range(6):
            yield 0.001
            self.web.down = False


@pytest.mark.parametrize("status", [401, 403, 404, 410, 416])
def test_what_is_forbidden_or_gone_is_asked_for_once(here, web, tmp_path, monkeypatch, status):
    plain = Shard.read

    def refusing(self, *arguments):
        web.failing, web.status = 1, status
        return plain(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(UnreachableError, match="cannot be read any more"):
        patch.setattr(Shard, "read", refusing)
        work(web.url("{0,1}.tar"), tmp_path / "there")
    assert web.failing == 0
    assert work(web.url("{0,1}.tar"), tmp_path / "there").failed == 5


def test_a_tar_that_was_written_again_is_refused_in_the_words_of_files(tars, here, address, tmp_path):
    def rewrite(data: bytes) -> None:
        (tars / "1.tar").write_bytes(data)
        fsspec.filesystem("memory").pipe(f"/{tars}/1.tar", data)

    whole = (tars / "1.tar").read_bytes()
    work(address, tmp_path / "there")
    before = written(tmp_path / "there")
    rewrite(whole[:600] + bytes([whole[600] ^ 1]) + whole[601:])
    with pytest.raises(ValueError, match=r"another job \(data: \S+/1.tar has changed since\)"):
        work(address, tmp_path / "there")
    rewrite(whole + bytes(512))
    with pytest.raises(ValueError, match=rf"/1.tar had {len(whole):,} bytes, now {len(whole) + 512:,}\)"):
        work(address, tmp_path / "there")
    rewrite(whole)
    with pytest.raises(ValueError, match=r"data: \S+/0.tar is not given now.*, \S+/1.tar is not given now, .* is new"):
        work(address.replace("{0,1}", "1").replace("*", "1"), tmp_path / "there")
    assert written(tmp_path / "there") == before


def test_nothing_is_published_of_a_tar_that_was_written_again_meanwhile(tars, address, tmp_path):
    """Though the server is asked once in ten seconds, and most of the tar was read before."""
    other = tar_of({f"{number}.png": os.urandom(500) for number in range(9)})

    def rewriting(items, first: int) -> list[dict]:
        found = rows_of(items, first)
        (tars / "0.tar").write_bytes(other)
        fsspec.filesystem("memory").pipe(f"/{tars}/0.tar", other)
        return found

    with pytest.raises(UnreachableError, match=r"/0.tar had [\d,]+ bytes, now [\d,]+: what was read of it meanwhile"):
        run(address, tmp_path / "there", ALONE, rewriting)
    assert content(tmp_path / "there") == {}


def test_a_server_that_tells_times_alone_is_believed(tars, web, tmp_path):
    web.version = "Last-Modified"
    work(web.url("{0,1}.tar"), tmp_path / "there")
    os.utime(tars / "1.tar", (1, 1))
    with pytest.raises(ValueError, match=r"/1.tar has changed since"):
        work(web.url("{0,1}.tar"), tmp_path / "there")


def test_a_tar_that_is_cut_or_not_given_in_pieces_is_one_line(tars, web, tmp_path):
    (tars / "large.tar").write_bytes(tar_of({"a.png": bytes(6 << 20)}))
    (tars / "cut.tar").write_bytes((tars / "1.tar").read_bytes()[:-20_000])
    messages = {
        "cut.tar": (ValueError, "cut.tar is damaged .*truncated"),
        "1.tar": (OSError, "1.tar: its server gives no piece of it, but the whole"),
        "large.tar": (OSError, "large.tar cannot be read .*support range requests"),
    }
    for name, (kind, message) in messages.items():
        web.pieces = name == "cut.tar"
        with pytest.raises(kind, match=message) as told:
            work(web.url(name), tmp_path / name)
        assert "\n" not in str(told.value) and not content(tmp_path / name)


@pytest.mark.parametrize("name", ["m.jsonl", "{a,b}.jsonl", "captions.json"])
def test_lists_at_addresses_are_refused(tmp_path, name):
    for address in (f"memory://bucket/{name}", f"s3://bucket/{name}", f"https://user:word@example.com/{name}?token=1"):
        with pytest.raises(ValueError, match="read on this machine alone; of addresses, tars are read") as told:
            work(address, tmp_path / "out")
        assert not [secret for secret in ("user", "token") if secret in str(told.value)]
    assert not (tmp_path / "out/job.json").exists()


# ---- secrets


def test_secrets_of_an_address_are_neither_written_nor_told(tars, here, web, tmp_path):
    """Neither a password nor what an address is signed with; who gives others goes on."""
    web.secret = "alice:pass%word"
    data, folder = web.url("{0,1}.tar?token=signature", user="alice:pass%25word@"), tmp_path / "there"
    secrets = ("alice", "pass", "token", "signature")
    work(data, folder)
    assert content(folder) == here
    assert not [one for one in secrets if one.encode() in written(folder)]
    assert web.url("0.tar") in json.loads((folder / "job.json").read_text())["data"].popitem()[0].replace(
        "1.tar", "0.tar"
    )

    def told(kind: type[Exception], address: str = data) -> str:
        with pytest.raises(kind) as caught:
            work(address, folder)
        assert not [one for one in secrets if one in str(caught.value)], str(caught.value)
        return str(caught.value)

    assert "401" in told(FileNotFoundError, web.url("{0,1}.tar?token=signature", user="alice:passport@"))
    assert "404" in told(FileNotFoundError, data.replace("{0,1}", "gone"))
    assert "holds another job" in told(ValueError, data.replace("{0,1}", "1"))
    told(ValueError, f"memory::{data}")
    (folder / "part-00002.jsonl").unlink()
    web.secret = "bob:builder"
    work(web.url("{0,1}.tar?token=other", user="bob:builder@"), folder)
    assert content(folder) == here
    (folder / "part-00002.jsonl").unlink()
    remote._block.cache_clear()

    def expired(items, first):
        web.secret = "nobody:any more"
        return rows_of(items, first)

    with pytest.raises(UnreachableError, match="401") as caught:
        run(web.url("{0,1}.tar?token=other", user="bob:builder@"), folder, rows=expired)
    assert not [one for one in (*secrets, "bob", "builder", "other") if one in str(caught.value)]


# ---- the command line


def rows(output: Path) -> list[dict]:
    return [json.loads(line) for part in sorted(output.glob("part-*")) for line in part.read_text().splitlines()]


@pytest.fixture
def pictures(tars) -> Path:
    """Six pictures in a tar, one of which is no picture and one of which is cut."""
    with tarfile.open(tars / "p.tar", "w") as tar:
        for number in range(6):
            path = tars / f"{number}.png"
            Image.new("RGB", (48, 48), (40 * number, 90, 200)).save(path)
            if number in (2, 3):
                path.write_bytes(path.read_bytes()[: 40 * (number - 2)] or b"no picture")
            tar.add(path, f"{number}.png")
    return tars / "p.tar"


def test_captions_of_pictures_elsewhere(pictures, web, nano, loaded, tmp_path, capsys, monkeypatch):
    """Pictures that are damaged have a row with the reason; a server that goes away ends the command, which goes on."""
    more = ["--shard-size", "2", "--batch-size", "2", "--max-new-tokens", "4"]
    assert main(["caption", "--data", str(pictures), "--output", str(tmp_path / "here"), *more]) == 1
    there = ["caption", "--data", web.url("p.tar", "user:password@"), "--output", str(tmp_path / "there"), *more]
    plain, calls = Shard.read, itertools.count()

    def break_off(self, *arguments):
        web.down = next(calls) > 1
        return plain(self, *arguments)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(remote, "BLOCK", 100)
        patch.setattr(Shard, "read", break_off)
        assert main(there) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mmlm caption: http://127.0.0.1") and line.endswith("again, the same call goes on")
    assert "p.tar cannot be read any more (" in line and "password" not in line
    assert not [row for row in rows(tmp_path / "there") if "cannot be read" in row.get("error", "")]
    web.down = False
    assert main(there) == 1 and content(tmp_path / "there") == content(tmp_path / "here")
    assert sum("error" in row for row in rows(tmp_path / "there")) == 2
    assert "password" not in capsys.readouterr().err


def test_answers_about_pictures_elsewhere(tars, pictures, nano, loaded, tmp_path):
    """Sorted by the length of their questions, so read in another order than they lie."""
    with tarfile.open(pictures, "a") as tar:
        for number in range(6):
            (tars / "q.json").write_text(json.dumps({"question": "is it red?" + " or blue?" * (number * 5 % 6)}))
            tar.add(tars / "q.json", f"{number}.json")
    fsspec.filesystem("memory").pipe(f"/{tars}/p.tar", pictures.read_bytes())
    for name, data in {"here": str(pictures), "there": f"memory://{tars}/p.tar"}.items():
        more = ["--batch-size", "2", "--max-new-tokens", "3"]
        assert main(["answer", "--data", data, "--output", str(tmp_path / name), *more]) == 1
    assert content(tmp_path / "there") == content(tmp_path / "here") and len(rows(tmp_path / "there")) == 6


def test_transcripts_of_recordings_elsewhere(tars, web, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("encoders.transcription.transcriber.COMPRESSION_RATIO", 1e9)  # noise needs no second try
    ears = str(save_whisper(tiny_whisper(sharpness=3.0), tmp_path / "whisper.pt"))
    for number in range(3):
        soundfile.write(tars / f"{number}.wav", noise(1.0 + number, seed=number), SAMPLE_RATE)
    (tars / "bad.wav").write_text("not sound")
    with tarfile.open(tars / "t.tar", "w") as tar:
        for name in ("0.wav", "1.wav", "bad.wav", "2.wav"):
            tar.add(tars / name, name)

    def transcribe(data: str, name: str) -> int:
        more = ["--model", ears, "--language", "en", "--shard-size", "3"]
        return main(["transcribe", "--data", data, "--output", str(tmp_path / name), *more])

    assert transcribe(str(tars / "t.tar"), "here") == 1

    def gone(self, *arguments, plain=Shard.read):
        web.down = True
        return plain(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Shard, "read", gone)
        assert transcribe(web.url("t.tar"), "there") == 2
    assert "t.tar cannot be read any more" in capsys.readouterr().err and not content(tmp_path / "there")
    web.down = False
    assert transcribe(web.url("t.tar"), "there") == 1
    assert content(tmp_path / "there") == content(tmp_path / "here") and "text" in rows(tmp_path / "there")[3]


def test_films_elsewhere_are_watched(tars, nano, loaded, tmp_path):
    film(tars / "film.mp4")
    with tarfile.open(tars / "f.tar", "w") as tar:
        tar.add(tars / "film.mp4", "film.mp4")
    fsspec.filesystem("memory").pipe(f"/{tars}/f.tar", (tars / "f.tar").read_bytes())
    for name, data in {"here": str(tars / "f.tar"), "there": f"memory://{tars}/f.tar"}.items():
        assert main(["caption", "--data", data, "--output", str(tmp_path / name), "--max-new-tokens", "3"]) == 0
    assert content(tmp_path / "there") == content(tmp_path / "here")


def test_without_a_folder_for_the_rows_an_address_is_refused(loaded, capsys):
    assert main(["caption", "--data", "https://user:word@example.com/a.tar"]) == 2
    told = capsys.readouterr().err
    assert "tars there are read" in told and "--output" in told and "word@" not in told
