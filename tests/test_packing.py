"""Packed linear layers: the same numbers within rounding, the same texts, and all else as it was, bit for bit."""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from transformers.pytorch_utils import Conv1D

from encoders.media.sound import SAMPLE_RATE, Audio
from encoders.transcription.passes import Passes, hear
from encoders.transcription.transcriber import Transcriber
from encoders.whisper import WhisperAudioEncoder
from mmlm.acceleration.copies import Copies, use_packed
from mmlm.acceleration.kernels import has_onednn, reduces_range
from mmlm.acceleration.packing import pack_layers, unpack_layers
from mmlm.acceleration.speech import pack_transcriber
from mmlm.assembly.assemble import assemble
from mmlm.assembly.multimodal_lm import MultimodalLM
from support import families, hearing, kernels, parts

pytestmark = pytest.mark.skipif(not has_onednn(), reason="this build of torch has no oneDNN")

FEW_FAMILIES = pytest.mark.parametrize("family", ["gpt2", "llama", "mixtral", "gemma2"])


@pytest.fixture(autouse=True)
def packed_kernels(monkeypatch, tmp_path):
    """Not by time: tests/test_choosing.py is of that."""
    kernels.choose_by(monkeypatch, tmp_path, kernels.packed)


def logits(model: MultimodalLM, steps: int = 4) -> Tensor:
    """Of a padded prompt and some cached steps."""
    run = parts.decoder(model, parts.prompts(), steps)
    with torch.no_grad():
        found = [run.prefill()]
        for step in range(steps):
            found.append(run.step(torch.tensor([65 + step, 70, 75])))
    return torch.stack(found)


@pytest.mark.parametrize("family", list(families.FAMILIES))
def test_packed_logits_and_texts_are_the_plain_ones(family):
    model = parts.build(family)
    plain = logits(model)
    texts = [parts.token_ids(model, parts.prompts(), max_new_tokens=20, num_beams=beams) for beams in (1, 3)]
    packed = logits(model.pack())
    seen = plain.isfinite()
    torch.testing.assert_close(packed[seen], plain[seen], rtol=1e-4, atol=1e-4)
    assert texts == [parts.token_ids(model, parts.prompts(), max_new_tokens=20, num_beams=beams) for beams in (1, 3)]
    assert torch.equal(logits(model.unpack()), plain), "off again, bit for bit"


def products(run: Callable[[], object]) -> int:
    """How many of oneDNN's and FBGEMM's packed products a run takes."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile:
        run()
    kernels = ("mkldnn::_linear_pointwise", "quantized::linear_dynamic_fp16")
    return sum(event.count for event in profile.key_averages() if event.key in kernels)


def test_every_linear_layer_is_packed():
    """Whatever else a family computes, its linear layers and those of the gated blocks go to oneDNN."""
    model = parts.build("llama").pack()
    layers = [layer for layer in model.language_model.model.modules() if isinstance(layer, nn.Linear)]
    gated = 4 * len(model.fusion.layers)  # to_kv runs once, before
    with torch.no_grad():
        run = parts.decoder(model, parts.prompts(), 1)
        assert products(run.prefill) == len(layers) + gated
        assert products(lambda: run.step(torch.tensor([65, 70, 75]))) == len(layers) + gated


@torch.no_grad()
@pytest.mark.parametrize("modality, layers", [("image", 4), ("audio", 6)])
def test_encoders_are_packed_with_their_attention(modality, layers):
    """CLIP's blocks have four linear layers, two of them within torch's own attention; Whisper's have six."""
    model = parts.build("gpt2", ears="latents")
    media = [parts.picture(1), parts.picture(2)] if modality == "image" else [parts.sound(0.1), parts.sound(0.3)]
    plain = model.encode_media(media)
    model.pack()
    with use_packed():
        packed = model.encode_media(media)
        count = products(lambda: model.encode_media(media[:1]))
    for one, other in zip(packed, plain, strict=True):
        torch.testing.assert_close(one.tokens, other.tokens, rtol=1e-4, atol=1e-5)
    towers = {"image": "model.visual.transformer.resblocks", "audio": "model.encoder.blocks"}
    assert count == layers * len(model.encoders[modality].get_submodule(towers[modality]))
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(model.encode_media(media), plain, strict=True))


