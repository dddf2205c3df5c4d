"""Checkpoints: damage anywhere is noticed and named, the one before takes its place, and none holds NaN."""

import json
import logging
import math
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmlm.training import NonFiniteLossError
from mmlm.training.checkpoint import (
    FILES,
    check_finite,
    latest_checkpoint,
    remove_checkpoints,
    remove_leftovers,
    save_checkpoint,
)
from support.training_objectives import CASES


def save(folder: Path, step: int, keep: int = 2) -> Path:
    state = {"progress": {"step": step, "loss_sum": 1.5}, "threads": 1}
    return save_checkpoint(folder, step, {"w": torch.full((3,), float(step))}, {"m.w": torch.ones(3)}, state, keep)


def test_a_flipped_bit_of_the_newest_is_noticed_and_the_one_before_is_used(tmp_path, caplog):
    save(tmp_path, 8)
    newest = save(tmp_path, 9)
    names = {path.name for path in newest.iterdir()}
    assert names == {"model.safetensors", "optimizer.safetensors", "state.json", "SHA256SUMS"}
    for path in newest.iterdir():
        whole = path.read_bytes()
        for bit in range(0, len(whole) * 8, 7):  # each of the 8 in turn
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            caplog.clear()
            assert latest_checkpoint(tmp_path).state["step"] == 8
            assert f"{newest} is damaged ({path.name} changed" in caplog.text or path.name == "SHA256SUMS"
        path.write_bytes(whole)
    found = latest_checkpoint(tmp_path)
    assert found.state["step"] == 9 and torch.equal(found.weights["w"], torch.full((3,), 9.0))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "SHA256SUMS"])
def test_a_file_that_is_missing_or_cut_is_named(tmp_path, name, caplog):
    save(tmp_path, 8)
    file = save(tmp_path, 9) / name
    file.write_bytes(file.read_bytes()[:-1])
    assert latest_checkpoint(tmp_path).state["step"] == 8
    file.unlink()
    with caplog.at_level(logging.WARNING):
        assert latest_checkpoint(tmp_path).state["step"] == 8
    assert f"{name} cannot be read (No such file" in caplog.text


def test_the_sums_are_those_of_sha256sum(tmp_path):
    place = save(tmp_path, 3)
    done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count(": OK") == 3


