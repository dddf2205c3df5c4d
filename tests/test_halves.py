"""Frozen weights that lie in bfloat16 while a run computes in it: the same losses, no copies, and their bits again."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

import mmlm
from mmlm.model.halves import halved, whole
from mmlm.prompting.parts import Image
from mmlm.training import Trainer
from mmlm.training.objectives.adapters import AdaptersObjective
from mmlm.training.objectives.codes import CodesObjective
from mmlm.training.precision import computing
from mmlm.training.resting import resting
from support.families import FAMILIES, language_model
from support.training_objectives import CASES, COLOURS, added, assert_equal, metrics, png, run, tiny_model

PROMPT = [Image(png(COLOURS["red"])), "Output:"]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=30), st.sampled_from([0, 0x7FFF, 0x8000, 0x8001, None]))
def test_halves_are_torchs_and_with_their_rest_they_are_the_same_bits(bits, low):
    values = np.array(bits, np.uint32)
    if low is not None:  # beside and at the middle between two halves
        values = (values & 0xFFFF0000) | low
    tensor = torch.from_numpy(values.view(np.float32).copy())
    tensor = tensor[~tensor.isnan()]
    half, rest = halved(tensor)
    assert torch.equal(half, tensor.bfloat16())
    back = whole(half, rest)
    assert torch.equal(back.view(torch.int32), tensor.view(torch.int32))
    assert (rest.low is None) == torch.equal(half.float().view(torch.int32), tensor.view(torch.int32))


class Copies(TorchDispatchMode):
    """Counts the values of parameters that are cast to bfloat16."""

    def __init__(self, model):
        super().__init__()
        self.places = {own.untyped_storage().data_ptr() for own in model.language_model.model.parameters()}
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default and args[0].untyped_storage().data_ptr() in self.places:
            self.count += args[0].numel()
        return func(*args, **(kwargs or {}))


def ready(model, words: str = "answer"):
    return model.processor.collate([model.processor.encode(PROMPT, words)] * 2), [[png(COLOURS["red"])]] * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_autocast_and_no_weight_is_copied(family):
    model = tiny_model(family)
    host = model.language_model
    with torch.no_grad():  # what published weights mostly are
        for own in host.model.parameters():
            own.copy_(own.bfloat16().float())
    for gate in [own for name, own in model.added_parameters() if name.endswith("gate")]:
        gate.data.fill_(0.5)
    before = {name: own.clone() for name, own in host.model.state_dict().items()}
    batch, media = ready(model)
    weights = [own.requires_grad_() for _, own in model.added_parameters()]

    def step():
        with computing("bfloat16", "cpu"), Copies(model) as copies:
            loss = model(batch, media).loss
        return loss, torch.autograd.grad(loss, weights), copies.count

    expected, gradients, copied = step()
    with resting(host):
        types = {own.dtype for own in host.model.parameters()}
        loss, found, left = step()
    # Embeddings of Gemmas multiply in the dtype of their weight, which is that of the head.
    near = dict(rtol=2e-2, atol=1e-2) if family.startswith("gemma") else dict(rtol=0, atol=0)
    torch.testing.assert_close(loss, expected, **near)
    assert copied > 1000
    assert left < copied / 20, f"{left} of {copied} values are still copied in each pass"
    for one, other in zip(found, gradients, strict=True):
        torch.testing.assert_close(one, other, **near)
    assert torch.bfloat16 in types
    assert_equal(host.model.state_dict(), before)


def test_weights_of_more_bits_have_their_bits_again_and_nearly_the_same_loss():
    model = tiny_model("gpt2")  # whose head is its embedding
    before = {name: own.clone() for name, own in model.language_model.model.state_dict().items()}
    batch, media = ready(model)
    with computing("bfloat16", "cpu"), torch.no_grad():
        expected = model(batch, media).loss
        with resting(model.language_model):
            assert model.language_model.model.get_input_embeddings().weight.dtype == torch.bfloat16
            assert model.language_model.dtype == torch.float32
            torch.testing.assert_close(model(batch, media).loss, expected, rtol=2e-2, atol=0)
    assert_equal(model.language_model.model.state_dict(), before)


@pytest.mark.parametrize("name", ["adapters", "codes"])
def test_a_run_keeps_them_so_and_gives_back_what_it_was_given(name, tmp_path, monkeypatch):
    case, seen = CASES[name], set()
    kind = {"adapters": AdaptersObjective, "codes": CodesObjective}[name]
    model = case.build()
    before = {key: own.clone() for key, own in model.language_model.model.state_dict().items()}
    plain = kind.parts

    def parts(self, step):
        seen.update(own.dtype for key, own in self.model.language_model.model.named_parameters() if "proj" in key)
        seen.update(own.dtype for own in self.parameters().values())
        return plain(self, step)

    monkeypatch.setattr(kind, "parts", parts)
    result = case.train(model, tmp_path / "run", precision="bfloat16", keep_best=True, eval_every=2)
    assert torch.bfloat16 in seen and torch.float32 in seen
    assert_equal(model.language_model.model.state_dict(), before)
    for folder in [result.model, *([] if result.best is None else [result.best])]:
        assert {own.dtype for own in load_file(folder / "model.safetensors").values()} == {torch.float32}


def test_an_interrupted_run_gives_them_back_and_is_resumed_bit_for_bit(tmp_path, monkeypatch):
    def stopped(self, gradient, plain=Trainer.step):
        if self.done.step == 4:
            raise KeyboardInterrupt
        return plain(self, gradient)

    model, whole_run, resumed = tiny_model(), tiny_model(), tiny_model()
    before = {name: own.clone() for name, own in model.language_model.model.state_dict().items()}
    run(whole_run, tmp_path / "whole", precision="bfloat16")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "step", stopped)
        run(model, tmp_path / "stopped", precision="bfloat16", save_every=2)
    assert_equal(model.language_model.model.state_dict(), before) and not model.language_model.halved
    run(resumed, tmp_path / "stopped", precision="bfloat16")
    assert_equal(added(resumed), added(whole_run))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "stopped")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_other_threads_write_texts_meanwhile(family):
    model, found = tiny_model(family), []
    with resting(model.language_model):
        thread = threading.Thread(target=lambda: found.append(model.generate(PROMPT, max_new_tokens=4).log_probs))
        thread.start()
        thread.join()
    with torch.autocast("cpu", torch.bfloat16):
        expected = model.generate(PROMPT, max_new_tokens=4).log_probs
    assert found and found[0][0] == pytest.approx(expected[0], rel=0.05)


def test_what_cannot_be_told_is_left_to_autocast():
    compiled = torch.compile(language_model("llama"), backend="eager")
    for model in (tiny_model(compiled), tiny_model(language_model("llama").to(torch.bfloat16))):
        before = {name: own.dtype for name, own in model.named_parameters()}
        with resting(model.language_model):
            assert {name: own.dtype for name, own in model.named_parameters()} == before
            assert not model.language_model.halved


def test_rows_that_are_saved_stay_whole():
    rows = {"embedding": torch.randn(280, 32)}
    host = mmlm.model.language_model.LanguageModel(
        language_model("gpt2"), tiny_model().language_model.tokenizer, rows=rows
    )
    with resting(host):
        assert host.halved and torch.equal(host.replaced_rows()["embedding"], rows["embedding"])
