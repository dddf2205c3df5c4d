"""What answers attend to, against attention computed by hand."""

from base64 import b64encode
from pathlib import Path

import numpy as np
import openai
import pytest
import soundfile
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2

import mmlm
from mmlm.tasks.seen_part import grid_of, seen_part
from support import parts
from support.serving import serving
from test_fusion import layer_norm

ROOT = Path(__file__).parents[1]
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


@pytest.mark.parametrize(
    ("transform", "size", "box"),
    [
        ("squash", (96, 48), (0, 0, 1, 1)),
        ("shortest", (96, 48), (0.25, 0, 0.75, 1)),
        ("shortest", (40, 80), (0, 0.25, 1, 0.75)),
        ("longest", (96, 48), (0, -0.5, 1, 1.5)),
        ("shortest", (3000, 1000), (1 / 3, 0, 2 / 3, 1)),
    ],
)
def test_the_part_of_a_picture_that_is_seen_is_found(transform, size, box):
    encoder = parts.image_encoder()
    encoder.transform = image_transform_v2(PreprocessCfg(size=32, resize_mode=transform), is_train=False)
    np.testing.assert_allclose(seen_part(encoder, *size), box, atol=0.01)
    assert grid_of(encoder, 16) == (4, 4)


def test_the_server_tells_what_words_attend_to(nano):
    with serving({"nano": lambda: nano}) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        picture, recording = ROOT / "docs/images/scene.png", ROOT / "demos/questions/shapes.wav"
        content = [
            {"type": "image_url", "image_url": {"url": "data:;base64," + b64encode(picture.read_bytes()).decode()}},
            {
                "type": "input_audio",
                "input_audio": {"data": b64encode(recording.read_bytes()).decode(), "format": "wav"},
            },
        ]
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": " two shapes"}]

        def asked(**more):
            return client.post("/attention_maps", body={"model": "nano", "messages": messages, **more}, cast_to=object)

        heard, both = asked(), asked(mode="both")
        prompt = nano.chat_prompt([{"role": "user", "content": [mmlm.Image(picture), mmlm.Sound(recording)]}])
        expected = nano.attention_maps(prompt, " two shapes")
        assert "".join(heard["tokens"]) == " two shapes" and len(heard["media"]) == 1
        (seen,) = heard["media"]
        assert (seen["type"], seen["rows"], seen["columns"]) == ("image", 8, 8)
        np.testing.assert_allclose(seen["weights"], expected.media[0].weights[:-1], atol=1e-5)
        np.testing.assert_allclose(seen["box"], (0, 0, 1, 1), atol=0.01)
        assert [one["type"] for one in both["media"]] == ["image", "audio"]
        seconds = both["media"][1]["seconds"] * len(both["media"][1]["weights"][0])
        assert seconds == pytest.approx(soundfile.info(recording).duration, abs=0.05)
        messages.pop()
        with pytest.raises(openai.BadRequestError, match="messages"):
            asked()
        messages.append({"role": "user", "content": "a"})
        with pytest.raises(openai.BadRequestError, match="the assistant's"):
            asked()
