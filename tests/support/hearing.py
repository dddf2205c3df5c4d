"""Tiny Whisper models and sounds for the tests."""

from pathlib import Path

import numpy as np
import torch
import whisper

from encoders.media.sound import SAMPLE_RATE

MULTILINGUAL, ENGLISH = 51865, 51864


def tiny_whisper(seed: int = 0, vocabulary: int = MULTILINGUAL, sharpness: float = 1.0) -> whisper.Whisper:
    """A random model of the upstream class. `sharpness` scales its token embedding: higher, surer of what it says."""
    torch.manual_seed(seed)
    dims = whisper.ModelDimensions(
        n_mels=80, n_audio_ctx=1500, n_audio_state=32, n_audio_head=2, n_audio_layer=2, n_vocab=vocabulary,
        n_text_ctx=64, n_text_state=32, n_text_head=2, n_text_layer=1,
    )  # fmt: skip
    model = whisper.Whisper(dims).eval()
    with torch.no_grad():
        model.decoder.positional_embedding.normal_()
        model.decoder.token_embedding.weight.mul_(sharpness)
    return model


def noise(seconds: float, seed: int = 0, level: float = 0.1) -> np.ndarray:
    """Noise whose loudness wanders; the loudest comes first, where upstream and a stream agree on the dynamic range."""
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal(round(seconds * SAMPLE_RATE)).astype(np.float32) * level
    samples *= (0.3 + np.abs(np.sin(np.arange(len(samples)) / 9000))).astype(np.float32)
    samples[1000:1800] = np.sin(np.arange(800) * 0.5).astype(np.float32)
    return samples.clip(-1, 1)


def save_whisper(model: whisper.Whisper, path: Path) -> Path:
    """As openai-whisper writes its checkpoints."""
    torch.save({"dims": vars(model.dims), "model_state_dict": model.state_dict()}, path)
    return path
