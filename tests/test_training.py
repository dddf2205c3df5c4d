"""Training: only adapters move, the gradient is that of the mean over answer tokens, a resumed run is the same run."""

import dataclasses
import json
import math
import os
import signal
import sys
import textwrap
import typing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image as PilImage
from safetensors.torch import load_file

import mmlm
from encoders.base import Features
from encoders.clip import ClipImageEncoder
from mmlm.assembly.assemble import assemble
from mmlm.data import BadRecordsError, FileSlice, Record, RecordSet, read_records
from mmlm.data.media import Pictures
from mmlm.data.sampling import ExampleStream
from mmlm.model.config import DEFAULTS, FusionConfig, ResamplerConfig
from mmlm.training import (
    NonFiniteLossError,
    TrainConfig,
    load_recipe,
    plan_from_recipe,
    precision,
    train,
    train_from_recipe,
    trainer,
)
from mmlm.training.checkpoint import latest_checkpoint, save_checkpoint
from mmlm.training.config import TrainerConfig, TrainSettings
from mmlm.training.examples import Examples
from mmlm.training.features import cached_features
from mmlm.training.gradient import Gradient
from mmlm.training.identity import digest, sketch
from mmlm.training.model_recipe import AudioResampler, ImageResampler
from mmlm.training.muon import Muon
from mmlm.training.objectives.adapters import AdaptersObjective
from mmlm.training.optimizer import hidden_matrices, learning_rate, make_optimizers
from mmlm.training.pairs import read_pairs
from mmlm.training.rows import batch_of
from support import parts
from support.families import language_model, tokenizer
from support.training_objectives import (
    COLOURS,
    added,
    assert_equal,
    metrics,
    png,
    run,
    snapshot,
    tiny_clip,
    tiny_encoder,
    tiny_model,
    tiny_records,
)


@pytest.fixture(autouse=True)
def no_plot(request, monkeypatch):
    """Which is slow beside such runs: one test has it."""
    if "plot" not in request.node.name:
        monkeypatch.setattr(trainer, "plot_losses", lambda *args: None)


# What trains


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2_moe"])
def test_only_added_weights_move(tmp_path, family):
    model = tiny_model(family)
    before, trained = snapshot(model), {name for name, _ in model.added_parameters()}
    run(model, tmp_path, steps=3)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved and moved <= trained
    assert any(name.startswith("fusion") for name in moved) and any(name.startswith("resamplers") for name in moved)
    assert not model.training


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "lion"])
def test_decay_is_for_matrices_alone_and_so_is_muon(optimizer):
    model = tiny_model()
    config = TrainConfig(weight_decay=0.3, optimizer=optimizer)
    optimizers = make_optimizers(dict(model.added_parameters()), hidden_matrices(model), config)
    names = {parameter: name for name, parameter in model.added_parameters()}
    groups = [group for one in optimizers for group in one.param_groups]
    decayed = {names[p] for group in groups if group["weight_decay"] for p in group["params"]}
    every = [names[p] for group in groups for p in group["params"]]
    assert sorted(every) == sorted(names.values())  # each once
    linear = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert decayed == linear & set(every)
    by_muon = {names[p] for one in optimizers[1:] for group in one.param_groups for p in group["params"]}
    assert by_muon == (decayed if optimizer == "muon" else set())


def test_muon_turns_a_gradient_into_a_step_of_equal_singular_values(tmp_path):
    """The first step of a matrix, against the polar factor of its gradient in float64."""
    matrix = torch.nn.Parameter(torch.randn(24, 48, generator=torch.Generator().manual_seed(0)))
    before = matrix.detach().clone()
    matrix.grad = torch.randn(24, 48, generator=torch.Generator().manual_seed(1))
    *_, optimizer = make_optimizers(
        {"x.weight": matrix, "x.bias": torch.nn.Parameter(torch.zeros(1))},
        {matrix},
        TrainConfig(optimizer="muon", learning_rate=0.1, weight_decay=0.0),
    )
    optimizer.step()
    u, _, v = torch.linalg.svd(matrix.grad.double(), full_matrices=False)
    step, polar = (before - matrix.detach()).double(), u @ v
    assert torch.nn.functional.cosine_similarity(step.flatten(), polar.flatten(), dim=0) > 0.95
    assert step.square().mean().sqrt().item() == pytest.approx(0.1 * 0.2, rel=0.2)  # AdamW's usual size, a fifth


