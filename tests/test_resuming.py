"""The laws of the trainer, for every objective: a stopped run goes on as if it had never stopped, and nothing but its
own run is ever continued."""

import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch

from mmlm.training import NonFiniteLossError, trainer
from mmlm.training.checkpoint import latest_checkpoint
from mmlm.training.objectives.codec import CodecObjective
from mmlm.training.objectives.decoder import DecoderObjective
from support.training_objectives import CASES, assert_equal, at_step, metrics, picture_folder, poison, tiny_records


@pytest.fixture(autouse=True)
def no_plot(monkeypatch):
    """Which is slow beside such runs, and tested elsewhere."""
    monkeypatch.setattr(trainer, "plot_losses", lambda *args: None)


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


class Killed(BaseException):
    """Ends a run as a kill would: nothing in the trainer catches it."""


def ends(output: Path) -> tuple[dict, dict, dict]:
    found = latest_checkpoint(output / "checkpoints")
    return found.weights, found.optimizer, found.state["progress"]


def assert_same_run(one: Path, other: Path) -> None:
    """The last checkpoints, with all moments and moving averages, and all metrics agree bit for bit."""
    (weights, moments, progress), (weights_too, moments_too, progress_too) = ends(one), ends(other)
    assert_equal(weights, weights_too)
    assert_equal(moments, moments_too)
    assert progress == progress_too
    lines = [[{k: v for k, v in line.items() if "_per_second" not in k} for line in metrics(o)] for o in (one, other)]
    assert lines[0] == lines[1]


