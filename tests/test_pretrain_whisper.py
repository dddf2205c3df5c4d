"""Pretraining a Whisper from nothing (recipes/pretrain/whisper.py): what it writes is upstream's, and it hears."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import whisper

from encoders.media.sound import SAMPLE_RATE
from encoders.transcription.transcriber import Transcriber
from encoders.whisper import load_whisper
from recipes.pretrain.examples import Utterance
from recipes.pretrain.whisper import (
    FULL_VOCABULARY,
    Batches,
    Vocabulary,
    WhisperTrainConfig,
    condensed,
    expanded,
    other_microphone,
    train_whisper,
)

WORDS = {"low": 300.0, "middle": 900.0, "high": 2700.0}
SMALL = WhisperTrainConfig(
    width=32, heads=2, audio_layers=1, text_layers=1, text_context=32, batch_size=6, window_every=3, window_batch=3,
    steps=100, learning_rate=5e-3,
)  # fmt: skip


def tone(hertz, seconds=0.6):
    wave = 0.4 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)
    return (wave * 32767).astype(np.int16)


def utterances():
    rng = np.random.default_rng(0)
    return [
        Utterance(tone(hertz * rng.uniform(0.97, 1.03), rng.uniform(0.4, 0.8)), word)
        for word, hertz in WORDS.items()
        for _ in range(8)
    ]


def test_sequences_are_whispers():
    """By hand, with upstream's own tokenizer: start, time, text, time, end."""
    vocabulary = Vocabulary(["a red ring", "no"])
    back = dict(enumerate(vocabulary.used))
    tokenizer = whisper.tokenizer.get_tokenizer(False)
    said = [back[number] for number in vocabulary.sequence([(0.5, 1.26, "a red ring"), (2.0, 30.0, "no")])]
    assert tokenizer.decode_with_timestamps(said) == (
        "<|startoftranscript|><|0.50|> a red ring<|1.26|><|2.00|> no<|30.00|><|endoftext|>"
    )
    plain = [back[number] for number in vocabulary.sequence([(0.0, 1.0, "no")], timestamps=False)]
    assert tokenizer.encoding.decode(plain) == "<|startoftranscript|><|notimestamps|> no<|endoftext|>"
    nothing = [back[number] for number in vocabulary.sequence([])]
    assert nothing == [tokenizer.sot, tokenizer.no_speech, tokenizer.eot]


def test_all_rows_written_out_give_the_probabilities_that_were_trained():
    vocabulary = Vocabulary(["a red ring"])
    torch.manual_seed(0)
    dims = whisper.ModelDimensions(80, 1500, 16, 2, 1, len(vocabulary), 8, 16, 2, 1)
    model = whisper.Whisper(dims).eval()
    torch.nn.init.normal_(model.decoder.positional_embedding)
    whole = expanded(model, vocabulary)
    sound, tokens = torch.randn(1, 10, 16), torch.tensor([[3, 5, 8]])
    real = torch.tensor([[vocabulary.used[number] for number in row] for row in tokens.tolist()])
    with torch.no_grad():
        few = model.decoder(tokens, sound).double()  # 51,864 float32 terms add up to an error of their own
        few[..., -1] += np.log(FULL_VOCABULARY - len(vocabulary.used))
        many = whole.decoder(real, sound).double().log_softmax(-1)
    torch.testing.assert_close(many[..., vocabulary.used], few.log_softmax(-1)[..., :-1], atol=1e-4, rtol=0)
    others = sorted(set(range(FULL_VOCABULARY)) - set(vocabulary.used))
    torch.testing.assert_close(many[..., others].exp().sum(-1), few.softmax(-1)[..., -1], atol=1e-4, rtol=0)


def test_steps_depend_on_nothing_but_the_seed():
    vocabulary = Vocabulary(WORDS)
    for step in (0, 2, 5):  # 2 and 5 hear whole windows
        first, second = (Batches(SMALL, utterances(), vocabulary).at(step) for _ in range(2))
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
        assert first[0].shape[2] == (3000 if step else first[0].shape[2])
    heard = Batches(SMALL, utterances(), vocabulary)
    epoch = sorted(index for step in range(4) for index in heard._batch(step))
    assert epoch == list(range(24))


