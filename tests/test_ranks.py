"""Several processes, as `torchrun` and `accelerate launch` start them, train what one process trains."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from support import together
from support.training_objectives import metrics, picture_folder

TESTS = Path(__file__).parent
# accelerate starts processes of a machine's CPUs by MPI alone; without --cpu it is torchrun, with options of its own.
ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--mixed_precision=no", "--dynamo_backend=no"]


def python(*arguments: str | Path) -> str:
    """What a command said."""
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr


class Runs(NamedTuple):
    """Folders of what the processes made, and what they said."""

    two: Path
    four: Path
    killed: Path
    said: str


@pytest.fixture(scope="module")
def runs(one, tmp_path_factory) -> Runs:
    """What several processes make of each scenario; first those that need models from before they are joined."""
    folders = [tmp_path_factory.mktemp(name) for name in Runs._fields[:3]]
    picture_folder(folders[0])
    two, four, killed = folders
    at_step_4(one / "plain_llama", two / "sharded_resumed")
    names = "codes,adapters,without_media,preferences,rewards,values,samples,on_policy,refused,stopped"
    in_parts = "sharded,sharded_resumed,texts_alone_sharded,prefix_sharded,muon_of_parts"
    launches = [f"2:0:{two}:{names},{in_parts}", f"4:0:{four}:adapters,sharded", f"2:1:{killed}:killed"]
    return Runs(*folders, python(TESTS / "support/together.py", "launch", *launches))


@pytest.fixture(scope="module")
def two(runs) -> Path:
    return runs.two


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """The same in this process alone."""
    folder = tmp_path_factory.mktemp("one")
    scenarios = (
        together.codes, together.adapters, together.without_media,
        together.preferences, together.rewards, together.values, together.samples, together.on_policy,
    )  # fmt: skip
    for scenario in (*scenarios, together.plain_llama, together.texts_alone, together.prefix):
        scenario(folder / scenario.__name__)
    return folder


def at_step_4(run: Path, folder: Path) -> Path:
    """A copy of a run of six steps as it was after step 4."""
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "checkpoints/step-00000006")
    assert [place.name for place in (folder / "checkpoints").iterdir()] == ["step-00000004"]
    return folder


def figures(run: Path) -> list[dict]:
    return [{key: value for key, value in line.items() if "per_second" not in key} for line in metrics(run)]


def assert_same_run(one: Path, other: Path) -> None:
    """Figures of each step to 1e-4 (as sums over processes are rounded), and what was saved to 1e-5 on average.

    Adam divides a gradient by its own size: where it is nothing but rounding, a single weight may move by more.
    """
    for first, second in zip(metrics(one), metrics(other), strict=True):
        first, second = (
            {key: value for key, value in line.items() if "per_second" not in key} for line in (first, second)
        )
        assert first == pytest.approx(second, rel=1e-4, abs=1e-8)
    saved, also = (load_file(folder / "model/model.safetensors") for folder in (one, other))
    assert saved.keys() == also.keys()
    for name, tensor in saved.items():
        apart = (also[name] - tensor).abs()
        assert apart.square().mean().sqrt() <= 1e-5 and apart.max() <= 1e-4, name


@pytest.mark.parametrize(
    "scenario", ["adapters", "codes", "without_media", "preferences", "rewards", "values", "samples", "on_policy"]
)
def test_two_processes_train_what_one_trains(one, two, scenario):
    assert_same_run(one / scenario, two / scenario)


def test_four_processes_train_what_one_trains(one, runs):
    """15 examples in shares of 4, 4, 4 and 3."""
    assert len([*(runs.four / "adapters/features").rglob("*.safetensors")]) == 8, "of four processes, for two sets"
    assert_same_run(one / "adapters", runs.four / "adapters")


def test_processes_of_accelerate_train_what_one_trains(one, tmp_path):
    """Started by a command line, as torchrun's are behind it."""
    command = [*ACCELERATE, "--num_machines=1", "--num_processes=2", TESTS / "support/together.py"]
    python("-m", *command, tmp_path, "adapters")
    assert len([*(tmp_path / "adapters/features").rglob("*.safetensors")]) == 4, "of two processes, for two sets"
    assert_same_run(one / "adapters", tmp_path / "adapters")


