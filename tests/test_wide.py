"""A packed model with weights of 16 bits computes in float32 between them: nearer to its weights, and not elsewhere."""

import copy
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from mmlm.acceleration.copies import use_packed
from mmlm.acceleration.kernels import has_onednn
from mmlm.acceleration.packing import pack_layers
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.generation.decoder import Decoder
from mmlm.model.language_model import LanguageModel
from mmlm.prompting.code_layout import CodeLayout
from mmlm.prompting.processor import Batch
from support import families, kernels, parts

pytestmark = pytest.mark.skipif(not has_onednn(), reason="this build of torch has no oneDNN")

OWN_WEIGHTS = ("falcon", "mixtral", "qwen2_moe", "qwen3_moe")  # families that multiply by weights of no layer's
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


@pytest.fixture(autouse=True)
def packed_kernels(monkeypatch, tmp_path):
    kernels.choose_by(monkeypatch, tmp_path, kernels.packed)


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
    assert model.language_model.acceleration.widens == (family not in OWN_WEIGHTS)
    if model.language_model.acceleration.widens:
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
        assert model.pack(weights).language_model.acceleration.widens
        step_logits(model)
        again = model.language_model.model(input_ids=ids).logits
    assert again.dtype == torch.bfloat16 and torch.equal(again, plain)


def test_losses_with_gradients_are_plain_and_without_them_nearer():
    """Nearer on the mean of some texts; of one, either rounding may be the luckier."""
    model = parts.build("llama").bfloat16()
    texts = [f" {index} rings" for index in range(12)]
    examples = [model.processor.encode([parts.picture(1), "Output:"], target=text) for text in texts]

    def losses(model: MultimodalLM) -> Tensor:
        return torch.stack([model(model.processor.collate([one]), [one.media]).loss for one in examples])

    plain = losses(model)
    with torch.no_grad():
        exact, rounded = losses(copy.deepcopy(model).float()), losses(model)
    model.pack()
    torch.testing.assert_close(losses(model), plain, rtol=1e-2, atol=0)  # its frozen encoder may be packed
    losses(model).mean().backward()
    assert all(tensor.grad is not None for name, tensor in model.added_parameters() if "fusion" in name)
    with torch.no_grad():
        assert (losses(model) - exact).abs().mean() < (rounded - exact).abs().mean()


def test_a_family_that_multiplies_by_weights_of_its_own_is_not_widened():
    """As some mixtures of experts do, whose weights are no layer's."""
    model = parts.build("llama").bfloat16()
    own = nn.Parameter(torch.eye(families.WIDTH, dtype=torch.bfloat16))
    model.language_model.blocks[1].register_forward_pre_hook(lambda module, args: (args[0] @ own, *args[1:]))
    plain = step_logits(model)
    assert not model.pack().language_model.acceleration.widens
    assert model.language_model.acceleration.records_on == "cpu"
    assert off(step_logits(model), plain) < 0.05


def test_packing_again_asks_again():
    """Not the model that was widened before, which would agree with itself."""
    model = parts.build("llama").bfloat16().pack()
    assert model.language_model.acceleration.widens
    own = nn.Parameter(torch.eye(families.WIDTH, dtype=torch.bfloat16))
    model.language_model.blocks[1].register_forward_pre_hook(lambda module, args: (args[0] @ own, *args[1:]))
    with pytest.raises(RuntimeError, match="dtype"):
        step_logits(model)
    assert not model.pack().language_model.acceleration.widens
    packed = step_logits(model)
    assert off(packed, step_logits(model.unpack())) < 0.05


