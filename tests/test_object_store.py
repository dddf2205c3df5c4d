"""Tars in an object store: runs and jobs end as on the same files, and what is wrong is one line with a way out."""

import itertools
import os
import signal

import pytest

from mmlm.data.streams import Shard, UnreachableError, find_shards
from mmlm.jobs import remote
from mmlm.training import Trainer
from support.bucket import bucket
from support.training_objectives import added, assert_equal, metrics, tiny_model
from test_jobs import content, ended, processes
from test_jobs_elsewhere import work
from test_streams import members, streamed, tar_of

ADDRESS = "s3://bucket/x-{000..003}.tar"


@pytest.fixture
def tars(tmp_path):
    """x-000.tar to x-003.tar, the third of them without a record."""
    folder, start = tmp_path / "tars", 0
    folder.mkdir()
    for number, count in enumerate((5, 4, 0, 6)):
        (folder / f"x-{number:03}.tar").write_bytes(tar_of(members(start, count)))
        start += count
    return folder


@pytest.fixture
def store(tars, monkeypatch):
    """The same tars in s3://bucket."""
    with bucket(monkeypatch, tars) as client:
        yield client


def dying(kind, name: str, calls: int):
    """The method of a class, which from now on kills the process when it is called once more than this."""
    plain, counted = getattr(kind, name), itertools.count()

    def call(self, *arguments):
        if next(counted) == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, *arguments)

    setattr(kind, name, call)


def killed(action) -> int:
    with processes(action) as (child,):
        return ended(child)


def test_a_run_that_was_killed_ends_as_the_one_on_files(tars, store, tmp_path):
    def run() -> None:
        dying(Trainer, "step", 3)
        streamed(tiny_model(), ADDRESS, tmp_path / "there", save_every=1)

    assert killed(run) == -signal.SIGKILL
    here, there = tiny_model(), tiny_model()
    streamed(there, ADDRESS, tmp_path / "there", save_every=1)
    streamed(here, f"{tars}/x-{{000..003}}.tar", tmp_path / "here", save_every=1)
    assert_equal(added(here), added(there))
    assert metrics(tmp_path / "here") == metrics(tmp_path / "there")
    store.put_object(Bucket="bucket", Key="x-001.tar", Body=tar_of(members(90, 4)))
    with pytest.raises(ValueError, match="data was"):
        streamed(tiny_model(), ADDRESS, tmp_path / "there", save_every=1)


def test_a_job_that_was_killed_ends_with_the_rows_of_files(tars, store, tmp_path):
    def job() -> None:
        remote.BLOCK = 1000
        dying(Shard, "read", 9)
        work(ADDRESS, tmp_path / "there")

    assert killed(job) == -signal.SIGKILL
    work(ADDRESS, tmp_path / "there")
    work(f"{tars}/x-{{000..003}}.tar", tmp_path / "here")
    assert content(tmp_path / "here") == content(tmp_path / "there")
    store.put_object(Bucket="bucket", Key="x-001.tar", Body=tar_of(members(90, 4)))
    with pytest.raises(ValueError, match=r"s3://bucket/x-001.tar (has changed since|had [\d,]+ bytes)"):
        work(ADDRESS, tmp_path / "there")


def test_an_object_that_was_replaced_is_seen_by_the_process_that_listed_it(store):
    before = find_shards("s3://bucket/x-*.tar")
    store.put_object(Bucket="bucket", Key="x-001.tar", Body=tar_of(members(90, 4)))
    after = find_shards("s3://bucket/x-*.tar")
    assert [one.version == own.version for one, own in zip(before, after, strict=True)] == [True, False, True, True]


def test_an_object_that_is_gone_is_asked_for_once(store, caplog):
    shard = find_shards(ADDRESS)[1]
    store.delete_object(Bucket="bucket", Key="x-001.tar")
    with pytest.raises(UnreachableError, match=r"^s3://bucket/x-001.tar cannot be read any more .* the same call goes"):
        shard.read(0, 512)
    assert "read again" not in caplog.text
    with pytest.raises(FileNotFoundError, match=r"no shard at s3://bucket/x-001.tar \(of s3://bucket/x-{000..003}.tar"):
        find_shards(ADDRESS)


@pytest.mark.parametrize(
    "address, environment, kind, words",
    [
        ("s3://other/x-{000..003}.tar", {}, FileNotFoundError, "no shard at s3://other/x-000.tar .*bucket does not"),
        ("s3://other/x-*.tar", {}, FileNotFoundError, r"no shard at s3://other/x-\*.tar .*bucket does not exist"),
        ("s3://bucket/y-*.tar", {}, FileNotFoundError, r"no shard at s3://bucket/y-\*.tar"),
        (ADDRESS, {"AWS_ACCESS_KEY_ID": None, "HOME": "/nowhere"}, OSError, "NoCredentials.*finds credentials: "),
        (ADDRESS, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, OSError, "Could not connect.*its host answers"),
    ],
    ids=["no bucket", "no bucket, a pattern", "nothing of this name", "no credentials", "nobody answers"],
)
def test_what_cannot_be_found_is_one_line_that_says_what_to_do(store, monkeypatch, address, environment, kind, words):
    for name, value in environment.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(kind, match=words) as told:
        find_shards(address)
    assert "\n" not in str(told.value)