def test_stopped_by_ctrl_c_and_resumed_it_is_the_same_run(case, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    straight, stopped = case.build(), case.build()
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    case.train(straight, tmp_path / "a")
    with monkeypatch.context() as patch:
        at_step(patch, case, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            case.train(stopped, tmp_path / "b")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert latest_checkpoint(tmp_path / "b" / "checkpoints").state["step"] == 3  # the step was finished
    case.train(stopped, tmp_path / "b")  # with the model as it is; the tests below go on with a new one
    assert f"going on from step 3 of 6 in {tmp_path / 'b'}" in caplog.text
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert_equal(case.weights(straight), case.weights(stopped))


def test_killed_while_it_saves_it_goes_on_from_the_checkpoint_before(case, tmp_path, monkeypatch):
    case.train(case.build(), tmp_path / "a", save_every=2)
    rename = Path.rename

    def dying(self, target):
        if "step-00000004" in str(target):
            raise Killed
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying)
        with pytest.raises(Killed):
            case.train(case.build(), tmp_path / "b", save_every=2)
    assert latest_checkpoint(tmp_path / "b" / "checkpoints").state["step"] == 2
    case.train(case.build(), tmp_path / "b", save_every=2)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    left = sorted(path.name for path in (tmp_path / "b" / "checkpoints").iterdir())
    assert left == ["step-00000004", "step-00000006"]


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(case, tmp_path, caplog):
    case.train(case.build(), tmp_path / "a", save_every=4)
    case.train(case.build(), tmp_path / "b", save_every=4)
    newest = latest_checkpoint(tmp_path / "b" / "checkpoints").folder
    state = json.loads((newest / "state.json").read_text())
    state["progress"]["step"] = 7  # valid JSON of a run that never was
    (newest / "state.json").write_text(json.dumps(state, indent=1))
    case.train(case.build(), tmp_path / "b", save_every=4)
    assert f"{newest} is damaged (state.json changed after it was written)" in caplog.text
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_weights_that_are_not_finite_are_never_saved(case, tmp_path, monkeypatch):
    """The loss and its gradient were finite, and the step was not: the good checkpoint stays, and the run goes on."""
    case.train(case.build(), tmp_path / "a", save_every=2)
    step, calls = torch.optim.AdamW.step, []

    def overflowing(self, *args):
        found = step(self, *args)
        calls.append(1)
        if len(calls) == 4:
            self.param_groups[0]["params"][0].data.view(-1)[0] = math.inf
        return found

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", overflowing)
        with pytest.raises(NonFiniteLossError, match=r"at step 4 these are not finite: "):
            case.train(case.build(), tmp_path / "b", save_every=2, eval_every=100)
    assert [path.name for path in (tmp_path / "b" / "checkpoints").iterdir()] == ["step-00000002"]
    assert not any((tmp_path / "b" / name).exists() for name in ("model", "codec", "decoder"))
    case.train(case.build(), tmp_path / "b", save_every=2)
    assert_equal(ends(tmp_path / "a")[0], ends(tmp_path / "b")[0])


def test_another_number_of_threads_is_said_and_not_refused(tmp_path, caplog, monkeypatch):
    case = CASES["any loss"]
    with monkeypatch.context() as patch:
        at_step(patch, case, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit):
            case.train(case.build(), tmp_path)
    before = latest_checkpoint(tmp_path / "checkpoints").state["threads"]
    assert before == torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        case.train(case.build(), tmp_path)
    finally:
        torch.set_num_threads(before)
    assert f"the run used {before} threads until here, and now {before + 1}" in caplog.text
    caplog.clear()
    case.train(case.build(), tmp_path)  # finished: nothing is computed any more
    assert "threads until here" not in caplog.text


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(case, tmp_path, monkeypatch, what):
    """Not the weights, nor the moments, nor what the forward pass itself moves, such as a codebook."""
    how = {
        "loss": lambda loss: loss * math.nan,
        "gradient": lambda loss: loss + (loss - loss.detach()).abs().sqrt(),  # 0, with an infinite slope
    }[what]
    with monkeypatch.context() as patch:
        at_step(patch, case, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit):
            case.train(case.build(), tmp_path)
    before = latest_checkpoint(tmp_path / "checkpoints")
    weights, moments = before.weights, before.optimizer
    with monkeypatch.context() as patch:
        poison(patch, case, {3}, how)
        at_step(patch, case, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(SystemExit):
            case.train(case.build(), tmp_path)
    after = latest_checkpoint(tmp_path / "checkpoints")
    assert after.state["step"] == 4 and after.state["progress"]["skipped"] == 1
    assert_equal(after.weights, weights)
    assert_equal(after.optimizer, moments)
    assert case.train(case.build(), tmp_path).skipped == 1


def test_a_quantizer_that_refuses_what_is_not_finite_is_a_skipped_step(tmp_path, monkeypatch):
    case, model = CASES["codec"], CASES["codec"].build()
    encode, calls = model.encoder.forward, []

    def overflowing(media):
        calls.append(1)
        return encode(media) * (math.nan if len(calls) == 2 else 1)

    monkeypatch.setattr(model.encoder, "forward", overflowing)
    assert case.train(model, tmp_path, eval_every=6).skipped == 1
    assert all(tensor.isfinite().all() for tensor in case.weights(model).values())


def test_many_in_a_row_stop_the_run_with_good_weights_saved(case, tmp_path, monkeypatch):
    poison(monkeypatch, case, range(2, 9), lambda loss: loss * math.nan)
    with pytest.raises(NonFiniteLossError, match="3 steps in a row, up to step 5"):
        case.train(case.build(), tmp_path, max_skipped=3)
    weights, _, progress = ends(tmp_path)
    assert progress["skipped"] == 3
    assert all(tensor.isfinite().all() for tensor in weights.values() if tensor.is_floating_point())


def test_another_run_is_refused_before_anything_is_touched(case, tmp_path):
    case.train(case.build(), tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    other_data = tiny_records(19) if case is CASES["adapters"] else picture_folder(tmp_path, seed=1)
    for model, change, words in (
        (case.build(seed=7), {}, "starting_weights"),
        (case.build(), {"learning_rate": 3e-3}, "learning_rate was 0.01, now 0.003"),
        (case.build(), {"seed": 3}, "seed was 0, now 3"),
        (case.build(), {"steps": 7}, "steps was 6, now 7"),
        (case.build(), {"data": other_data}, "data was"),
    ):
        before, modes = case.weights(model), [part.training for part in model.modules()]
        wanted = [parameter.requires_grad for parameter in model.parameters()]
        with pytest.raises(ValueError, match=f"holds a run with other settings.*{words}") as error:
            case.train(model, tmp_path / "run", **change)
        if "seed" not in change:  # which draws the critic's weights
            assert ("starting_weights" in str(error.value)) == (words == "starting_weights")
        assert_equal(case.weights(model), before)
        assert [part.training for part in model.modules()] == modes
        assert [parameter.requires_grad for parameter in model.parameters()] == wanted
        assert (tmp_path / "run" / "metrics.jsonl").read_text() == lines
    again = case.build(seed=7)
    case.train(again, tmp_path / "run", resume=False)  # a new run in the same folder, if that is asked for
    assert latest_checkpoint(tmp_path / "run" / "checkpoints").state["progress"]["step"] == 6


def test_settings_that_make_no_difference_may_change(case, tmp_path, monkeypatch):
    first, second = case.build(), case.build()
    free = {"log_every": 1, "eval_every": 2, "save_every": 3, "keep": 1, "max_skipped": 9}
    if case.objective in (CodecObjective, DecoderObjective):
        free |= {"preview_every": 2}
    result = case.train(first, tmp_path)
    monkeypatch.setattr(case.objective, "parts", lambda self, step: pytest.fail("no step is left"))
    assert case.train(second, tmp_path, **free) == result
    assert_equal(case.weights(first), case.weights(second))


def test_measuring_and_saving_change_nothing(case, tmp_path):
    often, never = case.build(), case.build()
    case.train(often, tmp_path / "often", eval_every=1, save_every=1, log_every=1)
    case.train(never, tmp_path / "never", eval_every=6)
    assert_equal(case.weights(often), case.weights(never))


def test_the_callers_random_state_is_left_alone(case, tmp_path):
    model = case.build()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    case.train(model, tmp_path, steps=1)
    assert torch.equal(torch.rand(3), expected)


def test_metrics_have_no_number_that_json_has_not(case, tmp_path, monkeypatch):
    poison(monkeypatch, case, {0, 1}, lambda loss: loss * math.nan)
    case.train(case.build(), tmp_path, log_every=1)
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "metrics.jsonl").open()]
    assert lines[-1]["step"] == 6 and any(line.get("loss", 0) is None for line in lines)
