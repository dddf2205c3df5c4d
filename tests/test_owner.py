"""An output folder belongs to one process at a time, and a dead one owns nothing."""

import errno
import logging
import os
import re
import signal
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from mmlm.training import owner, train_from_recipe
from mmlm.training.owner import owned
from support.training_objectives import CASES, picture_folder


@contextmanager
def another_process(folder: Path):
    """Its id, while it owns the folder; it is killed at the end, if it has not been before."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with owned(folder):
            os.write(writing, b"!")
            time.sleep(600)
        os._exit(0)
    assert os.read(reading, 1) == b"!"
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("name", CASES)
def test_a_second_run_is_refused_by_name_and_takes_over_from_the_dead(name, tmp_path):
    case, output = CASES[name], tmp_path / "run"
    picture_folder(tmp_path)
    with another_process(output) as process:
        words = (
            rf"{output} belongs to a run .*process {process} on {socket.gethostname()}, since 20\d\d-\d\d-\d\d \d\d:"
        )
        with pytest.raises(OSError, match=words):
            case.train(case.build(), output, steps=1)
        assert os.listdir(output) == [owner.NAME]  # nothing of the second run
    assert case.train(case.build(), output, steps=1).steps == 1
    assert not (output / owner.NAME).exists()


def test_a_recipe_is_refused_before_it_reads_data(tmp_path):
    folder = picture_folder(tmp_path)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"codec: {{image: {{size: 16, downsample: 8}}}}\ndata: {folder}\noutput: {tmp_path}/run\nsteps: 1\n"
    )
    with another_process(tmp_path / "run") as process, pytest.raises(OSError, match=f"process {process} on"):
        train_from_recipe(recipe, [f"data={tmp_path}/gone"], progress=False)
    with pytest.raises(FileNotFoundError):
        train_from_recipe(recipe, [f"data={tmp_path}/gone"], progress=False)


def test_a_thread_is_refused_and_a_block_within_is_not(tmp_path):
    found = []

    def second():
        try:
            with owned(tmp_path):
                found.append("owns")
        except OSError as error:
            found.append(str(error))

    with owned(tmp_path), owned(tmp_path / "x" / ".."):  # the same folder
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        assert re.search(f"process {os.getpid()} on", found[0])
    second()
    assert found[1] == "owns" and not list(tmp_path.iterdir())


def test_of_many_at_once_one_owns(tmp_path):
    """Each looks, as soon as it owns the folder, for the marks of others; and the folder comes and goes meanwhile."""
    place, children = tmp_path / "made" / "run", []
    for _ in range(4):
        child = os.fork()
        children.append(child)
        if child == 0:
            code, until = 1, time.monotonic() + 1.0
            try:
                while time.monotonic() < until:
                    try:
                        with owned(place):
                            os.mkdir(place / "mark")  # FileExistsError beside another owner
                            os.rmdir(place / "mark")
                    except OSError as error:
                        assert "belongs to a run" in str(error), error
                code = 0
            finally:
                os._exit(code)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4


def test_a_folder_that_was_made_for_nothing_is_removed(tmp_path):
    with owned(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not list(tmp_path.iterdir())
    with owned(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
    assert list((tmp_path / "a" / "b").iterdir()) == [tmp_path / "a" / "b" / "file"]


def test_where_files_cannot_be_locked_the_log_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(owner, "fcntl", None)
    with caplog.at_level(logging.WARNING), owned(tmp_path), owned(tmp_path):
        pass
    assert "cannot be locked (the system has no flock)" in caplog.text and not list(tmp_path.iterdir())


def test_a_full_disk_is_told_with_the_folder(tmp_path):
    with pytest.raises(OSError, match="run cannot be written to .No space left.*: make room"), owned(tmp_path / "run"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_error_in_the_block_gives_the_folder_back(tmp_path):
    with pytest.raises(KeyError), owned(tmp_path):
        raise KeyError
    with another_process(tmp_path):
        pass
