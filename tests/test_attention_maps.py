"""What answers attend to, against attention computed by hand."""

import numpy as np
import pytest
import torch

import mmlm
from support import parts
from test_fusion import layer_norm

PROMPT = [parts.picture(1), "left", parts.picture(2), "which is"]


def weights_of(module):
    return {name: tensor.detach().double().numpy() for name, tensor in module.state_dict().items()}


def softmax(scores):
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def heads_of(x, heads):
    return x.reshape(len(x), heads, -1).transpose(1, 0, 2)


def attention_by_hand(x, media, w, heads):
    """Of text `[T, D]` to latents `[M, V]`: `[H, T, M]`."""
    queries = heads_of(layer_norm(x, w["norm.weight"], w["norm.bias"]) @ w["to_q.weight"].T, heads)
    keys = heads_of((media @ w["to_kv.weight"].T)[:, : len(w["to_q.weight"])], heads)
    return softmax(queries @ keys.transpose(0, 2, 1) / np.sqrt(queries.shape[-1]))


def made_of_by_hand(resampler, tokens):
    """What the latents of the one layer are made of: `[L, S]`."""
    w = weights_of(resampler.layers[0][0])
    media, latents = (
        tokens @ weights_of(resampler)["projection.weight"].T if resampler.projection else tokens,
        (resampler.latents.detach().double().numpy()),
    )
    normed = layer_norm(latents, w["norm_latents.weight"], w["norm_latents.bias"])
    both = np.concatenate([layer_norm(media, w["norm_media.weight"], w["norm_media.bias"]), normed])
    heads = resampler.layers[0][0].heads
    queries, keys = normed @ w["to_q.weight"].T, (both @ w["to_kv.weight"].T)[:, : len(w["to_q.weight"])]
    scores = heads_of(queries, heads) @ heads_of(keys, heads).transpose(0, 2, 1) / np.sqrt(queries.shape[-1] // heads)
    shares = softmax(scores)[:, :, : len(tokens)].mean(0)
    return shares / shares.sum(-1, keepdims=True)


@pytest.mark.parametrize("visibility", ["latest", "all"])
def test_maps_are_those_computed_by_hand(visibility):
    model = parts.build("llama", visibility=visibility)
    answer = "the second"
    inputs = []
    handles = [
        layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0][0].detach().double().numpy()))
        for layer in model.fusion.layers
    ]
    model.log_probs([PROMPT], [answer])
    for handle in handles:
        handle.remove()
    features = model.encode_media([PROMPT[0], PROMPT[2]])
    latents = [
        model.resamplers["image"](one.tokens).detach()[0].double().numpy() for one in features
    ]  # [L, V] of each picture
    made_of = [made_of_by_hand(model.resamplers["image"], one.tokens[0].double().numpy()) for one in features]
    seen = [1] if visibility == "latest" else [0, 1]

    found = model.attention_maps(PROMPT, answer, average=False)
    n = len(found.token_ids)
    assert found.token_ids == tuple(model.processor.encode(PROMPT, answer).input_ids[-n:])
    for block, (layer, x) in enumerate(zip(model.fusion.layers, inputs, strict=True)):
        media = np.concatenate([latents[item] for item in seen])
        expected = attention_by_hand(x[-n - 1 : -1], media, weights_of(layer.attn), layer.attn.heads)
        for place, item in enumerate(seen):
            part = expected[..., place * len(latents[0]) : (place + 1) * len(latents[0])] @ made_of[item]
            np.testing.assert_allclose(found.media[item].weights[block], part, atol=1e-5)
    if visibility == "latest":
        assert not found.media[0].weights.any()

    gates = np.tanh([layer.attn_gate.item() for layer in model.fusion.layers])
    np.testing.assert_allclose(found.gates, gates, rtol=1e-6)
    mean = model.attention_maps(PROMPT, answer)
    for own, each in zip(mean.media, found.media, strict=True):
        heads = each.weights.numpy().mean(1)
        np.testing.assert_allclose(own.weights, np.tensordot(gates / gates.sum(), heads, 1), atol=1e-6)


def test_a_medium_whose_tokens_are_passed_on_shares_each_latents_attention_among_them():
    model = parts.build("llama", visibility="all", ears="tokens")
    sound, picture = parts.sound(0.3), parts.picture(1)
    maps = model.attention_maps([sound, picture, "a"], "bc", average=False)
    heard, seen = maps.media
    tokens = model.encode_media([sound])[0].tokens.shape[1]
    assert (heard.modality, seen.modality) == ("audio", "image") and heard.weights.shape[-1] == tokens == 15
    np.testing.assert_allclose(heard.weights.sum(-1) + seen.weights.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(heard.weights[..., 0:14:2], heard.weights[..., 1:14:2], atol=1e-7)
    assert heard.weights[..., 14].any()


def test_what_sees_no_medium_attends_to_none():
    model = parts.shared("llama")
    assert model.attention_maps(["a"], "b").media == ()
    shut = parts.build("llama", opened=False)
    np.testing.assert_allclose(shut.attention_maps([parts.picture(1), "a"], "b").media[0].weights.sum(-1), 1, atol=1e-5)
    model = parts.shared("llama", visibility="prefix")
    with pytest.raises(ValueError, match="prefix"):
        model.attention_maps([parts.picture(1)], "b")
    with pytest.raises(ValueError, match="no tokens"):
        parts.shared("llama").attention_maps([parts.picture(1)], [])


def test_a_packed_model_looks_where_the_plain_one_does(nano_folder):
    prompt, answer = [parts.picture(3), "Question:what color? Short answer:"], "red"
    plain = mmlm.load("nano")
    expected = plain.attention_maps(prompt, answer).media[0].weights
    torch.testing.assert_close(
        plain.pack().attention_maps(prompt, answer).media[0].weights, expected, atol=1e-4, rtol=0
    )