@pytest.mark.parametrize("native", [True, False])
def test_muon_does_what_that_of_torch_does_in_the_dtype_that_the_hardware_multiplies(native, monkeypatch):
    """To the last bit in bfloat16, in which torch computes everywhere, and to its rounding in float32."""
    monkeypatch.setattr("mmlm.training.muon.multiplies", lambda dtype, device: native)
    draw = torch.Generator().manual_seed(0)
    for shape in ((24, 48), (48, 24), (1, 7), (16, 16)):
        own, other = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
        ours = Muon([{"params": [own]}], 0.1, 0.01)
        theirs = torch.optim.Muon([other], 0.1, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        for _ in range(4):
            own.grad = torch.randn(shape, generator=draw)
            other.grad = own.grad.clone()
            ours.step()
            theirs.step()
        assert torch.allclose(own, other, rtol=0, atol=0 if native else 4e-3), (own - other).abs().max()
        assert ours.state[own]["momentum_buffer"].equal(theirs.state[other]["momentum_buffer"])


def test_the_gradient_is_that_of_the_mean_over_all_answer_tokens(tmp_path, monkeypatch):
    """Four uneven parts against one sum over rows, taken one by one from the logits."""
    model, records = tiny_model(), tiny_records(12)
    with torch.no_grad():
        for name, parameter in model.added_parameters():
            if name.endswith("gate"):
                parameter.fill_(0.7)
    features = cached_features(records, model.encoders["image"], tmp_path, progress=False).features
    examples = Examples(records, model.processor, model.template, {"image": features})
    chosen = [(i, i % 4) for i in range(12)]
    parameters = dict(model.added_parameters())

    total, count = 0.0, 0
    for pair in chosen:
        batch, media = batch_of(examples.processor, [[one] for one in examples.ready([pair])])
        prompt = int((batch.labels == -100).sum())
        log_probabilities = model(replace(batch, labels=None), media).logits.double().log_softmax(-1)
        for position in range(prompt, batch.input_ids.shape[1]):
            total = total - log_probabilities[0, position - 1, batch.input_ids[0, position]]
            count += 1
    texts = [records[r].captions[t] if t < 2 else records[r].qa[t - 2][1] for r, t in chosen]
    assert count == sum(len(text.encode()) + 1 for text in texts)  # the answer's bytes and the end mark, no more
    (total / count).backward()
    reference = {name: parameter.grad.clone() for name, parameter in parameters.items()}
    norm = torch.stack([gradient.double().norm() for gradient in reference.values()]).norm().item()

    for accumulation, clip in ((1, math.inf), (4, math.inf), (5, 0.01)):
        model.zero_grad()
        config = TrainConfig(max_grad_norm=clip, batch_size=math.ceil(12 / accumulation), accumulation=accumulation)
        objective = AdaptersObjective(model, examples, None, config)
        monkeypatch.setattr(objective.stream, "step", lambda step: chosen)
        step = Gradient([*parameters.values()], "float32", model.device, clip).of(objective.parts(0))
        assert step.loss == pytest.approx(total.item() / count, rel=1e-5)
        assert step.norm == pytest.approx(norm, rel=1e-4) and step.count == count
        scale = min(1.0, clip / norm)
        for name, parameter in parameters.items():
            torch.testing.assert_close(parameter.grad, reference[name] * scale, rtol=1e-3, atol=1e-5 * scale)


def test_accumulation_is_a_larger_batch(tmp_path):
    whole, parts = tiny_model(), tiny_model()
    run(whole, tmp_path / "whole", batch_size=12, accumulation=1)
    run(parts, tmp_path / "parts", batch_size=3, accumulation=4)
    for name, tensor in added(whole).items():
        torch.testing.assert_close(added(parts)[name], tensor, rtol=1e-3, atol=2e-5)


def test_it_learns_where_an_interrupt_has_left_gradients_off(tmp_path):
    on, off = tiny_model(), tiny_model()
    run(on, tmp_path / "on", steps=2)
    with torch.no_grad():
        run(off, tmp_path / "off", steps=2)
    assert all(torch.equal(added(off)[name], tensor) for name, tensor in added(on).items())


def test_learning_rate():
    config = TrainConfig(learning_rate=0.8, warmup_steps=4)
    rates = [learning_rate(config, step, 12) for step in range(12)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4] == pytest.approx(0.8) and rates[8] == pytest.approx(0.4)
    assert rates[4:] == sorted(rates[4:], reverse=True) and 0 < rates[-1] < 0.05
    assert learning_rate(replace(config, warmup_steps=0), 0, 5) == 0.8
    assert learning_rate(replace(config, warmup_steps=None), 0, 100) == 0.8 / 5  # a twentieth of the steps
    floored = replace(config, final_learning_rate_scale=0.25)  # 3/4 of the way down, and a quarter is left
    assert learning_rate(floored, 8, 12) == pytest.approx(0.8 * (0.25 + 0.75 * 0.5))
    assert learning_rate(floored, 11, 12) > 0.8 * 0.25


def test_gates_have_a_rate_of_their_own(tmp_path):
    """Adam's first step moves every weight that has a gradient by the learning rate."""
    model = tiny_model()
    before = added(model)
    run(model, tmp_path, steps=1, warmup_steps=0, weight_decay=0.0, learning_rate=1e-3, gate_learning_rate_scale=7.0)
    moved = {name: (tensor - before[name]).abs().max().item() for name, tensor in added(model).items()}
    gates = {name for name in moved if name.endswith("_gate")}
    assert len(gates) == 6 and all(moved[name] == pytest.approx(7e-3, rel=1e-2) for name in gates)
    assert max(moved[name] for name in moved.keys() - gates) == pytest.approx(1e-3, rel=1e-2)


def test_it_learns_and_looks_at_the_picture(tmp_path):
    """The colour's first letter, then the end: blind, ln 4 / 2 = 0.69 nats a token is the best there is."""

    def letters(count, start=0):
        return [replace(record, captions=(record.captions[1][0],), qa=()) for record in tiny_records(count, start)]

    frozen = language_model("llama")
    with torch.no_grad():
        frozen.lm_head.weight *= 6  # a random head of this width can be sure of nothing
    model = tiny_model(frozen)
    settings = dict(steps=100, batch_size=16, eval_every=50, gate_learning_rate_scale=1.0)
    result = run(model, tmp_path, letters(32), held_out=letters(16, start=32), **settings)
    held_out = [line["held_out_loss"] for line in metrics(tmp_path) if "held_out_loss" in line]
    assert len(held_out) == 3 and held_out[0] > 3 and held_out[-1] == result.held_out_loss < 0.2
    assert model.caption([png(colour) for colour in COLOURS.values()], max_new_tokens=3) == ["r", "g", "b", "y"]


def test_bfloat16_keeps_float32_weights(tmp_path):
    exact, fast = tiny_model(), tiny_model()
    a = run(exact, tmp_path / "a")
    b = run(fast, tmp_path / "b", precision="bfloat16")
    assert {tensor.dtype for tensor in added(fast).values()} == {torch.float32}
    assert b.loss == pytest.approx(a.loss, rel=0.05) and b.loss != a.loss
    with pytest.raises(ValueError, match="added weights are torch.bfloat16"):
        run(tiny_model().to(torch.bfloat16), tmp_path / "c")


@pytest.mark.parametrize("native", [False, True])
def test_automatic_precision_is_the_hardwares(tmp_path, monkeypatch, native):
    monkeypatch.setattr(precision, "multiplies", lambda dtype, device: native)
    chosen, automatic = tiny_model(), tiny_model()
    name = "bfloat16" if native else "float32"
    run(chosen, tmp_path / "chosen", precision=name)
    run(automatic, tmp_path / "automatic", precision="auto")
    assert_equal(added(automatic), added(chosen))
    # A run goes on in the precision it began with, on other hardware too, and in no other.
    monkeypatch.setattr(precision, "multiplies", lambda dtype, device: not native)
    run_until(tiny_model(), tmp_path / "chosen", 3, monkeypatch, precision=name, resume=False)
    again = tiny_model()
    run(again, tmp_path / "chosen", precision="auto")
    assert_equal(added(again), added(chosen))
    other = "float32" if native else "bfloat16"
    with pytest.raises(ValueError, match=f"precision was '{name}'"):
        run(tiny_model(), tmp_path / "automatic", precision=other)


# What is not finite


def poison(model, monkeypatch, calls, what="loss"):
    """From the given calls on, the loss, or the gradient of one weight with a finite loss, is NaN."""
    forward, count = model.forward, 0
    gate = next(parameter for name, parameter in model.added_parameters() if name.endswith("attn_gate"))

    def poisoned(*args, **kwargs):
        nonlocal count
        count += 1
        output = forward(*args, **kwargs)
        if count in calls:
            if what == "loss":
                output.loss = output.loss * math.nan
            else:
                output.loss = output.loss + (gate - gate.detach()).sqrt().sum()  # 0, with an infinite slope
        return output

    monkeypatch.setattr(model, "forward", poisoned)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path, monkeypatch, what):
    model = tiny_model()
    poison(model, monkeypatch, {3, 6}, what)
    after = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *a: (step(self, *a), after.append(added(model)))[0])
    result = run(model, tmp_path, steps=8)
    assert result.skipped == 2 and len(after) == 6 and metrics(tmp_path)[-1]["skipped"] == 2
    assert all(tensor.isfinite().all() for tensor in added(model).values())
    assert math.isfinite(result.loss)