def test_a_packed_whisper_writes_down_the_same():
    whisper = WhisperAudioEncoder(hearing.tiny_whisper(sharpness=0.3))
    model = assemble(families.language_model("gpt2"), audio_encoder=whisper, tokenizer=families.tokenizer())
    sound = Audio(hearing.noise(3.0), SAMPLE_RATE)
    said = model.transcribe(sound, language="en", temperatures=(1.0,))
    assert said.text
    model.pack()
    assert model.transcribe(sound, language="en", temperatures=(1.0,)).text == said.text
    # Two blocks of the encoder with six linear layers, one of the decoder with ten.
    assert products(lambda: model.transcribe(sound, language="en", temperatures=(1.0,))) > 2 * 6 + 10
    assert "forward" in vars(model.transcriber.output)  # which is no part of Whisper's modules
    model.unpack()
    assert "forward" not in vars(model.transcriber.output)


@pytest.mark.parametrize(("weights", "rounds"), [("exact", False), ("fp16", False), ("int8", True), ("int4", True)])
def test_a_quantised_whisper_multiplies_what_it_hears_in_bfloat16_where_the_processor_can(weights, rounds, monkeypatch):
    for can in (True, False):
        monkeypatch.setattr("mmlm.acceleration.speech.multiplies", lambda dtype, can=can: can)
        transcriber = Transcriber(hearing.tiny_whisper())
        pack_transcriber(transcriber, weights)
        assert transcriber.compute_dtype == (torch.bfloat16 if rounds and can else torch.float32)