def test_it_learns_and_loads_as_upstreams(tmp_path):
    written = train_whisper(replace(SMALL, steps=40, learning_rate=1e-2), utterances(), tmp_path)
    model = whisper.load_model(str(tmp_path / "whisper.pt"), device="cpu")
    assert isinstance(model, whisper.Whisper) and not model.is_multilingual
    for name, tensor in model.state_dict().items():  # written in float16
        torch.testing.assert_close(tensor, written.state_dict()[name], atol=0, rtol=0)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.7 * losses[0]
    still = replace(SMALL, steps=1, learning_rate=1e-12)
    further = train_whisper(still, utterances(), tmp_path / "more", tmp_path / "whisper.pt")
    for name, tensor in further.state_dict().items():  # a tiny step leaves what it started from, in float16
        torch.testing.assert_close(tensor, written.state_dict()[name], atol=0, rtol=0)
    transcript = Transcriber(load_whisper(tmp_path / "whisper.pt")).transcribe((tone(300.0), SAMPLE_RATE))
    assert transcript.language == "en" and transcript.seconds == pytest.approx(0.6, abs=0.02)


def test_a_decoder_that_learns_alone_leaves_its_encoder(tmp_path):
    train_whisper(replace(SMALL, steps=1), utterances(), tmp_path)
    alone = replace(SMALL, steps=4, decoder_only=True)
    train_whisper(alone, utterances(), tmp_path / "more", tmp_path / "whisper.pt")
    before, after = (whisper.load_model(str(path / "whisper.pt")) for path in (tmp_path, tmp_path / "more"))
    for name, tensor in after.state_dict().items():
        learned = not torch.equal(tensor, before.state_dict()[name])
        assert learned == (name.startswith("decoder.") and name != "decoder.mask"), name


def test_what_does_not_fit_is_refused(tmp_path):
    vocabulary = Vocabulary(WORDS)
    torch.save({"model_state_dict": {"decoder.token_embedding.weight": torch.randn(51864, 4)}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="share"):
        condensed(tmp_path / "other.pt", vocabulary)
    with pytest.raises(ValueError, match="batch of 6"):
        Batches(SMALL, utterances()[:3], vocabulary)
    with pytest.raises(ValueError, match="30 s"):
        Batches(SMALL, [Utterance(np.zeros(31 * SAMPLE_RATE, np.int16), "low")] * 6, vocabulary)
    long = " ".join(["low"] * 40)
    with pytest.raises(ValueError, match="text_context=32"):
        Batches(SMALL, [Utterance(tone(300.0), long)] * 6, Vocabulary([long]))


def test_the_last_windows_end_as_whispers_decoding_ends_them():
    """Half of them hold one utterance; where the recording ends, zeros follow in place of a spectrogram."""
    vocabulary = Vocabulary(WORDS)
    batches = Batches(SMALL, utterances(), vocabulary)
    first = vocabulary.tokenizer.timestamp_begin
    ended = 0
    for step in (71, 73, 75, 77):  # from step 70 on every second step sees windows
        mel, tokens = batches.at(step)
        assert mel.shape == (3, 80, 3000)
        for row, (spectrogram, said) in enumerate(zip(mel, tokens.tolist(), strict=True)):
            real = [vocabulary.used[token] for token in said if token >= 0]
            stamps = [0.02 * (token - first) for token in real if token >= first]
            words = sum(token == vocabulary.tokenizer.eot for token in real)
            assert words == 1 and (row % 2 or len(stamps) <= 2)
            frames = int((spectrogram != 0).any(0).nonzero().max()) + 1
            assert frames / 100 >= max(stamps, default=0) - 0.02
            ended += frames < 2000
    assert 6 <= ended <= 12  # four of five, but for the draw
    mel, _ = batches.at(2)  # earlier, silence follows to the end
    assert bool((mel[:, :, -1] != 0).any())


def test_played_faster_a_tone_is_shorter_and_higher():
    samples = tone(1000.0, 1.0)
    batches = Batches(replace(SMALL, speed=0.2), utterances(), Vocabulary(WORDS))
    for seed in range(5):
        heard = batches._heard(Utterance(samples, "low"), torch.Generator().manual_seed(seed)).numpy()
        stretch = len(heard) / len(samples)
        peak = np.abs(np.fft.rfft(heard)).argmax() * SAMPLE_RATE / len(heard)
        assert 0.8 <= stretch <= 1.2 and peak * stretch == pytest.approx(1000.0, rel=0.01)


def test_another_microphone_changes_the_bands_alike_at_all_times():
    mel = torch.randn(80, 30)
    difference = other_microphone(mel, torch.Generator().manual_seed(0)) - mel
    torch.testing.assert_close(difference, difference[:, :1].expand(-1, 30), atol=1e-5, rtol=0)
    assert 0.02 < difference[:, 0].std() < 0.5 and difference[:, 0].diff().abs().max() < 0.05  # smooth