def test_many_in_a_row_stop_the_run_with_good_weights_saved(tmp_path, monkeypatch):
    model, sane = tiny_model(), tiny_model()
    poison(model, monkeypatch, range(5, 100))
    with pytest.raises(NonFiniteLossError, match="3 steps in a row, up to step 7"):
        run(model, tmp_path / "bad", steps=20, max_skipped=3)
    saved = latest_checkpoint(tmp_path / "bad" / "checkpoints")
    poison(sane, monkeypatch, range(5, 8))
    run_until(sane, tmp_path / "sane", 7, monkeypatch, steps=20, max_skipped=9)
    assert_equal(saved.weights, added(sane))
    assert saved.state["progress"]["skipped"] == 3
    assert (tmp_path / "bad" / "metrics.jsonl").read_text().count("NaN") == 0


# Stopping and going on


def run_until(model, output, step, monkeypatch, start=0, **settings):
    """A run, going on from step `start`, that gets SIGTERM during step `step` (from 1)."""
    forward, count = model.forward, 0

    def stopped(*args, **kwargs):
        nonlocal count
        count += 1
        if count == (step - start - 1) * settings.get("accumulation", 1) + 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", stopped)
    with pytest.raises(SystemExit) as exit_:
        run(model, output, **settings)
    assert exit_.value.code == 128 + signal.SIGTERM
    assert latest_checkpoint(output / "checkpoints").state["step"] == step


@pytest.mark.parametrize(("stops", "optimizer"), [([4], "adamw"), ([5, 7], "muon"), ([11], "lion")])
def test_a_resumed_run_is_the_same_run_bit_for_bit(tmp_path, monkeypatch, stops, optimizer):
    """20 records in steps of 6: every stop lies within an epoch, most within a log line and a sorting window."""
    settings = dict(steps=12, batch_size=3, accumulation=2, sort_window=4, save_every=5, log_every=4)
    settings["optimizer"] = optimizer
    straight = tiny_model()
    a = run(straight, tmp_path / "a", **settings)
    for start, stop in zip([0, *stops], stops, strict=False):
        run_until(tiny_model(), tmp_path / "b", stop, monkeypatch, start, **settings)
    resumed = tiny_model()
    b = run(resumed, tmp_path / "b", **settings)
    assert (a.steps, a.loss, a.skipped) == (b.steps, b.loss, b.skipped)
    assert_equal(added(straight), added(resumed))
    assert_equal(load_file(a.model / "model.safetensors"), load_file(b.model / "model.safetensors"))
    ends = [latest_checkpoint(tmp_path / name / "checkpoints") for name in "ab"]
    assert_equal(ends[0].optimizer, ends[1].optimizer)
    assert ends[0].state["progress"] == ends[1].state["progress"]
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    first, second = tiny_model(), tiny_model()
    a = run(first, tmp_path)
    monkeypatch.setattr(second, "forward", lambda *args: pytest.fail("no step is left"))
    assert run(second, tmp_path) == a
    assert_equal(added(first), added(second))


def test_other_settings_are_refused_by_name_and_harmless_ones_are_not(tmp_path):
    run(tiny_model(), tmp_path)
    for change, words in (
        ({"learning_rate": 3e-3}, "learning_rate was 0.01, now 0.003"),
        ({"steps": 9}, "steps was 8, now 9"),
        ({"data": tiny_records(19)}, "data was"),
    ):
        with pytest.raises(ValueError, match=words):
            run(tiny_model(), tmp_path, **change)
    with pytest.raises(ValueError, match="language_model was"):
        run(tiny_model("llama"), tmp_path)
    run(tiny_model(), tmp_path, log_every=1, keep=1, cache=str(tmp_path / "elsewhere"))
    assert run(tiny_model(), tmp_path, steps=2, resume=False).steps == 2


def test_a_model_of_another_make_does_not_go_on(tmp_path):
    """The shapes of all weights agree, what is done with them does not."""
    run(tiny_model(), tmp_path, save_every=2)
    for change, word in ((FusionConfig(heads=2, dim_head=8, visibility="all"), "fusion"),
                         (FusionConfig(heads=4, dim_head=4), "fusion")):  # fmt: skip
        other = mmlm.assemble(
            language_model("gpt2"),
            tiny_encoder(),
            tokenizer=tokenizer(),
            resampler=ResamplerConfig(depth=1, num_latents=4, heads=2, dim_head=8),
            fusion=change,
        )
        with pytest.raises(ValueError, match=f"other settings.*{word}"):
            run(other, tmp_path)
    with pytest.raises(ValueError, match="other settings.*frozen_types"):
        run(tiny_model(language_model("gpt2").to(torch.bfloat16)), tmp_path)


def test_a_call_that_cannot_start_takes_no_checkpoint_away(tmp_path):
    run(tiny_model(), tmp_path)
    kept = latest_checkpoint(tmp_path / "checkpoints")
    with pytest.raises(FileNotFoundError):
        run(tiny_model(), tmp_path, "typo.jsonl", resume=False)
    assert latest_checkpoint(tmp_path / "checkpoints").folder == kept.folder
    run(tiny_model(), tmp_path, steps=3, resume=False)
    assert latest_checkpoint(tmp_path / "checkpoints").state["progress"]["step"] == 3


def killed_at(call: int, action) -> bool:
    """Runs `action` in a child that dies by SIGKILL at its `call`-th fsync or rename; whether it got through."""
    child = os.fork()
    if child == 0:
        count = 0

        def dying(function):
            def wrapped(*args, **kwargs):
                nonlocal count
                count += 1
                if count == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return wrapped

        os.fsync = dying(os.fsync)
        Path.rename = dying(Path.rename)
        action()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return not os.WIFSIGNALED(status)


