"""The Perceiver resampler against a float64 reference written from the paper's formulas, and its masks."""

import numpy as np
import pytest
import torch
from torch import Tensor

import mmlm
from encoders.base import Features
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.model.config import ResamplerConfig
from mmlm.model.language_model import LanguageModel
from mmlm.model.resampler import PerceiverResampler, split_heads
from mmlm.prompting.processor import Batch
from support import families, parts
from support.references import attention, gelu, layer_norm, numpy_weights

HEADS, HEAD = 3, 5


def resampler(dim: int = 12, input_dim: int | None = None, depth: int = 2, dtype=torch.float64) -> PerceiverResampler:
    torch.manual_seed(0)
    module = PerceiverResampler(dim, input_dim, depth=depth, num_latents=4, heads=HEADS, dim_head=HEAD, ff_mult=3)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return module.to(dtype)


# The reference: one item at a time, numpy in float64, every sum written out.


def reference(weights: dict[str, np.ndarray], features: np.ndarray, depth: int) -> np.ndarray:
    """latents += Attn(LN(x), LN(latents)), keys and values from cat(x, latents); latents += FF(latents); final LN."""
    w = weights
    if "projection.weight" in w:
        features = features @ w["projection.weight"].T
    latents = w["latents"]
    for i in range(depth):
        p = f"layers.{i}.0."
        x = layer_norm(features, w[p + "norm_media.weight"], w[p + "norm_media.bias"])
        normed = layer_norm(latents, w[p + "norm_latents.weight"], w[p + "norm_latents.bias"])
        both = np.concatenate([x, normed]) @ w[p + "to_kv.weight"].T
        inner = both.shape[1] // 2
        keys, values = both[:, :inner], both[:, inner:]  # k is the first half
        attended = attention(normed @ w[p + "to_q.weight"].T, keys, values, HEADS)
        latents = latents + attended @ w[p + "to_out.weight"].T
        p = f"layers.{i}.1."
        hidden = gelu(layer_norm(latents, w[p + "0.weight"], w[p + "0.bias"]) @ w[p + "1.weight"].T)
        latents = latents + hidden @ w[p + "3.weight"].T
    return layer_norm(latents, w["norm.weight"], w["norm.bias"])


@pytest.mark.parametrize("input_dim", [None, 12, 7])
@pytest.mark.parametrize("depth", [1, 3])
@torch.no_grad()
def test_equals_the_reference(input_dim, depth):
    module = resampler(12, input_dim, depth)
    features = torch.randn(2, 6, input_dim or 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = np.stack([reference(numpy_weights(module), item, depth) for item in features.numpy()])
    np.testing.assert_allclose(module(features).numpy(), expected, atol=1e-10)
    np.testing.assert_allclose(module.float()(features.float()).numpy(), expected, atol=2e-4)


@torch.no_grad()
def test_masked_items_equal_the_reference_at_their_own_length():
    module = resampler()
    features = torch.randn(3, 6, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    lengths = [6, 2, 4]
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0]]).bool()
    out = module(features, mask)
    for index, length in enumerate(lengths):
        expected = reference(numpy_weights(module), features[index, :length].numpy(), 2)
        np.testing.assert_allclose(out[index].numpy(), expected, atol=1e-10)
    other = torch.where(mask.unsqueeze(-1), features, torch.full_like(features, 1e4))
    assert torch.equal(module(other, mask), out), "what the mask hides is not read"


