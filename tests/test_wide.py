"""A packed model with weights of 16 bits computes in float32 between them: nearer to its weights, and not elsewhere."""

import copy

import families
import parts
import pytest
import torch
from torch import Tensor, nn

from mmlm.model import MultimodalLM
from mmlm.packing import available, pack, use_packed

pytestmark = pytest.mark.skipif(not available(), reason="this build of torch has no oneDNN")

OWN_WEIGHTS = ("falcon", "mixtral", "qwen2_moe", "qwen3_moe")  # families that multiply by weights of no layer's
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


@torch.no_grad()
def step_logits(model: MultimodalLM, steps: int = 6) -> Tensor:
    """Steps after a padded prompt with two pictures, one, and none: [steps, 3, V]."""
    run = parts.decoder(model, parts.prompts(), 20)
    run.prefill()
    return torch.stack([run.step(torch.tensor([65 + step, 70, 75], device=model.device)) for step in range(steps)])


def off(found: Tensor, exact: Tensor) -> float:
    seen = exact.isfinite()
    return float((found.double() - exact.double())[seen].norm() / exact[seen].double().norm())


@pytest.mark.parametrize("family", families.FAMILIES)
def test_logits_are_nearer_to_the_weights_own(family):
    """Those of the same weights in float32; a family that cannot be widened keeps what it gave before."""
    model = parts.build(family).bfloat16()
    exact, plain = step_logits(copy.deepcopy(model).float()), step_logits(model)
    packed = step_logits(model.pack())
    assert model.language_model.widens == (family not in OWN_WEIGHTS)
    if model.language_model.widens:
        assert off(packed, exact) < 0.8 * off(plain, exact)
    assert off(packed, exact) < 0.05
    assert torch.equal(step_logits(model.unpack()), plain), "off again, bit for bit"


@pytest.mark.parametrize("weights", ["exact", "fp16", "int8", "int4"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_outside_of_requests_a_packed_model_is_what_it_was(family, weights):
    model = parts.build(family).bfloat16()
    ids = torch.arange(20).unsqueeze(0)
    with torch.no_grad():
        plain = model.language_model.model(input_ids=ids).logits
        assert model.pack(weights).language_model.widens
        step_logits(model)
        again = model.language_model.model(input_ids=ids).logits
    assert again.dtype == torch.bfloat16 and torch.equal(again, plain)


def test_losses_with_gradients_are_plain_and_without_them_nearer():
    model = parts.build("llama").bfloat16()
    example = model.processor.encode([parts.picture(1), "Output:"], target=" 1")

    def loss(model: MultimodalLM) -> Tensor:
        return model(model.processor.collate([example]), [example.media]).loss

    plain = loss(model)
    with torch.no_grad():
        exact, rounded = loss(copy.deepcopy(model).float()), loss(model)
    model.pack()
    torch.testing.assert_close(loss(model), plain, rtol=1e-2, atol=0)  # its frozen encoder may be packed
    loss(model).backward()
    assert all(tensor.grad is not None for name, tensor in model.added_parameters() if "fusion" in name)
    with torch.no_grad():
        assert abs(loss(model) - exact) <= abs(rounded - exact)


def test_a_family_that_multiplies_by_weights_of_its_own_is_not_widened():
    """As some mixtures of experts do, whose weights are no layer's."""
    model = parts.build("llama").bfloat16()
    own = nn.Parameter(torch.eye(families.WIDTH, dtype=torch.bfloat16))
    model.language_model.blocks[1].register_forward_pre_hook(lambda module, args: (args[0] @ own, *args[1:]))
    expected = model.generate(parts.prompts(), max_new_tokens=20)
    assert not model.pack().language_model.widens
    assert model.language_model.captures_on == "cpu"
    assert len(model.generate(parts.prompts(), max_new_tokens=20)) == len(expected)


def test_a_widened_model_that_is_made_another_computes_as_that():
    model = parts.build("opt").bfloat16().pack()
    assert model.language_model.widens
    exact = step_logits(copy.deepcopy(model).unpack().float())
    torch.testing.assert_close(step_logits(model.float())[:, :, :256], exact[:, :, :256], rtol=1e-3, atol=1e-3)


@torch.no_grad()
@HALVES
@pytest.mark.parametrize("weights, bound", [("exact", 0.0), ("fp16", 0.0), ("int8", 0.02), ("int4", 0.15)])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_a_linear_layer_takes_wider_inputs(dtype, weights, bound, rows):
    """By its weights as they are; many inputs may be rounded as the layer's own would be."""
    layer, x = nn.Linear(64, 32).to(dtype), torch.randn(rows, 64)
    pack(layer, weights)
    rounding = torch.finfo(dtype).eps if rows > 4 and weights == "exact" else 1e-6
    with use_packed():
        for _ in range(2):
            y, exact = layer(x), x.double() @ layer.weight.double().t() + layer.bias.double()
            assert y.dtype == torch.float32
            assert off(y, exact) < rounding + bound
            layer.weight.mul_(-1)  # which is seen
            layer.bias.add_(1)
    with pytest.raises(RuntimeError, match="dtype"):
        layer(x)


@torch.no_grad()
@HALVES
def test_without_a_kernel_inputs_are_rounded(dtype, monkeypatch):
    monkeypatch.setattr("mmlm.packing._exact", lambda rows, few: None)
    layer, x = nn.Linear(16, 8).to(dtype), torch.randn(3, 16)
    pack(layer)
    with use_packed():
        y = layer(x)
    assert y.dtype == torch.float32 and torch.equal(y, layer(x.to(dtype)).float())


@HALVES
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"elementwise_affine": False}])
def test_a_norm_takes_wider_inputs(dtype, options):
    layer, x = nn.LayerNorm(48, **options).to(dtype), 3 * torch.randn(5, 48) + 1
    for weight in layer.parameters():
        nn.init.normal_(weight)
    narrow = layer(x.to(dtype)).detach()

    def exact() -> Tensor:
        wide = x.double()
        y = (wide - wide.mean(-1, keepdim=True)) / (wide.var(-1, keepdim=True, unbiased=False) + layer.eps).sqrt()
        y = y if layer.weight is None else y * layer.weight.detach().double()
        return y if layer.bias is None else y + layer.bias.detach().double()

    pack(layer)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.5, fused=True) if layer.weight is not None else None
    for _ in range(2):
        with torch.no_grad(), use_packed():
            torch.testing.assert_close(layer(x).double(), exact(), rtol=1e-5, atol=1e-5)
        if optimizer is None:
            return
        assert torch.equal(layer(x.to(dtype)), narrow), "with gradients it computes as ever"
        layer(x.to(dtype)).square().sum().backward()
        optimizer.step()  # which writes without counting it
        narrow = layer(x.to(dtype)).detach()