def test_a_kill_at_any_point_of_a_save_leaves_a_whole_checkpoint(tmp_path):
    def save(step):
        weights = {"w": torch.full((50,), float(step))}
        save_checkpoint(tmp_path, step, weights, {"m": torch.ones(3)}, {"n": step}, keep=2)

    save(1)
    finished = False
    for call in range(1, 30):
        newest = latest_checkpoint(tmp_path).state["step"]
        finished = killed_at(call, lambda newest=newest: save(newest + 1))
        found = latest_checkpoint(tmp_path)
        assert found.state["step"] in (newest, newest + 1)
        assert torch.equal(found.weights["w"], torch.full((50,), float(found.state["n"])))
        if finished:
            break
    assert finished and call > 5
    save(50)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 2 and left[-1] == "step-00000050"


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"w": torch.full((9,), float(step))}, {}, {}, keep=3)
    (tmp_path / "step-00000003" / "state.json").unlink()
    damaged = bytearray((tmp_path / "step-00000002" / "model.safetensors").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "step-00000002" / "model.safetensors").write_bytes(damaged)
    assert latest_checkpoint(tmp_path).state["step"] == 1
    save_checkpoint(tmp_path, 2, {"w": torch.full((9,), 2.0)}, {}, {}, keep=3)
    assert latest_checkpoint(tmp_path).state["step"] == 2
    for path in tmp_path.glob("*/state.json"):
        path.write_text("{")
    with pytest.raises(ValueError, match="all checkpoints in"):
        latest_checkpoint(tmp_path)
    assert latest_checkpoint(tmp_path / "nothing") is None


def test_a_whole_checkpoint_is_never_taken_away_to_be_written_again(tmp_path):
    save_checkpoint(tmp_path, 1, {"w": torch.ones(2)}, {}, {}, keep=1)
    assert killed_at(1, lambda: save_checkpoint(tmp_path, 1, {"w": torch.ones(2)}, {}, {}, keep=1))
    assert latest_checkpoint(tmp_path).state["step"] == 1


def test_a_failure_leaves_the_model_ready_for_use(tmp_path, monkeypatch):
    model = tiny_model()
    monkeypatch.setattr(AdaptersObjective, "evaluate", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(model, tmp_path, held_out=tiny_records(4), steps=3)
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


# What a run writes


def test_the_result_loads_and_answers_as_the_trained_model(tmp_path):
    model = tiny_model()
    result = run(model, tmp_path)
    parts = dict(language_model=language_model("gpt2"), tokenizer=tokenizer(), image_encoder=tiny_encoder())
    loaded = mmlm.load(result.model, **parts)
    assert_equal(added(model), added(loaded))
    picture = png(COLOURS["red"])
    assert loaded.caption(picture, max_new_tokens=5) == model.caption(picture, max_new_tokens=5)


def test_metrics_and_plot(tmp_path, monkeypatch, capsys):
    run(tiny_model(), tmp_path / "a", held_out=tiny_records(6), steps=7, log_every=3, eval_every=4)
    lines = metrics(tmp_path / "a")
    assert [line["step"] for line in lines if "loss" in line] == [3, 6, 7]
    assert [line["step"] for line in lines if "held_out_loss" in line] == [0, 4, 7]
    assert lines[1]["epoch"] == pytest.approx(3 * 4 / 20) and lines[1]["skipped"] == 0
    assert PilImage.open(tmp_path / "a" / "loss.png").format == "PNG"
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    train(tiny_model(), tiny_records(), output=tmp_path / "b", steps=1, batch_size=2)
    assert not (tmp_path / "b" / "loss.png").exists()
    captured = capsys.readouterr()
    assert "matplotlib is not installed" in captured.err and "trained 1 steps" in captured.err
    assert not captured.out  # which belongs to what a program prints


def test_held_out_loss_is_the_mean_over_answer_tokens(tmp_path):
    model, records = tiny_model(), tiny_records(9)
    features = cached_features(records, model.encoders["image"], tmp_path, progress=False).features
    held = Examples(records, model.processor, model.template, {"image": features})
    objective = AdaptersObjective(model, held, held, TrainConfig(batch_size=4, held_out_examples=7))
    found = objective.evaluate()["held_out_loss"]
    total, tokens = 0.0, 0
    for pair in ExampleStream(records, 7).step(0):
        batch, media = batch_of(held.processor, [[one] for one in held.ready([pair])])
        output = model(batch, media)
        total, tokens = total + output.loss.item() * output.num_tokens, tokens + output.num_tokens
    assert found == pytest.approx(total / tokens, rel=1e-5)


# Features


def counted(encoder, monkeypatch) -> list[int]:
    """Pictures of each call of `encode`."""
    calls, encode = [], encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda batch: (calls.append(len(batch)), encode(batch))[1])
    return calls


def test_each_picture_is_encoded_once_whatever_the_epochs_and_runs(tmp_path, monkeypatch):
    model = tiny_model()
    calls = counted(model.encoders["image"], monkeypatch)
    run(model, tmp_path / "a", steps=30, cache=str(tmp_path / "cache"))
    assert sum(calls) == 20
    again = tiny_model()
    calls = counted(again.encoders["image"], monkeypatch)
    run(again, tmp_path / "b", steps=30, cache=str(tmp_path / "cache"))
    assert calls == []
    assert_equal(added(model), added(again))


@pytest.mark.parametrize(("dtype", "kept", "bound"), [(torch.float32, "F16", 2**-11), (torch.bfloat16, "BF16", 0)])
def test_cached_features_are_the_encoder_s_in_16_bits(tmp_path, dtype, kept, bound):
    encoder = tiny_encoder().to(dtype)
    records = tiny_records(7)
    for _ in range(2):  # encoded, then read
        features, bad, _ = cached_features(records, encoder, tmp_path, progress=False)
        assert list(features) == list(range(7)) and not bad
        expected = torch.cat([encoder.encode(encoder.preprocess(record.image)[None]).tokens for record in records])
        tokens = torch.cat([own.tokens for own in features.values()])
        torch.testing.assert_close(tokens, expected, rtol=bound, atol=bound and 2**-25)  # the latter below 6e-5
    (shard,) = tmp_path.rglob("*.safetensors")
    size = int.from_bytes(shard.read_bytes()[:8], "little")
    entries = json.loads(shard.read_bytes()[8 : 8 + size])
    assert {entry["dtype"] for name, entry in entries.items() if name != "__metadata__"} == {kept}


def test_features_beyond_float16_are_kept_as_they_are(tmp_path, monkeypatch):
    """Neither infinite nor zero: those of the pictures that this is about stay float32, the others do not."""
    encoder, records = tiny_encoder(), tiny_records(4)
    plain, scales = encoder.encode, iter([1.0, 1e6, 1e-7, 1.0])
    expected = [plain(encoder.preprocess(record.image)[None]).tokens for record in records]
    monkeypatch.setattr(encoder, "encode", lambda batch: Features(plain(batch).tokens * next(scales)))
    for _ in range(2):  # encoded, then read
        features, *_ = cached_features(records, encoder, tmp_path, progress=False)
        assert torch.equal(features[1].tokens, expected[1] * 1e6) and torch.equal(
            features[2].tokens, expected[2] * 1e-7
        )
        for index in (0, 3):
            torch.testing.assert_close(features[index].tokens, expected[index], rtol=2**-11, atol=2**-25)
            assert not torch.equal(features[index].tokens, expected[index])