def test_what_is_heard_in_bfloat16_is_that_of_float32_to_its_rounding():
    whisper = hearing.tiny_whisper(sharpness=0.3).eval().requires_grad_(False)
    mel = torch.randn(80, 3000, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([1, 2, 3])
    exact, rounded = hear(whisper, mel), hear(whisper, mel, compute_dtype=torch.bfloat16)
    assert rounded.features.dtype == torch.float32
    assert {tensor.dtype for pair in rounded.keys_values for tensor in pair} == {torch.bfloat16}
    assert 0 < (rounded.features - exact.features).abs().max() / exact.features.abs().max() < 0.03
    heads = [[0, 0], [0, 1]]
    found, scores = Passes(whisper, rounded, rows=1).attend(tokens, heads)
    logits, alike = Passes(whisper, exact, rows=1).attend(tokens, heads)
    torch.testing.assert_close(logits, whisper.decoder(tokens[None], exact.features)[0], rtol=1e-4, atol=1e-5)
    for own, other in ((found, logits), (scores, alike)):
        assert own.dtype == torch.float32 and 0 < (own - other).abs().max() / other.abs().max() < 0.03


def test_what_a_quantised_whisper_hears_is_exact_and_what_it_writes_is_not():
    whisper = hearing.tiny_whisper(sharpness=0.3)
    transcriber = Transcriber(whisper)
    mel = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[1, 2, 3]])

    def both() -> tuple[list[Tensor], Tensor]:
        heard = hear(whisper, mel[0])
        own = [heard.features, *(tensor for pair in heard.keys_values for tensor in pair)]
        return own, whisper.decoder(tokens, heard.features)

    with torch.no_grad():
        plain, written = both()
        pack_transcriber(transcriber, "int8")
        with transcriber.computing():
            packed, quantised = both()
    for one, other in zip(packed, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert 1e-3 < (quantised - written).abs().max() / written.abs().max() < 0.2


@FEW_FAMILIES
@pytest.mark.parametrize("weights", ["exact", "fp16", "int8", "int4"])
def test_outside_of_requests_a_packed_model_is_what_it_was(family, weights):
    model = parts.build(family).pack(weights)
    ids = torch.arange(20).unsqueeze(0)
    with torch.no_grad():
        plain = families.language_model(family)(input_ids=ids).logits
        assert torch.equal(model.language_model.model(input_ids=ids).logits, plain)
        logits(model)
        assert torch.equal(model.language_model.model(input_ids=ids).logits, plain)


def loss_and_gradients(model: MultimodalLM) -> list[Tensor]:
    examples = [model.processor.encode([parts.picture(seed), "Output:"], target=f" {seed}") for seed in (1, 2)]
    loss = model(model.processor.collate(examples), [example.media for example in examples]).loss
    loss.backward()
    return [loss, *(tensor.grad for _, tensor in model.added_parameters())]


def test_training_does_not_notice():
    plain, packed = parts.build("gpt2"), parts.build("gpt2").pack()
    logits(packed)
    for one, other in zip(loss_and_gradients(plain), loss_and_gradients(packed), strict=True):
        # Frozen encoders need no gradients, and are computed on packed weights: their last bits may differ.
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert list(plain.state_dict()) == list(packed.state_dict())


def test_weights_that_change_are_packed_anew():
    model = parts.build("gpt2").pack()
    before = logits(model)
    with torch.no_grad():
        model.fusion.layers[0].attn.to_out.weight.mul_(-1)
    after = logits(model)
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after, logits(model.unpack()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fused", [False, True])
def test_weights_that_are_trained_are_packed_anew(fused):
    """Fused optimizers write into weights without counting it."""
    model = parts.build("gpt2").pack()
    before = logits(model)
    trained = [tensor for _, tensor in model.added_parameters()]
    optimizer = torch.optim.AdamW(trained, lr=0.05, fused=fused)
    loss_and_gradients(model)
    optimizer.step()
    after = logits(model)
    assert not torch.allclose(after, before, atol=0.1)
    torch.testing.assert_close(after, logits(model.unpack()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("frozen", [(), ("in_proj_weight",)])
def test_attention_that_is_trained_is_packed_anew(mode, frozen):
    layer, x = nn.MultiheadAttention(12, 3, batch_first=True), torch.randn(2, 5, 12)
    pack_layers(layer)
    with torch.no_grad(), use_packed():
        before = layer.eval()(x, x, x, need_weights=False)[0]
    for name in frozen:
        layer.get_parameter(name).requires_grad_(False)
    optimizer = torch.optim.AdamW([weight for weight in layer.parameters() if weight.requires_grad], 0.1, fused=True)
    layer.train(mode)(x, x, x, need_weights=False)[0].square().sum().backward()
    optimizer.step()
    with torch.no_grad(), use_packed():
        after = layer.eval()(x, x, x, need_weights=False)[0]
    assert not torch.allclose(after, before, atol=0.1)
    torch.testing.assert_close(after.double(), attention_by_float64(layer, x), rtol=1e-5, atol=1e-5)


def test_a_weight_of_another_shape_at_the_same_place_is_packed_anew():
    layer, x = nn.Linear(6, 6), torch.randn(2, 6)
    pack_layers(layer)
    with torch.no_grad(), use_packed():
        layer(x)
        for weight, bias in ((layer.weight.data.t(), layer.bias.data), (layer.weight.data[:4], layer.bias.data[:4])):
            layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
            torch.testing.assert_close(layer(x), x @ weight.t() + bias)


def test_in_bfloat16():
    model = parts.build("llama").to(torch.bfloat16)
    plain = logits(model)
    packed = logits(model.pack())
    seen = plain.isfinite()
    torch.testing.assert_close(packed[seen], plain[seen], rtol=0.05, atol=0.1)
    model.float().bfloat16().float()  # not the weights that were packed, wherever they lie now
    torch.testing.assert_close(logits(model)[seen], logits(model.unpack())[seen], rtol=1e-4, atol=1e-4)


def test_threads_that_pack_at_once_give_the_same():
    rows = [[parts.picture(seed), f"{seed} Output:"] for seed in range(4)]
    alone = [parts.texts(parts.shared("llama"), row, max_new_tokens=24) for row in rows]
    for _ in range(3):
        model = parts.build("llama").pack()
        with ThreadPoolExecutor(len(rows)) as pool:
            assert list(pool.map(lambda row: parts.texts(model, row, max_new_tokens=24), rows)) == alone


class Meeting(Tensor):
    """A weight that another thread changes, and copies, while it is compared with what was copied."""

    meet: Callable[[], object] | None = None

    def data_ptr(self) -> int:
        meet, Meeting.meet = Meeting.meet, None
        if meet is not None:
            meet()
        return super().data_ptr()


def test_a_weight_that_another_thread_changes_is_never_its_earlier_copy():
    weight, copies = torch.ones(2).as_subclass(Meeting), Copies()

    def copied() -> float:
        return copies.get(weight, "sum", lambda _: float(weight.sum()))

    assert copied() == 2.0
    Meeting.meet = lambda: (weight.add_(1), copied())
    assert copied() == 4.0


def test_a_copy_is_packed_on_its_own():
    model = parts.build("gpt2").pack()
    before = logits(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for layer in twin.fusion.layers:
            layer.attn.to_out.weight.zero_()
    assert not torch.allclose(logits(twin), before)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("layer", [nn.Linear(5, 3), nn.Linear(5, 3, bias=False), Conv1D(3, 5)])
@pytest.mark.parametrize("shape", [(5,), (1, 5), (2, 3, 5), (0, 5), (2, 0, 5)])
def test_a_layer_alone_by_float64(layer, shape):
    x = torch.randn(shape)
    weight = layer.weight.double().t() if isinstance(layer, nn.Linear) else layer.weight.double()
    expected = x.double() @ weight + (0 if layer.bias is None else layer.bias.double())
    pack_layers(layer)
    with torch.no_grad(), use_packed():
        torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)
    assert layer(x).requires_grad, "with gradients the layer's own forward runs"
    unpack_layers(layer)
    assert "forward" not in vars(layer)


def attention_by_float64(layer: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Vaswani et al. 2017, head by head."""
    wide = x.double()
    query, key, value = (wide @ layer.in_proj_weight.double().t() + layer.in_proj_bias.double()).chunk(3, dim=-1)
    heads = []
    for part in torch.arange(layer.embed_dim).chunk(layer.num_heads):
        scores = query[..., part] @ key[..., part].transpose(1, 2) / len(part) ** 0.5
        heads.append(scores.softmax(-1) @ value[..., part])
    return torch.cat(heads, -1) @ layer.out_proj.weight.double().t() + layer.out_proj.bias.double()


def test_torch_s_own_attention_by_float64():
    layer = nn.MultiheadAttention(12, 3, batch_first=True).eval()
    nn.init.normal_(layer.in_proj_bias)
    nn.init.normal_(layer.out_proj.bias)
    x = torch.randn(2, 5, 12)
    pack_layers(layer)
    with torch.no_grad(), use_packed():
        assert products(lambda: layer(x, x, x, need_weights=False)) == 2
        found, weights = layer(x, x, x, need_weights=False)
    torch.testing.assert_close(found.double(), attention_by_float64(layer, x), rtol=1e-5, atol=1e-5)
    assert weights is None
    unpack_layers(layer)
    assert "forward" not in vars(layer)


@pytest.mark.parametrize(
    "options",
    [
        {"need_weights": True},
        {"need_weights": False, "attn_mask": torch.ones(5, 5).triu(1).bool()},
        {"need_weights": False, "attn_mask": torch.ones(5, 5).triu(1).bool(), "is_causal": True},
        {"need_weights": False, "key_padding_mask": torch.arange(5).expand(2, 5) > 3},
    ],
)
def test_attention_that_asks_for_more_is_torch_s_own(options):
    layer = nn.MultiheadAttention(12, 3, batch_first=True).eval()
    x = torch.randn(2, 5, 12)
    with torch.no_grad():
        expected = layer(x, x, x, **options)
        across = layer(x, x + 1, x + 1, need_weights=False)[0]
        pack_layers(layer)
        with use_packed():
            torch.testing.assert_close(layer(x, x, x, **options), expected, rtol=0, atol=0)
            assert torch.equal(layer(x, x + 1, x + 1, need_weights=False)[0], across)


def test_what_a_packed_layer_cannot_take_goes_to_its_own_forward():
    layer, x = nn.Linear(4, 3), torch.randn(2, 4)
    expected = layer(x).detach()
    pack_layers(layer)
    with torch.no_grad(), use_packed():
        assert torch.equal(layer(input=x), expected), "given by name"
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            layer(torch.randn(2, 5))
        for name in ("bias", "weight"):
            prune.random_unstructured(layer, name, amount=1)
            assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
    empty = nn.Linear(4, 1)
    empty.weight, empty.bias = (nn.Parameter(tensor[:0]) for tensor in (empty.weight, empty.bias))
    pack_layers(empty)
    with torch.no_grad(), use_packed():
        assert empty(x).shape == (2, 0)


def test_a_weight_made_in_inference_mode_is_left_plain():
    """Its changes are not counted."""
    layer, x = nn.Linear(4, 3), torch.randn(2, 4)
    pack_layers(layer)
    with torch.inference_mode(), use_packed():
        layer.weight = nn.Parameter(torch.zeros(3, 4))
        layer(x)
        layer.weight.add_(1)
        torch.testing.assert_close(layer(x), x.sum(-1, keepdim=True) + layer.bias)


def test_a_weight_exchanged_for_one_that_int4_does_not_take_is_int8():
    layers, x = [nn.Linear(64, 32), nn.Linear(48, 20)], torch.randn(4, 48)
    for layer, weights in zip(layers, ("int4", "int8"), strict=True):
        pack_layers(layer, weights)
    with torch.no_grad(), use_packed():
        layers[0](torch.randn(4, 64))
        layers[0].weight, layers[0].bias = layers[1].weight, layers[1].bias
        assert torch.equal(layers[0](x), layers[1](x))


def test_a_layer_in_another_precision_than_its_input_computes_as_ever():
    layer = nn.Linear(4, 4)
    pack_layers(layer)
    with torch.no_grad(), use_packed(), pytest.raises(RuntimeError, match="dtype"):
        layer(torch.randn(2, 4, dtype=torch.bfloat16))


@pytest.mark.parametrize("layer", [nn.Linear(48, 20), nn.Linear(48, 20, bias=False), Conv1D(20, 48)])
@pytest.mark.parametrize("shape", [(48,), (5, 48), (3, 7, 48)])
def test_fp16_is_as_far_off_as_rounding_to_11_bits_may_be(layer, shape):
    nn.init.normal_(layer.weight)
    x = torch.randn(shape)
    rows = (layer.weight if isinstance(layer, nn.Linear) else layer.weight.t()).detach().double()
    exact = x.double() @ rows.t() + (0 if layer.bias is None else layer.bias.detach().double())
    bound = 2.0**-11 * x.double().abs() @ rows.abs().t()
    pack_layers(layer, "fp16")
    with torch.no_grad(), use_packed():
        error = (layer(x).double() - exact).abs()
    assert (error <= bound + 1e-5).all()
    assert error.norm() > 1e-5 * exact.norm(), "something was rounded"


def test_weights_beyond_fp16_stay_exact():
    layer, x = nn.Linear(8, 4), torch.randn(3, 8)
    layer.weight.data[0, 0] = 1e5
    exact = layer.double()(x.double()).detach()
    layer.float()
    for weights in ("fp16", "exact"):
        pack_layers(layer, weights)
        with torch.no_grad(), use_packed():
            torch.testing.assert_close(layer(x).double(), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layer", [nn.Linear(768, 20), nn.Linear(768, 20, bias=False), Conv1D(20, 768)])
@pytest.mark.parametrize("rows", [1, 4, 5, 40])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_exact_is_exact_for_few_inputs_and_for_many(layer, rows, size):
    """No farther from float64 than float32's own product may be; weights of 11 bits alone are a hundred times off."""
    nn.init.normal_(layer.weight, std=size)
    x = torch.randn(rows, 768)
    weight = (layer.weight if isinstance(layer, nn.Linear) else layer.weight.t()).detach().double()
    exact = x.double() @ weight.t() + (0 if layer.bias is None else layer.bias.detach().double())
    pack_layers(layer)
    with torch.no_grad(), use_packed():
        error = (layer(x).double() - exact).norm() / exact.norm()
    assert error < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("largest", [1e-44, 1e-36, 1e-20, 1.0, 7e4, 1e12, 3e38])
def test_exact_is_exact_row_by_row(largest):
    """Rows of unequal size, one of nothing; weights too small for a float32 of their own are still not far off."""
    layer, x = nn.Linear(64, 6, bias=False), torch.randn(2, 64) / 64
    weight = torch.randn(6, 64) * torch.tensor([1.0, 1e-3, 1e-6, 0, 1e-12, 1])[:, None] * 0.2
    layer.weight.copy_((weight.double() * largest).float().clamp(-3e38, 3e38))
    rows = layer.weight.double()
    pack_layers(layer)
    with use_packed():
        error = (layer(x).double() - x.double() @ rows.t()).abs()
    assert (error <= 4e-7 * x.double().abs() @ rows.abs().t() + 1e-37).all()


@torch.no_grad()
@pytest.mark.parametrize("weights, copies", [("exact", 2), ("fp16", 1), ("int8", 1), ("int4", 1)])
def test_weights_have_a_copy_for_each_kernel(weights, copies):
    layer = nn.Linear(64, 32)
    pack_layers(layer, weights)
    with use_packed():
        for rows in (1, 2, 100, 3, 200):
            layer(torch.randn(rows, 64))
    made = layer.forward.weight.products.kept.made
    assert len([key for key in made if isinstance(key, str)]) == copies


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kernel", ["half", "float32", "float32 onednn"])
def test_halves_lose_nothing_but_their_output_s_rounding(dtype, kernel, monkeypatch, tmp_path):
    """For a processor that multiplies no such numbers: these kernels hold weights whole, and sum in float32."""
    kernels.choose_by(monkeypatch, tmp_path, kernels.only(kernel))
    layer, x = nn.Linear(48, 20).to(dtype), torch.randn(5, 48).to(dtype)
    exact = x.double() @ layer.weight.detach().double().t() + layer.bias.detach().double()
    pack_layers(layer)
    with torch.no_grad(), use_packed():
        y = layer(x)
    assert y.dtype == dtype
    assert ((y.double() - exact).abs() <= torch.finfo(dtype).eps / 2 * exact.abs() + 1e-5).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_of_halves_sums_in_float32(dtype, bias, monkeypatch):
    monkeypatch.setattr("mmlm.acceleration.packing.multiplies", lambda dtype: dtype == torch.float32)
    layer = nn.Conv2d(3, 16, 4, stride=4, bias=bias).to(dtype)
    x = torch.randn(2, 3, 16, 16).to(dtype)
    exact = copy.deepcopy(layer).double()(x.double())
    plain = layer(x)
    pack_layers(layer)
    assert torch.equal(layer(x), plain), "with gradients, it computes as ever"
    with torch.no_grad():
        assert torch.equal(layer(x), plain), "outside of requests, too"
        with use_packed():
            y = layer(x)
    assert y.dtype == dtype
    assert ((y.double() - exact).abs() <= torch.finfo(dtype).eps / 2 * exact.abs() + 1e-5).all()
    unpack_layers(layer)
    assert "forward" not in vars(layer)


@pytest.mark.parametrize("layer", [nn.Linear(48, 20), nn.Linear(48, 20, bias=False), Conv1D(20, 48)])
@pytest.mark.parametrize("shape", [(48,), (5, 48), (3, 7, 48)])
def test_int8_is_as_far_off_as_rounding_to_8_bits_may_be(layer, shape):
    """|error| ≤ Σ|w|·a/2 + Σ|x|·b/2 + n·a·b/4 for steps a of the inputs and b of a row of weights."""
    nn.init.normal_(layer.weight)
    x = torch.randn(shape)
    rows = (layer.weight if isinstance(layer, nn.Linear) else layer.weight.t()).detach().double()
    exact = x.double() @ rows.t() + (0 if layer.bias is None else layer.bias.detach().double())
    a = (x.max() - x.min()).double() / (127 if reduces_range() else 255)
    b = rows.abs().amax(1) / 127
    bound = rows.abs().sum(1) * a / 2 + x.double().abs().sum(-1, keepdim=True) * b / 2 + 48 * a * b / 4
    pack_layers(layer, "int8")
    with torch.no_grad(), use_packed():
        error = (layer(x).double() - exact).abs()
    assert (error <= 1.5 * bound).all(), "a zero point that is rounded, too, shifts what is at the ends"
    assert error.max() > 0, "something was rounded"


@pytest.mark.parametrize("layer", [nn.Linear(96, 48), nn.Linear(96, 48, bias=False), Conv1D(48, 96)])
@pytest.mark.parametrize("shape", [(96,), (5, 96), (3, 7, 96)])
def test_int4_is_as_far_off_as_rounding_to_4_bits_may_be(layer, shape):
    """Half a step of its 32 neighbours' range for each weight, and bfloat16's rounding of all that goes in and out."""
    nn.init.normal_(layer.weight)
    x = torch.randn(shape)
    rows = (layer.weight if isinstance(layer, nn.Linear) else layer.weight.t()).detach().double()
    bias = 0 if layer.bias is None else layer.bias.detach().double()
    exact = x.double() @ rows.t() + bias
    groups, tiny = rows.reshape(48, 3, 32), 2.0**-8
    step = ((groups.amax(-1) - groups.amin(-1)) / 15).repeat_interleave(32, dim=1)
    off = 0.5 * step + tiny * (8 * step + rows.abs().amax())
    size = x.double().abs()
    bound = size @ off.t() + tiny * (size @ (rows.abs() + off).t()) + tiny * (exact - bias).abs()
    pack_layers(layer, "int4")
    with torch.no_grad(), use_packed():
        error = (layer(x).double() - exact).abs()
    assert (error <= bound).all()
    assert error.norm() > 0.02 * exact.norm(), "to no more than 4 bits"


@pytest.mark.parametrize("out, inputs", [(20, 64), (32, 48)])
def test_a_layer_of_a_size_that_int4_does_not_take_is_int8(out, inputs):
    layers = [nn.Linear(inputs, out) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(4, inputs)
    for layer, weights in zip(layers, ("int4", "int8"), strict=True):
        pack_layers(layer, weights)
    with torch.no_grad(), use_packed():
        assert torch.equal(layers[0](x), layers[1](x))


def test_weights_that_there_are_not():
    with pytest.raises(ValueError, match="exact, fp16, int8, int4"):
        pack_layers(nn.Linear(3, 3), "int3")


def test_a_forward_that_somebody_else_has_set_stays():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].forward = torch.neg
    pack_layers(model)
    x = torch.randn(2, 3)
    with torch.no_grad(), use_packed():
        torch.testing.assert_close(model(x), torch.nn.functional.linear(-x, model[1].weight, model[1].bias))
    unpack_layers(model)
    assert model[0].forward is torch.neg


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "mixtral"])
@pytest.mark.parametrize("weights, limit", [("fp16", 0.01), ("int8", 0.15), ("int4", 0.5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounded_logits_are_near(family, weights, limit, dtype):
    model = parts.build(family).to(dtype)
    plain = logits(model)
    seen = plain.isfinite()
    packed = logits(model.pack(weights))
    assert model.language_model.acceleration.records_on == ("cpu" if family != "gemma2" else None)
    off = (packed - plain)[seen].norm() / plain[seen].norm()
    assert off < limit
    assert off > 0 or (weights, dtype) == ("fp16", torch.bfloat16), "which holds all bits of these"
    assert torch.equal(logits(model.unpack()), plain)