def test_damaged_ones_do_not_count_as_kept(tmp_path):
    """A run that goes on from an older one leaves as many whole ones as before."""
    for step in (2, 4, 6):
        save(tmp_path, step, keep=3)
    for step in (4, 6):
        (tmp_path / f"step-{step:08d}" / "state.json").write_text("{}")
    assert latest_checkpoint(tmp_path).state["step"] == 2
    save(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


@pytest.mark.parametrize("action", ["saving", "starting anew"])
def test_a_kill_while_old_ones_are_deleted_leaves_whole_ones_alone(tmp_path, action, monkeypatch):
    """A folder that is deleted file by file must not look like a checkpoint meanwhile."""
    for step in (2, 4):
        save(tmp_path, step, keep=2)
    deleted = []

    def killed(place, **_):
        deleted.append(place)
        (place / "state.json").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr("mmlm.training.checkpoint.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 6, keep=2) if action == "saving" else remove_checkpoints(tmp_path)
    assert deleted
    monkeypatch.undo()
    whole = {"saving": ["step-00000004", "step-00000006"], "starting anew": []}[action]
    assert sorted(path.name for path in tmp_path.glob("step-*")) == whole
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == whole


def test_all_damaged_is_an_error_that_names_each(tmp_path):
    for step in (1, 2):
        (save(tmp_path, step) / "state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"all .* damaged \(step-00000002: state.json .*; step-00000001: state.json"):
        latest_checkpoint(tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_and_moments_that_are_not_finite_are_named(tmp_path, value):
    good, bad = torch.ones(3), torch.tensor([1.0, value])
    check_finite({"w": good}, {"mask": torch.tensor([0.0, -math.inf]), "count": torch.tensor(3)}, 4, tmp_path)
    with pytest.raises(NonFiniteLossError, match=r"at step 4 these are not finite: exp_avg_sq.w;"):
        check_finite({"w": good, "exp_avg_sq.w": bad}, {}, 4, tmp_path)
    with pytest.raises(NonFiniteLossError, match="not finite: average;"):
        check_finite({"w": good}, {"average": torch.tensor(math.nan)}, 4, tmp_path)


# Checkpoints of whoever writes checksums too


def other(section: str, **values: object) -> Callable[[dict], object]:
    """A state with other values in one section."""
    return lambda state: {**state, section: {**state[section], **values}}


HUGE = 10**30
STATES: dict[str, Callable[[dict], object]] = {
    "no object": lambda state: [state],
    "nothing": lambda state: {},
    "deep": lambda state: "[" * 100_000,
    "a huge step": lambda state: {**state, "step": HUGE, "progress": {**state["progress"], "step": HUGE}},
    "another step": other("progress", step=5),
    "a step of text": other("progress", step="6"),
    "more steps than the run has": other("identity", steps=5),
    "steps of text": other("identity", steps="6"),
    "no identity": lambda state: {**state, "identity": None},
    "a precision that is none": other("identity", precision=["float32"]),
    "starting weights of text": other("identity", starting_weights={"0.weight": "1"}),
    "weights in a list": lambda state: {**state, "weights": [1, 2]},
    "huge weights": lambda state: {**state, "weights": dict.fromkeys(state["weights"], 10**400)},
    "a count below zero": other("progress", count=-3),
    "a sum of text": other("progress", loss_sum="1"),
    "figures in a list": other("progress", figures=[1]),
    "figures of text": other("progress", figures={"held_out_loss": "x"}),
    "a loss of text": other("progress", last_loss="low"),
    "unknown progress": other("progress", **{"__class__": "x"}),
    "threads of text": lambda state: {**state, "threads": "all"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run that is done, and a call that goes on from it."""
    case, output = CASES["any loss"], tmp_path_factory.mktemp("run")
    case.train(case.build(), output)
    return output, lambda: case.train(case.build(), output)


def test_a_run_that_goes_on_removes_what_a_kill_left(run):
    """It was killed after its last checkpoint was there, and before it removed the oldest."""
    output, go_on = run
    last = output / "checkpoints/step-00000006"
    for step in (1, 2):
        shutil.copytree(last, last.with_name(f"step-0000000{step}"))
    go_on()
    assert sorted(place.name for place in last.parent.iterdir()) == ["step-00000002", "step-00000006"]  # two are kept
    shutil.rmtree(last.with_name("step-00000002"))


@contextmanager
def changed(output: Path, file: str, change: Callable[[Path], object]) -> Iterator[None]:
    """While a file of the last checkpoint is another, with checksums that agree."""
    place = output / "checkpoints/step-00000006"
    kept = {path.name: path.read_bytes() for path in place.iterdir()}
    change(place / file)
    (place / "SHA256SUMS").write_bytes(subprocess.check_output(["sha256sum", *FILES], cwd=place))
    try:
        yield
    finally:
        for name, data in kept.items():
            (place / name).write_bytes(data)


@pytest.mark.parametrize("name", STATES)
def test_a_state_that_no_run_has_written_is_refused(run, name):
    output, go_on = run

    def change(path: Path) -> None:
        found = STATES[name](json.loads(path.read_text()))
        path.write_text(found if isinstance(found, str) else json.dumps(found))

    refused = pytest.raises(ValueError, match=r"state.json is (none of a run|damaged)")
    with changed(output, "state.json", change), refused:
        go_on()
    go_on()


TENSORS: dict[str, Callable[[dict[str, torch.Tensor], str], dict[str, torch.Tensor]]] = {
    "a single value": lambda tensors, name: {**tensors, name: torch.zeros(1, 1)},
    "far more values": lambda tensors, name: {**tensors, name: torch.zeros(1000, 1000)},
    "another name": lambda tensors, name: {f"{key}.": value for key, value in tensors.items()},
}


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_are_not_the_runs_are_refused(run, file, name):
    """One of a single value would be spread over a whole parameter; without its moments the run would be another."""
    output, go_on = run

    def change(path: Path) -> None:
        tensors = load_file(path)
        first = next(key for key, value in tensors.items() if value.ndim == 2)
        save_file(TENSORS[name](tensors, first), path)

    with (
        changed(output, file, change),
        pytest.raises(ValueError, match=r"no .* of the shape|has the shape|belongs to no parameter"),
    ):
        go_on()


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors"])
def test_a_file_of_tensors_that_is_none_is_a_plain_error(run, file):
    output, go_on = run
    damaged = pytest.raises(ValueError, match=f"{file} is damaged")
    with changed(output, file, lambda path: path.write_bytes(bytes(100))), damaged:
        go_on()