@pytest.mark.parametrize("processes", [2, 4])
def test_a_model_in_parts_trains_what_a_whole_one_trains(one, runs, processes):
    """Each process keeps its share of the language model, of the gated blocks and of their moments."""
    run = {2: runs.two, 4: runs.four}[processes] / "sharded"
    assert_same_run(one / "plain_llama", run)
    kept = [json.loads((run / f"kept-{rank}.json").read_text()) for rank in range(processes)]
    frozen, trained = together.sizes_of_llama()
    for part, whole in {"frozen": frozen, "trained": trained, "exp_avg": trained, "exp_avg_sq": trained}.items():
        assert {name: sum(own[part][name] for own in kept) for name in whole} == whole
        shares = {name: max(own[part][name] for own in kept) for name in whole}
        assert shares == {name: math.ceil(numel / processes) for name, numel in whole.items()}


def test_a_run_in_parts_goes_on_in_one_process(one, two, tmp_path):
    folder = at_step_4(two / "sharded", tmp_path / "run")
    together.plain_llama(folder)
    assert_same_run(one / "plain_llama", folder)


def test_a_run_of_one_process_goes_on_in_parts(one, two):
    assert_same_run(one / "plain_llama", two / "sharded_resumed")


def test_a_process_without_media_keeps_no_others_waiting_for_its_parts(one, two):
    """Where none has media, the attention to them learns as little as in a single process."""
    assert_same_run(one / "texts_alone", two / "texts_alone_sharded")
    given = [json.loads((two / f"texts_alone_sharded/given-{rank}.json").read_text()) for rank in (0, 1)]
    assert {frozenset(step) for step in zip(*given, strict=True)} == {
        frozenset({True}), frozenset({False}), frozenset({True, False}),
    }  # fmt: skip


def test_prefixes_and_lora_train_beside_a_model_in_parts(one, two):
    assert_same_run(one / "prefix", two / "prefix_sharded")


def test_features_are_computed_once_by_whichever_process(one, two):
    folders = [next((folder / "adapters/features").iterdir()) for folder in (one, two)]
    tensors = [[load_file(file) for file in folder.glob("*.safetensors")] for folder in folders]
    assert len(tensors[0]) == 2 and len(tensors[1]) == 4, "each set in one shard, and in one of each process"
    alone, shared = ({key: value for part in parts for key, value in part.items()} for parts in tensors)
    assert sum(map(len, tensors[1])) == len(shared) == len(alone)
    assert all(torch.equal(shared[key], value) for key, value in alone.items())


def test_all_stop_where_one_is_told_to_and_go_on_as_if_nothing_had_been(two):
    assert metrics(two / "stopped") == metrics(two / "adapters")
    saved, also = ((two / name / "model/model.safetensors").read_bytes() for name in ("stopped", "adapters"))
    assert saved == also


def test_a_run_of_two_processes_goes_on_in_one(one, two, tmp_path):
    folder = shutil.copytree(two / "stopped-there", tmp_path / "adapters")
    assert [place.name for place in (folder / "checkpoints").iterdir()] == ["step-00000005"]
    together.adapters(folder)
    assert_same_run(one / "adapters", folder)


def test_after_a_process_is_killed_all_begin_again_from_the_last_checkpoint(two, runs):
    assert (runs.killed / "killed-once").exists() and "going on from step 4 of 6" in runs.said
    assert metrics(runs.killed / "killed") == metrics(two / "adapters")
    saved, also = (folder / "model/model.safetensors" for folder in (runs.killed / "killed", two / "adapters"))
    assert saved.read_bytes() == also.read_bytes()


def test_every_process_is_told_what_is_wrong(two):
    codec, few = json.loads((two / "refused/told-0.json").read_text())
    assert "trained by one process, not by 2" in codec and "too few for 2 processes" in few
    assert json.loads((two / "refused/told-1.json").read_text()) == [codec, few]