@torch.no_grad()
def test_order_of_features_does_not_matter_and_items_do_not_meet():
    module = resampler()
    features = torch.randn(2, 6, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    out = module(features)
    torch.testing.assert_close(module(features[:, torch.tensor([3, 1, 5, 0, 2, 4])]), out)
    changed = features.clone()
    changed[0] = changed[0].flip(-1)
    again = module(changed)
    assert torch.equal(again[1], out[1])
    assert not torch.allclose(again[0], out[0])


def test_names_and_shapes_are_those_of_openflamingo_checkpoints():
    module = PerceiverResampler(24, depth=2)
    found = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    expected = {"latents": (64, 24), "norm.weight": (24,), "norm.bias": (24,)}
    for i in range(2):
        expected |= {
            f"layers.{i}.0.norm_media.weight": (24,),
            f"layers.{i}.0.norm_media.bias": (24,),
            f"layers.{i}.0.norm_latents.weight": (24,),
            f"layers.{i}.0.norm_latents.bias": (24,),
            f"layers.{i}.0.to_q.weight": (512, 24),
            f"layers.{i}.0.to_kv.weight": (1024, 24),
            f"layers.{i}.0.to_out.weight": (24, 512),
            f"layers.{i}.1.0.weight": (24,),
            f"layers.{i}.1.0.bias": (24,),
            f"layers.{i}.1.1.weight": (96, 24),
            f"layers.{i}.1.3.weight": (24, 96),
        }
    assert found == expected


@pytest.mark.parametrize("input_dim", [12, 7])
def test_without_layers_every_token_passes_projected_and_normed(input_dim):
    module = resampler(12, input_dim, depth=0)
    features = torch.randn(2, 6, input_dim, dtype=torch.float64)
    w = numpy_weights(module)
    assert set(w) == {"norm.weight", "norm.bias"} | ({"projection.weight"} if input_dim == 7 else set())
    tokens = features.numpy() @ w["projection.weight"].T if input_dim == 7 else features.numpy()
    expected = layer_norm(tokens, w["norm.weight"], w["norm.bias"])
    np.testing.assert_allclose(module(features).detach().numpy(), expected, rtol=1e-9)
    whole = torch.ones(2, 6, dtype=torch.bool)
    assert torch.equal(module(features, whole), module(features))
    whole[1, 5] = False  # who looks at the tokens must leave it out
    assert torch.equal(module(features, whole), module(features))


@torch.no_grad()
def test_a_model_without_latents_keeps_the_laws(tmp_path):
    """Cached = uncached, batch = single, save → load, with every patch token as its own key."""
    model = MultimodalLM(
        LanguageModel(families.language_model("llama"), families.tokenizer()),
        parts.image_encoder(),
        ResamplerConfig(depth=0),
        parts.fusion(),
    )
    parts.open_gates(model)
    rows = [[parts.picture(1), "one. ", parts.picture(2), "Output:"], ["only text"], ["see: ", parts.picture(3), "x"]]
    together = parts.texts(model, rows, max_new_tokens=12)
    assert together == [parts.texts(model, row, max_new_tokens=12) for row in rows]
    batch, media = parts.encoded(model, rows[:1])
    decoder = parts.decoder(model, rows[:1], 4)
    decoder.prefill()
    following = torch.tensor([70])
    cached = decoder.step(following)
    batch.input_ids = torch.cat([batch.input_ids, following[None]], dim=1)
    batch.attention_mask = torch.ones_like(batch.input_ids)
    whole = model(batch, media).logits[:, -1]
    written = slice(model.language_model.vocabulary.end_of_chunk_id + 1)  # placeholders are never written
    torch.testing.assert_close(cached[:, written], whole[:, written], rtol=1e-4, atol=1e-4)
    model.save(tmp_path)
    again = mmlm.load(tmp_path, language_model=families.language_model("llama"), tokenizer=families.tokenizer(),
                      image_encoder=parts.image_encoder())  # fmt: skip
    assert parts.texts(again, rows, max_new_tokens=12) == together


def test_every_parameter_gets_a_gradient():
    module = resampler(12, 7)
    module(torch.randn(2, 6, 7, dtype=torch.float64)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in module.parameters())


@torch.no_grad()
def test_a_model_resamples_items_of_unequal_length_as_if_alone():
    model = parts.shared("llama")
    draw = torch.Generator().manual_seed(4)
    long, short = (torch.randn(1, length, 24, generator=draw) for length in (9, 5))
    padded = torch.cat([short, torch.full((1, 3, 24), 50.0)], dim=1)
    mask = (torch.arange(8) < 5).unsqueeze(0)
    image_id = model.language_model.vocabulary.image_id
    ids = torch.tensor([[image_id, 70, 71, 72]] * 3)
    rows = [[Features(long)], [Features(short)], [Features(padded, mask)]]

    def logits(chosen: list[list[Features]]) -> Tensor:
        some = ids[: len(chosen)]
        return model(Batch(some, torch.ones_like(some)), chosen).logits

    together = logits(rows)
    for index, row in enumerate([rows[0], rows[1], rows[1]]):
        torch.testing.assert_close(together[index], logits([row])[0], rtol=1e-4, atol=1e-4)


def test_heads_of_nothing():
    assert split_heads(torch.zeros(0, 5, 16), 2).shape == (0, 2, 5, 8)


@pytest.mark.parametrize(("tokens", "stack"), [(9, 4), (8, 4), (5, 3), (7, 1), (3, 8)])
def test_tokens_of_two_frames_are_not_joined_in_one(tokens, stack):
    """A video gives what each of its frames gives alone, whatever number of tokens a frame has."""
    torch.manual_seed(0)
    module = PerceiverResampler(6, 4, depth=0, stack=stack, frame=tokens).double()
    frames = torch.randn(3, tokens, 4, dtype=torch.float64)
    alone = module(frames)
    torch.testing.assert_close(module(frames.flatten(0, 1)[None])[0], alone.flatten(0, 1))
    assert module.count(tokens) == alone.shape[1] and module.count(3 * tokens) == 3 * alone.shape[1]
    short = torch.stack([frames.flatten(0, 1), torch.cat([frames[0], torch.full((2 * tokens, 4), 9.0)])])
    mask = torch.arange(3 * tokens) < torch.tensor([[3 * tokens], [tokens]])
    found, real = module(short, mask), module.latent_mask(mask)
    assert real is not None and real.sum(1).tolist() == [3 * alone.shape[1], alone.shape[1]]
    torch.testing.assert_close(found[1, : alone.shape[1]], alone[0])
    shares = module.unstacked(torch.eye(module.count(3 * tokens)), 3 * tokens)
    assert shares.shape == (3 * alone.shape[1], 3 * tokens) and torch.equal(shares.sum(0), torch.ones(3 * tokens))
    groups = shares.argmax(0).view(3, tokens)  # which group each token is in
    assert all(int(groups[f].min()) == f * alone.shape[1] for f in range(3))