@pytest.mark.parametrize("family, widens", [("llama", True), ("falcon", False)])
def test_packing_within_autocast_asks_without(family, widens):
    model = parts.build(family).bfloat16()
    plain = step_logits(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.pack().language_model.acceleration.widens == widens
    assert off(step_logits(model), plain) < 0.05


def test_a_family_whose_padded_mask_is_narrow_is_not_widened():
    model = parts.build("llama").bfloat16()

    def narrow(module: nn.Module, args: tuple, kwargs: dict) -> None:
        if kwargs["attention_mask"] is not None and args[0].dtype == torch.float32:
            raise TypeError("the mask is bfloat16")

    model.language_model.blocks[0].register_forward_pre_hook(narrow, with_kwargs=True)
    assert not model.pack().language_model.acceleration.widens


@pytest.mark.parametrize("way", ["gradients", "autocast"])
def test_a_request_that_began_wide_goes_on_otherwise(way):
    """Each pass may be run in another mode than that in which the request was made."""
    model = parts.build("opt").bfloat16().pack()
    with torch.no_grad():
        plain, run = step_logits(model), parts.decoder(model, parts.prompts(), 20)
        run.record = None
        run.prefill()
    mode = torch.enable_grad() if way == "gradients" else torch.autocast("cpu", torch.bfloat16)
    with mode:
        found = torch.stack([run.step(torch.tensor([65 + step, 70, 75])) for step in range(6)])
    assert run.wide and off(found.detach(), plain) < 0.05


@torch.no_grad()
def test_a_text_that_is_unpacked_in_the_middle_says_so():
    model = parts.build("llama").bfloat16().pack()
    run = parts.decoder(model, parts.prompts(), 9)
    run.prefill()
    model.unpack()
    with pytest.raises(RuntimeError, match="unpacked while"):
        run.step(torch.tensor([65, 70, 75]))


@torch.no_grad()
def test_a_text_goes_on_when_its_model_is_packed():
    model = parts.build("llama").bfloat16()
    plain, run = step_logits(model), parts.decoder(model, parts.prompts(), 20)
    run.prefill()
    assert model.pack().language_model.acceleration.widens
    assert off(torch.stack([run.step(torch.tensor([65 + step, 70, 75])) for step in range(6)]), plain) < 0.05


def test_codes_and_their_adapters_are_nearer_too():
    def logits(pack: bool, dtype: torch.dtype) -> Tensor:
        torch.manual_seed(0)
        layout = CodeLayout("image", 8, 1, (3, 3))
        host = LanguageModel(families.language_model("llama").bfloat16(), families.tokenizer(), layouts=(layout,))
        for adapter in host.lora.parameters():
            nn.init.normal_(adapter, std=0.1)
        model = MultimodalLM(host, parts.image_encoder(), parts.RESAMPLER, parts.fusion()).bfloat16().to(dtype)
        model = model.pack() if pack else model
        ids = torch.tensor([[5, 6, host.vocabulary.spans["image"].begin], [7, 8, 9]])
        batch = Batch(ids, torch.ones_like(ids))
        with torch.no_grad():
            run = Decoder(host, model.media_context(batch, [[], []]), batch, 20, codes=True)
            run.prefill()
            codes = host.vocabulary.spans["image"].ids_of(0)
            return torch.stack([run.step(torch.tensor([codes[place], 9])) for place in (1, 4)])

    exact = logits(False, torch.float32)
    assert off(logits(True, torch.bfloat16), exact) < 0.8 * off(logits(False, torch.bfloat16), exact)


def test_without_a_kernel_for_wide_inputs_nothing_is_widened(monkeypatch):
    """As on ARM processors."""
    monkeypatch.setattr("mmlm.acceleration.kernels.has_fbgemm", lambda: False)
    monkeypatch.setattr(import_module("mmlm.acceleration.pack"), "has_fbgemm", lambda: False)
    model = parts.build("gpt2").bfloat16()
    plain = step_logits(model)
    assert not model.pack().language_model.acceleration.widens
    assert off(step_logits(model), plain) < 0.05


def test_weights_of_float16():
    model = parts.build("gpt2").half()
    exact, plain = step_logits(copy.deepcopy(model).float()), step_logits(model)
    packed = step_logits(model.pack())
    assert model.language_model.acceleration.widens and off(packed, exact) < 0.5 * off(plain, exact)
    assert len(parts.texts(model, parts.prompts(), max_new_tokens=20, num_beams=3)) == 3


@pytest.mark.parametrize("gates", [torch.float32, torch.float64])
def test_gated_blocks_may_be_wider(gates):
    model = parts.build("llama").bfloat16()
    model.fusion.to(gates), model.resamplers.to(gates), model.encoders.to(gates)
    exact = step_logits(copy.deepcopy(model).float())
    assert off(step_logits(model.pack()), exact) < 0.05


def test_pruned_layers_take_rounded_inputs():
    model = parts.build("llama").bfloat16().pack()
    layer = model.language_model.blocks[0].mlp.up_proj
    prune.random_unstructured(layer, "weight", amount=0.1)
    exact = step_logits(copy.deepcopy(model).unpack().float())
    assert off(step_logits(model), exact) < 0.05
    x = torch.randn(2, families.WIDTH)
    with torch.no_grad(), use_packed():
        assert torch.equal(layer(input=x), layer(x.bfloat16()).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_widened_model_that_is_made_another_computes_as_that(dtype):
    model = parts.build("opt").bfloat16().pack()
    assert model.language_model.acceleration.widens
    exact = step_logits(copy.deepcopy(model).unpack().to(dtype))
    assert off(step_logits(model.to(dtype)), exact) < 1e-4


@torch.no_grad()
@HALVES
@pytest.mark.parametrize("weights, bound", [("exact", 0.0), ("fp16", 0.0), ("int8", 0.02), ("int4", 0.15)])
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_a_linear_layer_takes_wider_inputs(dtype, weights, bound, rows):
    """By its weights as they are; many inputs may be rounded as the layer's own would be."""
    layer, x = nn.Linear(64, 32).to(dtype), torch.randn(rows, 64)
    pack_layers(layer, weights)
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
def test_where_the_layers_own_forward_is_chosen_inputs_are_rounded(dtype, monkeypatch, tmp_path):
    kernels.choose_by(monkeypatch, tmp_path, kernels.only("torch"))
    layer, x = nn.Linear(16, 8).to(dtype), torch.randn(3, 16)
    pack_layers(layer)
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

    pack_layers(layer)
    with torch.no_grad():
        assert torch.equal(layer(input=x.to(dtype)), narrow)
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


@torch.no_grad()
def test_what_is_made_in_inference_mode_is_widened_each_time():
    """Its changes are not counted."""
    x = torch.randn(3, 8)
    linear, norm = nn.Linear(8, 8).bfloat16(), nn.LayerNorm(8).bfloat16()
    pack_layers(nn.ModuleList([linear, norm]))
    with torch.inference_mode():
        linear.bias, norm.weight = nn.Parameter(torch.zeros(8).bfloat16()), nn.Parameter(torch.ones(8).bfloat16())
        with use_packed():
            before = linear(x), norm(x)
            linear.bias.add_(1)
            norm.weight.mul_(2)
            torch.testing.assert_close(linear(x), before[0] + 1)
            torch.testing.assert_close(norm(x), before[1] * 2)
