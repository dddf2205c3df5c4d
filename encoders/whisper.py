"""openai-whisper, frozen: its encoder as features of recordings at their true length; loading models by name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import whisper
from torch import Tensor, nn
from whisper.audio import HOP_LENGTH, N_FFT, mel_filters
from whisper.model import AudioEncoder

from encoders.base import Features, FrozenEncoder, check_device, check_tensor, device_alone, fingerprint
from encoders.guarded import whisper_named
from encoders.hub import HUB_ID
from encoders.media.sound import SAMPLE_RATE, load_audio
from encoders.whisper_forms.choose import from_file, from_folder

OWN = "whisper/"  # before names of openai-whisper's own models
STRIDE = 2  # mel frames per token, the stride of the second convolution
DYNAMIC_RANGE = 8.0  # powers of ten below the loudest value, where log-power is clipped
MIN_SAMPLES = N_FFT  # 25 ms: one frame


def load_whisper(name: str | Path, device: str | torch.device = "cpu") -> whisper.Whisper:
    """Load the Whisper that `name` describes, frozen, float32 and in eval mode: openai-whisper's module for every form.

    name: one of openai-whisper's own ("tiny", "small", "large-v3", …; "whisper/tiny" is the same), which is downloaded
        once; a checkpoint file in its layout; or a folder or hub id of transformers ("openai/whisper-tiny", fine-tunes,
        distil-whisper) or of CTranslate2 ("Systran/faster-whisper-tiny"). Tensors and settings only, pickled code is
        refused. Weights of 8 and 16 bits become float32.
    ValueError for an unknown name, another form, a model that openai-whisper's module cannot be, and a device that is
    not there; FileNotFoundError for a file that is missing or cannot be fetched; TypeError for what is no name.
    """
    if not isinstance(name, str | os.PathLike):
        raise TypeError(f"a Whisper is given by its name, file or folder, not {type(name).__name__}")
    check_device(device)
    name = str(name)
    known, short = whisper.available_models(), name.removeprefix(OWN)
    if short in known:
        try:
            model = whisper_named(short, device)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"cannot get the weights of Whisper {short!r}: {error}. Connect to the network, or give a local file"
            ) from error
    elif Path(name).is_file():
        model = from_file(Path(name))
    elif Path(name).is_dir() or (HUB_ID.fullmatch(name) and not name.startswith(OWN)):
        model = from_folder(name)
    else:
        raise ValueError(
            f"{name!r} is neither a file nor a folder, a hub id or a Whisper model; the models: {', '.join(known)}"
        )
    return model.to(device).requires_grad_(False).eval()


class WhisperAudioEncoder(FrozenEncoder):
    """Recordings → the tokens of a Whisper encoder, 50 per second, at their true length.

    Whisper itself pads every recording to 30 s. Here a shorter one is not padded: it takes the first positions of the
    table, and less compute. A longer one is encoded in windows of 30 s, one after the other; nothing is cut off.

    model: an openai-whisper model. It is frozen and put into eval mode, and not changed otherwise. Its weights stay
        float32 when the model around it is cast (`.half()`, `.to(torch.bfloat16)`): Whisper's layers cast their weights
        to the type of what they are given, and its norms compute in float32.
    name: the name from which `load` would build this encoder; None if there is none.
    """

    modality = "audio"
    model: whisper.Whisper

    def __init__(self, model: whisper.Whisper, *, name: str | None = None) -> None:
        super().__init__()
        self.model = model
        self.name = name
        self.dim: int = model.dims.n_audio_state
        self.window = STRIDE * model.dims.n_audio_ctx  # mel frames
        self.freeze()

    @classmethod
    def load(cls, name: str | Path, *, device: str | torch.device = "cpu") -> WhisperAudioEncoder:
        """Load the encoder that `name` describes, see `load_whisper`."""
        model = load_whisper(name, device)
        is_path = str(name).removeprefix(OWN) not in whisper.available_models() and Path(name).exists()
        return cls(model, name=str(Path(name).resolve() if is_path else name))

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.encoder.conv1.weight.device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> WhisperAudioEncoder:
        # Its layers cast their weights to what they are given, and its norms expect float32.
        return super()._apply(device_alone(fn), recurse)

    def preprocess(self, media: Any) -> Tensor:
        """Any audio source that `encoders.media.open_audio` accepts → its log-mel spectrogram [n_mels, T].

        There are 100 frames per second. T is even, so that up to 20 ms at the end may be dropped. Audio of less than
        25 ms is padded with silence.
        """
        samples = torch.from_numpy(load_audio(media, sample_rate=SAMPLE_RATE).waveform)
        samples = F.pad(samples, (0, max(0, MIN_SAMPLES - len(samples))))
        mel = log_mel(samples, self.model.dims.n_mels)
        return mel[:, : mel.shape[1] // STRIDE * STRIDE]

    @torch.no_grad()
    def encode(self, batch: Sequence[Tensor] | Tensor) -> Features:
        """Spectrograms [n_mels, T] of N recordings of any lengths → tokens [N, S, D], S = longest T / 2, and a mask.

        Windows of equal length go through the encoder as one batch, without padding, so a recording has the same tokens
        in a batch as alone.
        """
        rows = [self._check(mel) for mel in batch]
        if not rows:
            raise ValueError("there is no spectrogram to encode")
        windows = [(row, part) for row, mel in enumerate(rows) for part in mel.split(self.window, dim=1)]
        encoded: dict[int, Tensor] = {}  # by the index of the window
        for length in sorted({part.shape[1] for _, part in windows}):
            chosen = [index for index, (_, part) in enumerate(windows) if part.shape[1] == length]
            stacked = torch.stack([windows[index][1] for index in chosen])
            tokens = encode_window(self.model.encoder, stacked.to(self.device, self.model.encoder.conv1.weight.dtype))
            for index, token in zip(chosen, tokens, strict=True):
                encoded[index] = token
        joined = [
            torch.cat([encoded[index] for index, (owner, _) in enumerate(windows) if owner == row])
            for row in range(len(rows))
        ]
        lengths = torch.tensor([len(tokens) for tokens in joined], device=self.device)
        tokens = nn.utils.rnn.pad_sequence(joined, batch_first=True)
        mask = torch.arange(tokens.shape[1], device=self.device) < lengths[:, None]
        times = self.token_times(tokens.shape[1]).to(self.device).expand(len(joined), -1)
        return Features(tokens, None if bool(mask.all()) else mask, times)

    def token_times(self, count: int) -> Tensor:
        """The start of the window of each of `count` tokens: [S], in seconds."""
        window = self.window // STRIDE
        return torch.arange(count) // window * (self.window * HOP_LENGTH / SAMPLE_RATE)

    def fingerprint(self) -> str:
        """16 hex characters of the encoder's weights, its number of heads, and the settings of its spectrogram.

        Settings are hashed and not a computed spectrogram, which processors round differently.
        """
        dims = self.model.dims
        spectrogram = (SAMPLE_RATE, N_FFT, HOP_LENGTH, dims.n_mels, DYNAMIC_RANGE, STRIDE)
        parts = f"{fingerprint(self.model.encoder)}|{dims.n_audio_head}|{spectrogram}"
        return hashlib.sha256(parts.encode()).hexdigest()[:16]

    def _check(self, mel: Tensor) -> Tensor:
        n_mels = self.model.dims.n_mels
        check_tensor(mel, f"a spectrogram [{n_mels}, T]")
        if mel.ndim != 2 or mel.shape[0] != n_mels or mel.shape[1] < STRIDE or mel.shape[1] % STRIDE:
            raise ValueError(f"expected spectrograms [{n_mels}, T], T even, got {list(mel.shape)}; use preprocess()")
        return mel


def encode_window(encoder: AudioEncoder, mel: Tensor) -> Tensor:
    """Windows [N, n_mels, T] → tokens [N, T / 2, D]: AudioEncoder.forward of whisper/model.py, for any T up to 3000."""
    x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel)))).transpose(1, 2)
    positions: Any = encoder.positional_embedding  # a buffer
    x = (x + positions[: x.shape[1]]).to(x.dtype)
    for block in encoder.blocks:
        x = block(x)
    return encoder.ln_post(x)


def log_mel(samples: Tensor, n_mels: int) -> Tensor:
    """Samples [T] at 16 kHz → [n_mels, T // 160], equal to `whisper.log_mel_spectrogram`."""
    return scale(log_power(F.pad(samples[None], (N_FFT // 2, N_FFT // 2), "reflect")[0], n_mels))


def log_power(samples: Tensor, n_mels: int) -> Tensor:
    """Samples at 16 kHz → log10 power [n_mels, T] of the frames that lie within them, every 10 ms, without the last."""
    spectrum = torch.stft(
        samples, N_FFT, HOP_LENGTH, window=torch.hann_window(N_FFT), center=False, return_complex=True
    )
    power = mel_filters(samples.device, n_mels) @ spectrum[:, :-1].abs().square()
    return power.clamp(min=1e-10).log10()


def scale(power: Tensor, loudest: float | None = None) -> Tensor:
    """Log-power → Whisper's input range. `loudest`: the top of the dynamic range; None for the maximum of `power`."""
    top = power.max() if loudest is None else torch.tensor(loudest)
    return (torch.maximum(power, top - DYNAMIC_RANGE) + 4.0) / 4.0
