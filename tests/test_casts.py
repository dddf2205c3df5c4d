"""A whole model in another type: cast after it was loaded, or loaded so."""

import pytest
import torch

import mmlm
from encoders.whisper import WhisperAudioEncoder
from support import parts

VERBS = {
    "caption": lambda model, root: model.caption(root / "docs/images/scene.png"),
    "answer": lambda model, root: model.answer(root / "docs/images/scene.png", "how many shapes are there?"),
    "transcribe": lambda model, root: model.transcribe(root / "demos/questions/order.wav").text,
    "ask": lambda model, root: model.ask(
        root / "demos/questions/order.wav", "Which drink does the speaker order?", mode="features"
    ),
}


@pytest.fixture(scope="module")
def expected():
    model = mmlm.load("nano")
    return {name: verb(model, root()) for name, verb in VERBS.items()}


def root():
    from pathlib import Path

    return Path(__file__).parents[1]


@pytest.mark.parametrize("how", ["half", "to", "load"])
def test_every_verb_goes_on_in_16_bits(how, expected):
    model = mmlm.load("nano", dtype=torch.bfloat16) if how == "load" else mmlm.load("nano")
    if how != "load":
        model = model.half() if how == "half" else model.to(torch.bfloat16)
    said = {name: verb(model, root()) for name, verb in VERBS.items()}
    assert said["transcribe"] == expected["transcribe"] and said["ask"] == expected["ask"]
    assert said["caption"].split()[:4] == expected["caption"].split()[:4] and said["answer"] == expected["answer"]
    text = "in the middle a large red circle, on a white background"
    for steps in (None, 0):  # by the diffusion decoder, and by the codec
        drawn = model.draw(text, seed=0, temperature=0.1, steps=steps)
        assert drawn.size == (128, 128) and drawn.getpixel((64, 64))[0] > 200 > 60 > drawn.getpixel((64, 64))[1]
        again = model.draw(text, seed=0, temperature=0.1, init_image=drawn, strength=0.0)
        assert again.getpixel((64, 64))[0] > 200
    assert model.speak("seven", seed=0).seconds > 0


def test_whispers_weights_keep_their_type_and_every_bit():
    """Its layers cast their weights to what they are given, and its norms expect float32."""
    encoder = parts.audio_encoder()
    own = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    mel = encoder.preprocess(parts.sound(0.3).source)
    tokens = encoder.encode([mel]).tokens
    for cast in (encoder.half, encoder.bfloat16, lambda: encoder.to("cpu", torch.float64), encoder.float):
        cast()
        assert all(torch.equal(tensor, own[name]) for name, tensor in encoder.state_dict().items())
        assert torch.equal(encoder.encode([mel]).tokens, tokens)
    assert isinstance(encoder, WhisperAudioEncoder)
    assert {tensor.device.type for tensor in encoder.to("meta").parameters()} == {"meta"}