def test_copies_of_an_encoder_in_other_types_do_not_share_features(tmp_path):
    """They have one fingerprint."""
    records = tiny_records(3)
    kinds = [tiny_encoder().to(dtype) for dtype in (torch.float32, torch.bfloat16)]
    assert len({encoder.fingerprint() for encoder in kinds}) == 1
    for encoder in (*kinds, *kinds):
        features, *_ = cached_features(records, encoder, tmp_path, progress=False)
        own = encoder.encode(encoder.preprocess(records[0].image)[None]).tokens
        torch.testing.assert_close(features[0].tokens, own, rtol=2**-11, atol=2**-25)


def test_a_run_on_features_of_another_form_is_not_gone_on_with(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        for place in ("examples", "features"):
            patch.setattr(f"mmlm.training.{place}.form_of", lambda encoder: "torch.float32")  # as it was before 16 bits
        run(tiny_model(), tmp_path, save_every=2)
    with pytest.raises(ValueError, match="other settings.*'torch.float32'].*now .*'torch.float32 in torch.float16'"):
        run(tiny_model(), tmp_path)


def test_equal_pictures_share_features_and_other_encoders_do_not(tmp_path, monkeypatch):
    record = tiny_records(1)[0]
    encoder = tiny_encoder()
    calls = counted(encoder, monkeypatch)
    features, _, keys = cached_features(RecordSet((record, record, record)), encoder, tmp_path, progress=False)
    assert len(set(keys.values())) == 1
    assert sum(calls) == 1 and len(features) == 3
    raw = ClipImageEncoder(tiny_clip(), image_transform(16, is_train=False), final_norm=False)
    for other in (tiny_encoder(seed=1), raw):
        calls = counted(other, monkeypatch)
        different, *_ = cached_features(RecordSet((record,)), other, tmp_path, progress=False)
        assert sum(calls) == 1 and not torch.equal(different[0].tokens, features[0].tokens)


def test_damaged_cache_entries_are_encoded_again(tmp_path, monkeypatch):
    encoder, records = tiny_encoder(), tiny_records(6)
    expected, *_ = cached_features(records, encoder, tmp_path, progress=False)
    shard = next(tmp_path.rglob("*.safetensors"))
    whole = shard.read_bytes()
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    for damage, again in ((flipped, 1), (whole[: len(whole) // 2], 6), (b"", 6), (b"garbage", 6)):
        for other in tmp_path.rglob("*.safetensors"):
            other.unlink()
        shard.write_bytes(damage)
        calls = counted(encoder, monkeypatch)
        found, *_ = cached_features(records, encoder, tmp_path, progress=False)
        assert sum(calls) == again
        for one, other in zip(found.values(), expected.values(), strict=True):
            assert torch.equal(one.tokens, other.tokens)  # each is encoded alone, whatever else is missing
        found, *_ = cached_features(records, encoder, tmp_path, progress=False)
        assert sum(calls) == again  # repaired for good
        monkeypatch.undo()


def test_pictures_that_do_not_decode_are_counted_and_named(tmp_path):
    good = tiny_records(30)
    broken = Record("broken", good[0].image[:60], captions=("x",))
    gone = tmp_path / "gone.jsonl"
    (tmp_path / "p.png").write_bytes(good[1].image)
    gone.write_text(json.dumps({"image": "p.png", "caption": "x"}))
    vanished = read_records(gone)
    (tmp_path / "p.png").unlink()
    records = RecordSet((*good[:5], broken, *good[5:], *vanished))
    with pytest.raises(BadRecordsError, match="(?s)2 of 32.*broken: the picture cannot be decoded.*p.png: .* be read"):
        run(tiny_model(), tmp_path / "a", records, bad_limit=0.05)
    result = run(tiny_model(), tmp_path / "b", records, bad_limit=0.1)
    assert result.bad_records == 2
    named = [json.loads(line)["key"] for line in (tmp_path / "b" / "bad_records.jsonl").read_text().splitlines()]
    assert sorted(named) == ["broken", "p.png"]
    clean = tiny_model()
    run(clean, tmp_path / "c", good)
    assert_equal(load_file(result.model / "model.safetensors"), added(clean))  # as if it had never been there


@pytest.mark.parametrize("limit", [0.2, 0.01])
def test_every_bad_record_is_written_down_whether_the_run_goes_on_or_not(tmp_path, limit):
    data = RecordSet((*tiny_records(12).records, Record("broken", b"no picture", captions=("x",))))
    settings = dict(bad_limit=limit, cache=str(tmp_path / "cache"))
    if limit == 0.2:
        run(tiny_model(), tmp_path / "new", data, **settings)
    else:
        with pytest.raises(BadRecordsError):
            run(tiny_model(), tmp_path / "new", data, **settings)
    (line,) = (tmp_path / "new/bad_records.jsonl").read_text().splitlines()
    assert json.loads(line)["key"] == "broken"


def test_bad_records_whose_names_are_no_unicode_are_written_down(tmp_path):
    (tmp_path / "a.png").write_bytes(png((1, 2, 3)))
    good = {"image": "a.png", "caption": "x"}
    (tmp_path / "m.jsonl").write_text(
        "\n".join(map(json.dumps, [good] * 8 + [{"image": "\ud800.png", "caption": "x"}]))
    )
    run(tiny_model(), tmp_path / "run", str(tmp_path / "m.jsonl"), steps=1, bad_limit=0.2)
    (line,) = (tmp_path / "run" / "bad_records.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"].endswith("\ud800.png")


def test_texts_that_do_not_fit_the_language_model_are_counted(tmp_path):
    records = RecordSet((*tiny_records(9), Record("long", png((9, 9, 9)), captions=("word " * 60,))))
    with pytest.raises(BadRecordsError, match=r"(?s)1 of 10.*long: the prompt has \d+ tokens"):
        run(tiny_model(), tmp_path, records)
    assert run(tiny_model(), tmp_path, records, bad_limit=0.1).bad_records == 1


# Settings and recipes


def test_settings_are_keywords_and_unknown_ones_are_named(tmp_path):
    fields = {field.name: field.type for field in dataclasses.fields(TrainConfig)}
    assert TrainSettings.__annotations__.keys() == fields.keys()
    hints = typing.get_type_hints(TrainSettings)
    assert hints == {name: hint for name, hint in typing.get_type_hints(TrainConfig).items() if name in fields}
    with pytest.raises(TypeError, match="'learning_rat'; did you mean 'learning_rate'"):
        train(tiny_model(), tiny_records(), output=tmp_path, learning_rat=1e-3)


def test_identity_is_by_content(tmp_path):
    """The bytes of media, texts and order make a difference, names of files do not."""
    records = tiny_records(4)
    swapped = RecordSet((records[1], records[0], *records[2:]))
    painted = RecordSet((replace(records[0], source=png((1, 2, 3))), *records[1:]))
    reworded = RecordSet((replace(records[0], captions=("another",)), *records[1:]))
    found = set()
    for number, data in enumerate((records, swapped, painted, reworded)):
        encoded = cached_features(data, tiny_encoder(), tmp_path / str(number), progress=False)
        model = tiny_model()
        found.add(Examples(data, model.processor, model.template, {}, {"image": encoded.keys}).fingerprint())
    assert len(found) == 4
    for name in "ab":
        (tmp_path / name).write_bytes(png((1, 2, 3)))
    one, other = (Pictures([FileSlice(tmp_path / name)], 16).keys for name in "ab")
    assert one == other == Pictures([png((1, 2, 3))], 16).keys != Pictures([png((1, 2, 4))], 16).keys
    assert digest(torch.zeros(4)) != digest(torch.zeros(2, 2)) != digest(torch.zeros(2, 2).double())


def test_a_sketch_tells_weights_apart_and_forgives_rounding():
    draw = torch.Generator().manual_seed(0)
    weights = 0.02 * torch.randn(300, 200, generator=draw)
    one = sketch({"w": weights})["w"]
    assert sketch({"w": weights.double() * (1 + 1e-7)})["w"] == pytest.approx(one, rel=1e-5, abs=1e-6)
    others = [0.02 * torch.randn(300, 200, generator=draw) for _ in range(20)]
    others += [weights.flip(0), weights + 1e-3 * torch.randn(300, 200, generator=draw).sign(), weights * 1.01]
    assert all(abs(sketch({"w": other})["w"] - one) > 1e-5 for other in others)


def test_one_step_of_lion_by_hand():
    """The sign of the gradient, after decoupled decay (Chen et al. 2023)."""
    weight = torch.nn.Parameter(torch.tensor([[1.0, -2.0], [3.0, 0.5]]))
    weight.grad = torch.tensor([[0.1, -5.0], [0.0, 1e-3]])
    config = TrainerConfig(optimizer="lion", learning_rate=0.1, weight_decay=0.5)
    (optimizer,) = make_optimizers({"x.weight": weight}, set(), config)
    optimizer.step()
    expected = torch.tensor([[0.95 - 0.1, -1.9 + 0.1], [2.85, 0.475 - 0.1]])
    torch.testing.assert_close(weight.detach(), expected)


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"steps": 0},
        {"epochs": 0.0},
        {"learning_rate": -1.0},
        {"betas": (0.9, 1.0)},
        {"optimizer": "sgd"},
        {"caption_share": 1.5},
        {"precision": "fp8"},
        {"seed": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainConfig(**wrong)


def test_epochs_give_steps(tmp_path):
    assert run(tiny_model(), tmp_path, steps=None, epochs=1.5, batch_size=4, accumulation=2).steps == 4  # ⌈1.5·20/8⌉


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe whose model is assembled from folders."""
    language_model("gpt2").save_pretrained(tmp_path / "lm")
    tokenizer().save_pretrained(tmp_path / "lm")
    clip = tiny_clip()
    open_clip_config = {
        "model_cfg": {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 16, "patch_size": 8, "layers": 1, "width": 32, "head_width": 16},
            "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
        },
        "preprocess_cfg": {"size": 16},
    }
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps(open_clip_config))
    from safetensors.torch import save_file

    save_file(clip.state_dict(), tmp_path / "clip" / "open_clip_model.safetensors")
    lines = []
    for record in tiny_records(12):
        (tmp_path / f"{record.key}.png").write_bytes(record.image)
        lines.append(json.dumps({"image": f"{record.key}.png", "captions": record.captions}))
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    monkeypatch.setenv("SOME_DATA", str(tmp_path))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        textwrap.dedent(f"""\
        model:
          language_model: {tmp_path}/lm
          image_encoder: {tmp_path}/clip
          resampler: {{depth: 1, num_latents: 4, heads: 2, dim_head: 8}}
          fusion: {{heads: 2, dim_head: 8}}
        data: ${{oc.env:SOME_DATA,nowhere}}/pairs.jsonl
        held_out: ["${{data}}"]
        output: {tmp_path}/run
        steps: 50
        batch_size: 4
    """)
    )
    return path


def test_a_recipe_runs_and_what_it_trained_loads_and_trains_on(recipe, tmp_path):
    result = train_from_recipe(recipe, ["steps=2", "model.fusion.cross_attention_every=3"], progress=False)
    assert result.steps == 2 and result.held_out_loss is not None
    model = mmlm.load(result.model)
    assert len(model.fusion.layers) == 1 and model.resampler_config.num_latents == 4
    more = tmp_path / "more.yaml"
    more.write_text(f"model: {{load: {result.model}}}\ndata: {tmp_path}/pairs.jsonl\noutput: {more}.run\nsteps: 1\n")
    assert train_from_recipe(more, progress=False).steps == 1


def test_recipe_values(recipe, tmp_path):
    loaded = load_recipe(recipe, ["learning_rate=2e-3", "betas=[0.8,0.9]", "warmup_steps=7", "precision=bfloat16"])
    assert (loaded.learning_rate, list(loaded.betas), loaded.warmup_steps) == (2e-3, [0.8, 0.9], 7)
    assert loaded.data == f"{tmp_path}/pairs.jsonl" and loaded.held_out == [loaded.data]
    assert loaded.model.resampler.depth == 1 and loaded.model.resampler.ff_mult == ResamplerConfig().ff_mult


def test_a_model_that_is_named_stays_where_its_keys_follow(tmp_path):
    (tmp_path / "r.yaml").write_text("model: small\ndata: d\noutput: o\n")
    loaded = load_recipe(tmp_path / "r.yaml", ["model=nano", "model.fusion=null", "model.device=cpu", "steps=3"])
    assert (loaded.model.load, loaded.model.fusion, loaded.steps) == ("nano", None, 3)
    assert load_recipe(tmp_path / "r.yaml", ["model.dtype=bfloat16", "model=nano"]).model.dtype == "bfloat16"


@pytest.mark.parametrize(
    "override, words",
    [
        ("batchsize=4", "unknown key 'batchsize'"),
        ("model.fusion.head=4", "unknown key 'model.fusion.head'"),
        ("steps=many", "steps.*many"),
        ("trackers=tensorboard", r"trackers: give a list: \[first"),
        ("batch_size=2.5", "batch_size.*2.5"),
        ("batch_size=0", "batch_size must be at least 1"),
        ("data={a: 1}", "data must be a path"),
        ("model.load=nano", "both load and language_model"),
        ("model.image_encoder=null", "load, or both"),
        ("model.dtype=int8", "model.dtype"),
        ("steps", "not key=value"),
    ],
)
def test_recipe_errors_name_the_key(recipe, override, words):
    with pytest.raises(ValueError, match=words):
        load_recipe(recipe, [override])


def test_a_cache_that_cannot_be_written_is_known_before_the_model_is_loaded(recipe, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="cache: .* is a file"):
        plan_from_recipe(recipe, [f"cache={tmp_path}/file/features"])
    with pytest.raises(NotADirectoryError, match="cache: .* is a file"):
        run(tiny_model(), tmp_path / "out", cache=str(tmp_path / "file"))
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_is_no_recipe(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_recipe(tmp_path / "gone.yaml")
    for text, words in (("a: [", "not valid YAML"), ("- 1", "must hold keys"), ("output: x\n", "'data' is missing")):
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(ValueError, match=words):
            load_recipe(tmp_path / "r.yaml")


# What a run tells and refuses


def test_a_resumed_run_says_so_in_plain_words(tmp_path, monkeypatch, capsys, caplog):
    run_until(tiny_model(), tmp_path, 3, monkeypatch)
    monkeypatch.undo()
    caplog.clear()
    run(tiny_model(), tmp_path)
    assert f"going on from step 3 of 8 in {tmp_path}" in caplog.text  # also where no progress is asked for
    capsys.readouterr()
    model = tiny_model()
    train(model, tiny_records(), output=tmp_path, steps=8, batch_size=4, learning_rate=1e-2)
    shown = capsys.readouterr().err
    assert f"the run in {tmp_path} is finished, all 8 steps" in shown and "extend=True" in shown


def test_a_run_is_extended_to_more_steps_where_that_is_asked_for(tmp_path, monkeypatch):
    run(tiny_model(), tmp_path, steps=6)
    with pytest.raises(ValueError, match="steps was 6, now 9.*extend=True"):
        run(tiny_model(), tmp_path, steps=9)
    with pytest.raises(ValueError, match="steps was 6, now 4"):
        run(tiny_model(), tmp_path, steps=4, extend=True)
    with pytest.raises(ValueError, match="other settings .seed was 0, now 1"):
        run(tiny_model(), tmp_path, steps=9, seed=1, extend=True)
    weights = latest_checkpoint(tmp_path / "checkpoints").weights
    rates = []
    original = trainer.learning_rate
    monkeypatch.setattr(trainer, "learning_rate", lambda *args: rates.append(args[1:]) or original(*args))
    whole = tiny_model()
    result = run(whole, tmp_path, steps=9, extend=True)
    assert result.steps == 9 and rates == [(6, 9), (7, 9), (8, 9)]  # the schedule of nine steps, from the seventh on
    moved = [name for name, tensor in added(whole).items() if not torch.equal(tensor, weights[name])]
    assert moved
    monkeypatch.undo()
    # From there on it is a run of nine steps: finished, and as good as any other to be extended once more.
    again = tiny_model()
    assert run(again, tmp_path, steps=9).steps == 9
    assert_equal(added(again), added(whole))
    run_until(tiny_model(), tmp_path, 10, monkeypatch, 9, steps=12, extend=True)
    monkeypatch.undo()
    stopped = tiny_model()
    assert run(stopped, tmp_path, steps=12).steps == 12  # it was begun, and needs no word for it


def test_pictures_swapped_under_their_names_are_other_data_and_other_names_are_not(tmp_path):
    def write(folder, names, colours):
        folder.mkdir(exist_ok=True)
        for name, colour in zip(names, colours, strict=True):
            (folder / f"{name}.png").write_bytes(png(COLOURS[colour]))
        lines = [json.dumps({"image": f"{name}.png", "caption": "a square"}) for name in names]
        (folder / "pairs.jsonl").write_text("\n".join(lines))
        return str(folder / "pairs.jsonl")

    data = write(tmp_path / "data", "abcd", COLOURS)
    first = tiny_model()
    run(first, tmp_path / "run", data)
    renamed = write(tmp_path / "renamed", "wxyz", COLOURS)
    same = tiny_model()
    run(same, tmp_path / "run", renamed)
    assert_equal(added(same), added(first))
    write(tmp_path / "data", "abcd", reversed(COLOURS))
    with pytest.raises(ValueError, match="data was"):
        run(tiny_model(), tmp_path / "run", data)


def test_without_a_terminal_lines_tell_how_far_it_is_and_what_was_dropped(tmp_path, monkeypatch, capsys):
    from mmlm.training import reporting

    clock = iter(range(0, 100_000, 20))
    monkeypatch.setattr(reporting.time, "monotonic", lambda: float(next(clock)))
    data = RecordSet((*tiny_records(12).records, Record("broken", b"no picture", captions=("x",))))
    train(tiny_model(), data, output=tmp_path, steps=8, batch_size=2, log_every=4, bad_limit=0.1)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "1 of 13 records are left out" in line and "bad_records.jsonl" in line]
    told = [line for line in lines if line.startswith("adapters: ")]
    assert 3 <= len(told) <= 6 and told[-1].startswith("adapters: 8 of 8, loss ") and "left" not in told[-1]
    assert any(line.endswith("left") for line in told[:-1])
    assert not any("\r" in line for line in lines)  # a bar


def test_inputs_are_checked_before_the_first_picture_is_encoded(tmp_path, monkeypatch):
    model = tiny_model()
    monkeypatch.setattr(model.encoders["image"], "encode", lambda batch: pytest.fail("encoded"))
    with pytest.raises(FileNotFoundError, match="typo.jsonl"):
        run(model, tmp_path / "a", held_out="typo.jsonl")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file; choose another folder"):
        run(model, tmp_path / "file")
    sounds = RecordSet((Record("s", None, sound=b"RIFF", transcript="x"),))
    with pytest.raises(ValueError, match="no audio encoder"):
        run(model, tmp_path / "b", held_out=sounds)


def film(path: Path, colours: list[str], size: int = 16) -> Path:
    """A film of one frame a colour, a second each."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        for colour in colours:
            picture = PilImage.new("RGB", (size, size), COLOURS[colour])
            for packet in stream.encode(av.VideoFrame.from_image(picture)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def test_films_are_trained_on_as_they_are_seen(tmp_path, monkeypatch):
    """The features of a film are those that `caption` gives the model: all frames, with their times; kept on disk."""
    film(tmp_path / "film.mp4", ["red", "green", "blue"])
    (tmp_path / "still.png").write_bytes(png(COLOURS["yellow"]))
    lines = [{"image": "film.mp4", "caption": "three colours"}, {"image": "still.png", "caption": "one"}] * 2
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    model = tiny_model()
    encoder, records = model.encoders["image"], read_records(tmp_path / "pairs.jsonl")
    seen, still = model.encode_media([tmp_path / "film.mp4", tmp_path / "still.png"])
    for _ in range(2):  # encoded, then read
        features, bad, _ = cached_features(records, encoder, tmp_path / "cache", progress=False)
        assert not bad and len(features) == 4
        torch.testing.assert_close(features[0].tokens, seen.tokens, rtol=2**-11, atol=2**-25)
        assert torch.equal(features[0].times, seen.times)
        assert features[1].times is None
        torch.testing.assert_close(features[1].tokens, still.tokens, rtol=1e-3, atol=1e-5)
        monkeypatch.setattr(encoder, "encode", lambda batch: pytest.fail("encoded again"))
    monkeypatch.undo()
    assert len(set(seen.times.flatten().tolist())) == 3
    result = run(model, tmp_path / "run", str(tmp_path / "pairs.jsonl"), steps=2, batch_size=2)
    assert result.bad_records == 0 and math.isfinite(result.loss)
    with pytest.raises(ValueError, match="film.mp4 is a film, and drawing is learned from pictures"):
        read_pairs(model, str(tmp_path / "pairs.jsonl"), tmp_path / "codes", 4.0, progress=False)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.resampler.depth=3", "nano has its own resampler: leave out model.resampler"),
        ("model.fusion.heads=2", "leave out model.fusion"),
        ("model.template.caption=x", "leave out model.template"),
        ("model.seed=0", "leave out model.seed"),
        ("model.final_norm=false", "leave out model.final_norm"),
    ],
)
def test_nothing_beside_load_is_ignored(tmp_path, override, words):
    (tmp_path / "r.yaml").write_text("model: nano\ndata: x.jsonl\noutput: y\n")
    assert load_recipe(tmp_path / "r.yaml").model.load == "nano"
    assert load_recipe(tmp_path / "r.yaml", ["model=other"]).model.load == "other"
    with pytest.raises(ValueError, match=words):
        load_recipe(tmp_path / "r.yaml", [override])


@pytest.mark.parametrize("name, timed", [("resampler", False), ("audio_resampler", True)])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("{heads: 4}", dict(depth=0, stack=4, heads=4)),
        ("{stack: 1}", dict(depth=0, stack=1)),
        ("{depth: 6, num_latents: 64}", dict(depth=6, stack=1)),  # Flamingo's, whatever the default is
        ("{depth: 2, stack: 2, num_latents: 8}", dict(depth=2, stack=2, num_latents=8)),
    ],
)
def test_a_part_of_a_resampler_keeps_the_rest(name, timed, given, expected, tmp_path):
    text = f"model: {{language_model: a, audio_encoder: b, {name}: {given}}}\ndata: x\noutput: y\n"
    (tmp_path / "r.yaml").write_text(text)
    found = load_recipe(tmp_path / "r.yaml").model.new_adapters()
    assert found == {name: ResamplerConfig(timed=timed, **expected)}


def test_latents_of_a_resampler_without_layers_are_refused(tmp_path):
    (tmp_path / "r.yaml").write_text("model: {language_model: a, image_encoder: b}\ndata: x\noutput: y\n")
    with pytest.raises(
        ValueError, match="num_latents is of a resampler with layers, and depth is 0: leave it out, or give depth$"
    ):
        load_recipe(tmp_path / "r.yaml", ["model.resampler.num_latents=16"])


def test_a_recipe_and_python_have_the_same_defaults():
    assert (ImageResampler().config(), AudioResampler().config()) == (DEFAULTS["image"], DEFAULTS["audio"])
    encoders = {"image_encoder": parts.image_encoder(), "audio_encoder": parts.audio_encoder()}
    model = assemble(language_model("llama"), tokenizer=tokenizer(), **encoders)
    assert (model.resampler_config, model.audio_resampler_config) == (DEFAULTS["image"], DEFAULTS["audio"])


def test_the_resolved_recipe_lies_beside_the_run_and_runs(recipe, tmp_path, monkeypatch):
    output = tmp_path / "out"
    first = train_from_recipe(recipe, [f"output={output}", "steps=2"], progress=False)
    saved = output / "recipe.yaml"
    assert "learning_rate" in saved.read_text() and str(tmp_path) in saved.read_text()  # defaults, and no ${...}
    monkeypatch.delenv("SOME_DATA")
    assert train_from_recipe(saved, progress=False) == first  # the same run
    text = saved.read_text()
    monkeypatch.setenv("SOME_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="starting_weights"):
        train_from_recipe(recipe, [f"output={output}", "steps=2", "model.seed=7"], progress=False)
    assert saved.read_text() == text  # of the run that is there


def test_a_recipe_is_checked_before_weights_are_loaded(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("mmlm.training.run.assemble", lambda *args, **kwargs: pytest.fail("loaded"))
    (tmp_path / "file").write_text("")
    for override, error, words in (
        ("data=gone.jsonl", FileNotFoundError, "gone.jsonl"),
        ("held_out=gone.jsonl", FileNotFoundError, "gone.jsonl"),
        (f"output={tmp_path}/file", NotADirectoryError, "is a file"),
        ("model.device=nowhere", ValueError, "no device 'nowhere' here"),
        ("images=nowhere", BadRecordsError, "no picture at nowhere"),
    ):
        with pytest.raises(error, match=words):
            train_from_recipe(recipe, [override], progress=False)


def test_the_model_of_the_lowest_held_out_loss_is_kept(tmp_path, monkeypatch):
    """Of figures by hand, before step 1 and after each 5; those before any training do not count."""
    found = iter([1.0, 3.0, 2.0, math.nan, 2.5])
    monkeypatch.setattr(AdaptersObjective, "evaluate", lambda self: {"held_out_loss": next(found)})
    result = run(tiny_model(), tmp_path, steps=20, eval_every=5, save_every=5, keep=100)
    kept = load_file(tmp_path / "checkpoints/step-00000010/model.safetensors")
    best = load_file(result.best / "model.safetensors")
    assert result.best == tmp_path / "best/model" and result.held_out_loss == 2.5
    assert best.keys() == kept.keys() and all(torch.equal(best[name], kept[name]) for name in best)


def test_figures_go_to_tensorboard_as_well(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tiny_model(), tmp_path / "mine", trackers=("tensorboard",), held_out=tiny_records(4), eval_every=4)
    (folder,) = (tmp_path / "mine/trackers").iterdir()
    read = EventAccumulator(str(folder))
    read.Reload()
    lines = metrics(tmp_path / "mine")
    for name in ("loss", "held_out_loss", "gradient_norm"):
        found = [(scalar.step, scalar.value) for scalar in read.Scalars(name)]
        assert found == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines if name in line] != []
    for name, error in {"tensorbored": ValueError, "aim": ImportError}.items():
        with pytest.raises(error, match=name):
            run(tiny_model(), tmp_path / "other", trackers=(name,))
        assert not (tmp_path / "other/checkpoints").exists()
