"""Over how many threads the steps of an engine are split."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mmlm.serving.threads import settle_threads


def slow_by(seconds: dict[int, float]):
    """Work that takes so many seconds with so many threads."""
    return lambda: time.sleep(seconds[torch.get_num_threads()])


@pytest.fixture
def four():
    """Four threads, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({1: 0.004, 2: 0.02, 4: 0.04}, 1),
        ({1: 0.04, 2: 0.02, 4: 0.005}, 4),
        ({1: 0.04, 2: 0.01, 4: 0.01}, 2),  # as fast, and the rest of the cores are free
        ({1: 0.04, 2: 0.005, 4: 0.02}, 2),
    ],
)
def test_the_fewest_threads_that_are_fastest(four, seconds, chosen):
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(settle_threads, slow_by(seconds)).result() == chosen
        assert thread.submit(torch.get_num_threads).result() == chosen


def test_other_threads_keep_their_own(four):
    begun, go_on, found = threading.Event(), threading.Event(), []

    def earlier() -> None:
        torch.get_num_threads()
        begun.set()
        go_on.wait(10)
        found.append(torch.get_num_threads())

    before = threading.Thread(target=earlier)
    before.start()
    begun.wait(10)
    settled = threading.Thread(target=settle_threads, args=(slow_by({1: 0.001, 2: 0.01, 4: 0.01}),))
    settled.start()
    settled.join()
    go_on.set()
    before.join()
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == 4
    assert found == [4] and torch.get_num_threads() == 4


def test_threads_that_begin_meanwhile_and_others_that_settle_meanwhile(four):
    found: list[int] = []

    def watched(seconds: dict[int, float]):
        def work() -> None:
            with ThreadPoolExecutor(1) as beside:
                found.append(beside.submit(torch.get_num_threads).result())
            time.sleep(seconds[torch.get_num_threads()])

        return work

    with ThreadPoolExecutor(2) as threads:
        settled = [threads.submit(settle_threads, watched(own)) for own in ({1: 0.002, 2: 0.02, 4: 0.02},) * 2]
        assert [one.result() for one in settled] == [1, 1]
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == 4
    assert set(found) == {4}


def test_work_that_fails_leaves_everything_as_it_was(four):
    def broken() -> None:
        raise RuntimeError("no memory")

    with ThreadPoolExecutor(1) as thread:
        with pytest.raises(RuntimeError, match="no memory"):
            thread.submit(settle_threads, broken).result()
        assert thread.submit(torch.get_num_threads).result() == 4
