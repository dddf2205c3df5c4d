"""The loss over a large vocabulary, some logits at a time: its value, its gradients, and what is made at once."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmlm.assembly import Codecs, extended
from mmlm.model.config import LoraConfig
from mmlm.prompting.parts import Codes, Image
from support import parts
from support.codec_parts import image_codec
from support.families import FAMILIES, VOCAB
from support.training_objectives import COLOURS, png, tiny_model

SHAPED = {"gemma2", "granite", "cohere"}  # whose logits are capped or scaled behind the head
AT_ONCE = 5  # positions


class Largest(TorchDispatchMode):
    """The most rows of logits that were made at once."""

    rows = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for own in tree_leaves(result):
            if isinstance(own, torch.Tensor) and own.ndim > 1 and own.shape[-1] == VOCAB and own.is_floating_point():
                self.rows = max(self.rows, own.shape[:-1].numel()) if own.shape[-2] != 32 else self.rows
        return result


def batch_of(model, texts=("a red square", "red", "some more words about it")):
    rows = [model.processor.encode([Image(png(COLOURS["red"])), "Output:"], text) for text in texts]
    return model.processor.collate(rows), [[png(COLOURS["red"])]] * len(texts)


def gradients(model, *inputs, **keywords):
    names, weights = zip(*((name, own.requires_grad_()) for name, own in model.added_parameters()), strict=True)
    output = model(*inputs, **keywords)
    found = torch.autograd.grad(3 * output.loss, weights, allow_unused=True)
    return output, dict(zip(names, found, strict=True))


def assert_same(one, other, tolerance=1e-6):
    torch.testing.assert_close(one[0].loss, other[0].loss, rtol=tolerance, atol=tolerance)
    assert one[0].num_tokens == other[0].num_tokens
    for name, gradient in one[1].items():
        if gradient is None:
            assert other[1][name] is None, name
        else:
            torch.testing.assert_close(other[1][name], gradient, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_all_logits(family, monkeypatch):
    single = "moe" in family or family in ("mixtral", "gemma2")  # which do not compute in float64
    model = tiny_model(family).to(torch.float32 if single else torch.float64)
    for name, own in model.added_parameters():
        if name.endswith("gate"):
            own.data.fill_(0.5)
    inputs = batch_of(model)
    expected = gradients(model, *inputs)
    monkeypatch.setattr("mmlm.model.network.AT_ONCE", AT_ONCE * VOCAB)
    found = gradients(model, *inputs, logits=False)
    assert found[0].logits.shape == (0, VOCAB + len(model.language_model.vocabulary))
    assert_same(found, expected, 1e-5 if single else 1e-6)
    assert model.language_model.ends_in_head == (family not in SHAPED)
    with torch.no_grad(), Largest() as largest:
        again = model(*inputs, logits=False).loss
    torch.testing.assert_close(again, expected[0].loss.detach(), rtol=1e-5, atol=1e-6)
    assert (largest.rows == AT_ONCE) == (family not in SHAPED) and expected[0].num_tokens > 4 * AT_ONCE
    assert model(*inputs).logits.shape[0] == expected[0].num_tokens  # whoever asks for logits gets all


@pytest.mark.parametrize("at_once", [1, 7, 60, 10**6])
def test_with_codes_and_their_rows_in_any_parts(at_once, monkeypatch):
    model = extended(parts.build("llama"), Codecs(image=image_codec()), lora=LoraConfig(rank=2))
    grid = model.codecs["image"].grid
    codes = torch.arange(grid[0] * grid[1]).view(1, *grid) % 16
    batch = model.processor.collate([model.processor.encode(["Draw: it"], Codes("image", codes))] * 2)
    expected = gradients(model, batch, [[], []], codes=True)
    monkeypatch.setattr("mmlm.model.network.AT_ONCE", at_once * model.language_model.vocabulary.offset)
    assert_same(gradients(model, batch, [[], []], codes=True, logits=False), expected, 1e-5)


def test_under_autocast_and_with_checkpointing(monkeypatch):
    model = tiny_model("llama")
    for name, own in model.added_parameters():
        if name.endswith("gate"):
            own.data.fill_(0.5)
    inputs = batch_of(model)
    with torch.autocast("cpu", torch.bfloat16):
        expected = gradients(model, *inputs)
        monkeypatch.setattr("mmlm.model.network.AT_ONCE", AT_ONCE * VOCAB)
        parts.checkpointing(model)
        found = gradients(model, *inputs, logits=False)
    torch.testing.assert_close(found[0].loss, expected[0].loss, rtol=1e-5, atol=0)
    for name, gradient in expected[1].items():
        assert float((found[1][name] - gradient).norm()) <= 0.15 * float(gradient.norm()), name


def test_a_language_model_that_trains_gets_its_gradient(monkeypatch):
    def of(model, **keywords):
        head = model.language_model.model.lm_head.weight.requires_grad_()
        return torch.autograd.grad(model(*inputs, **keywords).loss, head)[0]

    model = tiny_model("llama").double()
    inputs = batch_of(model)
    expected = of(model)
    monkeypatch.setattr("mmlm.model.network.AT_ONCE", AT_ONCE * VOCAB)
    torch.testing.assert_close(of(model, logits=False), expected, rtol=1e-6, atol=1e-9)
