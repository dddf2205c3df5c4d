"""A small Whisper from nothing but speech with its text: an openai-whisper model that `whisper.load_model` reads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import whisper
from torch import Tensor
from whisper.audio import HOP_LENGTH, N_FRAMES
from whisper.tokenizer import Tokenizer, get_tokenizer

from encoders.guarded import torch_file
from encoders.media.sound import SAMPLE_RATE
from encoders.whisper import encode_window, log_mel
from mmlm.training import LossObjective, Trainer, TrainerConfig
from mmlm.training.identity import digest
from mmlm.training.shuffle import generator
from recipes.pretrain.examples import Utterance

FULL_VOCABULARY = 51864  # of the English-only models
N_MELS = 80
WINDOW_SECONDS = 30.0
STEP_SECONDS = 0.02  # between timestamp tokens
PLAIN_SHARE = 0.2  # of the sequences have no timestamps
IGNORE = -100


@dataclass(frozen=True)
class WhisperTrainConfig:
    """Size and schedule. Every `window_every`-th step sees whole windows of 30 s, of several utterances or one.

    From the share `settling` of the steps on, it is every second step, half of these windows hold one utterance, and
    most recordings end soon after: the rest is then what Whisper's own decoding fills a window up with, zeros in place
    of a spectrogram. Where to stop is learned last, from windows that hold little and cost most.
    """

    width: int = 128
    heads: int = 2  # of 64, as in every Whisper
    audio_layers: int = 4
    text_layers: int = 3
    text_context: int = 128
    batch_size: int = 32
    window_every: int = 6
    window_batch: int = 4
    settling: float = 0.7
    speed: float = 0.12  # speech is played up to so much faster or slower
    steps: int = 7000
    learning_rate: float = 2.5e-3
    decoder_only: bool = False  # the encoder keeps its weights, and whatever was trained on its features stays right
    seed: int = 0
    device: str = "cpu"


class Vocabulary:
    """The tokens of openai-whisper's English tokenizer that some texts need, numbered anew without gaps.

    Every byte, the control tokens and the timestamps are always among them. All others share one number, the last: it
    is learned as if it were each of them, so that a model with all rows written out gives them their place.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.tokenizer: Tokenizer = get_tokenizer(False)
        control = (self.tokenizer.sot, self.tokenizer.eot, self.tokenizer.no_speech, self.tokenizer.no_timestamps)
        stamps = range(self.tokenizer.timestamp_begin, FULL_VOCABULARY)
        said = {token for text in texts for token in self.tokenizer.encode(" " + text.strip())}
        self.used: list[int] = sorted({*range(256), *control, *stamps, *said})
        self.others = FULL_VOCABULARY - len(self.used)
        self.number = {token: index for index, token in enumerate(self.used)}

    def __len__(self) -> int:
        return len(self.used) + 1

    def sequence(self, spoken: Sequence[tuple[float, float, str]], timestamps: bool = True) -> list[int]:
        """Renumbered tokens of a window: each (start, end, text) between its timestamps, in seconds."""
        tokenizer = self.tokenizer
        if not any(text for _, _, text in spoken):
            return [self.number[token] for token in (tokenizer.sot, tokenizer.no_speech, tokenizer.eot)]
        tokens = [tokenizer.sot] if timestamps else [tokenizer.sot, tokenizer.no_timestamps]
        for start, end, text in spoken:
            own = tokenizer.encode(" " + text.strip())
            tokens += [self._stamp(start), *own, self._stamp(end)] if timestamps else own
        return [self.number[token] for token in (*tokens, tokenizer.eot)]

    def _stamp(self, seconds: float) -> int:
        return self.tokenizer.timestamp_begin + min(1500, round(seconds / STEP_SECONDS))


def train_whisper(
    config: WhisperTrainConfig, utterances: Sequence[Utterance], output: str | Path, start: str | Path | None = None
) -> whisper.Whisper:
    """Train on utterances and write `output/whisper.pt`; resumes from `output/checkpoints`.

    `start`: what an earlier run wrote, to go on from with a schedule of its own. Short recordings are seen at their
    length, as the adapters will hear them, and in whole windows of 30 s, as Whisper's own decoding does.
    """
    output = Path(output)
    vocabulary = Vocabulary(utterance.text for utterance in utterances)
    torch.manual_seed(config.seed)
    dims = whisper.ModelDimensions(
        n_mels=N_MELS, n_audio_ctx=N_FRAMES // 2, n_audio_state=config.width, n_audio_head=config.heads,
        n_audio_layer=config.audio_layers, n_vocab=len(vocabulary), n_text_ctx=config.text_context,
        n_text_state=config.width, n_text_head=config.heads, n_text_layer=config.text_layers,
    )  # fmt: skip
    model = whisper.Whisper(dims).to(config.device)
    torch.nn.init.normal_(model.decoder.token_embedding.weight, std=config.width**-0.5)
    torch.nn.init.normal_(model.decoder.positional_embedding, std=0.01)
    if start is not None:
        model.load_state_dict(condensed(start, vocabulary))
    batches = Batches(config, utterances, vocabulary)
    rest = torch.zeros(len(vocabulary), device=config.device)
    rest[-1] = math.log(vocabulary.others)

    def loss_at(step: int) -> Tensor:
        mel, tokens = (part.to(config.device) for part in batches.at(step))
        with torch.set_grad_enabled(not config.decoder_only):
            heard = encode_window(model.encoder, mel)
        logits = model.decoder(tokens[:, :-1].clamp(min=0), heard) + rest
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=IGNORE)

    def save(folder: Path) -> Path:
        whole = expanded(model, vocabulary)
        partial = folder / "whisper.partial"
        torch.save({"dims": vars(whole.dims), "model_state_dict": whole.half().state_dict()}, partial)
        return partial.replace(folder / "whisper.pt")

    settings = TrainerConfig(steps=config.steps, learning_rate=config.learning_rate, optimizer="muon", seed=config.seed)
    given = [part for utterance in utterances for part in (utterance.samples.tobytes(), utterance.text)]
    identity = {"config": asdict(config), "data": digest(*given)}
    learning = model.decoder if config.decoder_only else model
    Trainer(LossObjective("whisper", learning, loss_at, save, identity), settings, output).fit()
    return expanded(model, vocabulary).half().float()


def expanded(model: whisper.Whisper, vocabulary: Vocabulary) -> whisper.Whisper:
    """The model with a row for every token of openai-whisper's tokenizer."""
    dims = whisper.ModelDimensions(**{**vars(model.dims), "n_vocab": FULL_VOCABULARY})
    whole = whisper.Whisper(dims)
    state = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    rows = state["decoder.token_embedding.weight"]
    table = rows[-1].repeat(FULL_VOCABULARY, 1)
    table[vocabulary.used] = rows[:-1]
    whole.load_state_dict({**state, "decoder.token_embedding.weight": table})
    return whole.eval()


def condensed(path: str | Path, vocabulary: Vocabulary) -> dict[str, Tensor]:
    """The weights of `expanded`, as saved, with rows for this vocabulary alone; ValueError if they are another's.

    A token that is new to the vocabulary starts with the row that all others share.
    """
    state = torch_file(path)["model_state_dict"]
    table = state["decoder.token_embedding.weight"].float()
    shared, counts = table.unique(dim=0, return_counts=True)
    if len(table) != FULL_VOCABULARY or counts.max() < vocabulary.others // 2:
        raise ValueError(f"{path} has no row that unused tokens share: it is not of train_whisper")
    rows = torch.cat([table[vocabulary.used], shared[counts.argmax()].unsqueeze(0)])
    return {**state, "decoder.token_embedding.weight": rows}


class Batches:
    """What each step hears: a pure function of the seed and the step."""

    def __init__(self, config: WhisperTrainConfig, utterances: Sequence[Utterance], vocabulary: Vocabulary) -> None:
        if len(utterances) < config.batch_size:
            raise ValueError(f"{len(utterances)} utterances do not fill one batch of {config.batch_size}")
        self.config, self.utterances, self.vocabulary = config, utterances, vocabulary
        self.lengths = torch.tensor([len(utterance.samples) for utterance in utterances], dtype=torch.float32)
        if float(self.lengths.max()) > WINDOW_SECONDS * SAMPLE_RATE:
            raise ValueError("an utterance is longer than 30 s, Whisper's window: cut it")
        longest = max(len(vocabulary.sequence([(0.0, 1.0, utterance.text)])) for utterance in utterances)
        if longest > config.text_context:
            raise ValueError(f"an utterance has {longest} tokens, more than text_context={config.text_context}")
        self._epoch, self._order = -1, []

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Spectrograms [B, n_mels, T] and tokens [B, L], padded by -100."""
        draw = generator(self.config.seed, 1, step)
        settling = step >= self.config.settling * self.config.steps
        every = 2 if settling else self.config.window_every
        if step % every == every - 1:
            heard = [self._window(draw, settling, row % 2 == 0) for row in range(self.config.window_batch)]
            mel = torch.stack([padded_mel(samples, draw) for samples, _ in heard])
        else:
            heard = [self._short(index, draw) for index in self._batch(step)]
            longest = max(len(samples) for samples, _ in heard)
            longest += -longest % (2 * HOP_LENGTH)
            mel = torch.stack([varied_mel(F.pad(samples, (0, longest - len(samples))), draw) for samples, _ in heard])
        tokens = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(own) for _, own in heard], batch_first=True, padding_value=IGNORE
        )
        return mel, tokens

    def _batch(self, step: int) -> list[int]:
        """Utterances of about one length, so that little is padded; every epoch shows each once, in a new order."""
        size = self.config.batch_size
        per_epoch = len(self.utterances) // size
        epoch, index = divmod(step, per_epoch)
        if epoch != self._epoch:
            draw = generator(self.config.seed, 2, epoch)
            order = (self.lengths * (1 + 0.2 * torch.rand(len(self.lengths), generator=draw))).argsort()
            groups = order[: per_epoch * size].view(per_epoch, size)
            self._epoch, self._order = epoch, groups[torch.randperm(per_epoch, generator=draw)].tolist()
        return self._order[index]

    def _short(self, index: int, draw: torch.Generator) -> tuple[Tensor, list[int]]:
        """One utterance after up to 0.3 s of nothing."""
        utterance = self.utterances[index]
        before, plain = torch.rand(2, generator=draw).tolist()
        silence = int(0.3 * before * SAMPLE_RATE)
        samples = F.pad(self._heard(utterance, draw), (silence, 0))[: int(WINDOW_SECONDS * SAMPLE_RATE)]
        spoken = [(silence / SAMPLE_RATE, len(samples) / SAMPLE_RATE, utterance.text)]
        return samples, self.vocabulary.sequence(spoken, timestamps=plain > PLAIN_SHARE)

    def _window(self, draw: torch.Generator, settling: bool, alone: bool) -> tuple[Tensor, list[int]]:
        """At most 30 s: one to six utterances, up to 1 s between them, as far as room and context allow.

        Silence follows, to the 30 s; while settling four recordings of five end within a second.
        """
        window = torch.zeros(int(WINDOW_SECONDS * SAMPLE_RATE))
        spoken: list[tuple[float, float, str]] = []
        place = 0
        wanted = 1 if settling and alone else int(torch.randint(1, 7, (1,), generator=draw))
        for index in torch.randint(len(self.utterances), (wanted,), generator=draw).tolist():
            utterance = self.utterances[index]
            samples = self._heard(utterance, draw)
            start = place + int(float(torch.rand(1, generator=draw)) * SAMPLE_RATE)
            end = start + len(samples)
            said = (start / SAMPLE_RATE, end / SAMPLE_RATE, utterance.text)
            if end > len(window) or len(self.vocabulary.sequence([*spoken, said])) > self.config.text_context:
                break
            window[start:end] = samples
            spoken += [said] if utterance.text else []
            place = end
        tokens = self.vocabulary.sequence(spoken, timestamps=float(torch.rand(1, generator=draw)) > PLAIN_SHARE)
        if settling:
            ends, after = torch.rand(2, generator=draw).tolist()
            if ends < 0.8:
                window = window[: max(place, SAMPLE_RATE // 2) + int(after * SAMPLE_RATE)]
        return window, tokens

    def _heard(self, utterance: Utterance, draw: torch.Generator) -> Tensor:
        """Its samples, played faster or slower (Ko et al. 2015): the pitch moves too, as from speaker to speaker."""
        samples = torch.from_numpy(utterance.samples.astype(np.float32) / 32768)
        longest = WINDOW_SECONDS * SAMPLE_RATE
        stretch = 1 + self.config.speed * (2 * float(torch.rand(1, generator=draw)) - 1)
        length = int(min(longest, len(samples) * stretch))
        return F.interpolate(samples[None, None], size=length, mode="linear")[0, 0]


def padded_mel(samples: Tensor, draw: torch.Generator) -> Tensor:
    """A window's spectrogram [n_mels, 3000] as Whisper's decoding has it: zeros follow the end of the recording."""
    mel = varied_mel(samples, draw)
    return F.pad(mel, (0, N_FRAMES - mel.shape[1]))


def varied_mel(samples: Tensor, draw: torch.Generator) -> Tensor:
    """The spectrogram [n_mels, T] of samples, as another microphone has it, with stripes left out."""
    return striped(other_microphone(log_mel(samples, N_MELS), draw), draw)


def striped(mel: Tensor, draw: torch.Generator, bins: int = 12, frames: int = 20) -> Tensor:
    """SpecAugment (Park et al. 2019), so that nothing is known by one detail.

    Of a spectrogram [n_mels, T] one stripe of up to `bins` and one of up to `frames` become its mean, in place.
    """
    mean = mel.mean()
    for axis, most in ((0, bins), (1, min(frames, mel.shape[1] // 4))):
        width, place = torch.rand(2, generator=draw).tolist()
        size = int(width * (most + 1))
        mel.narrow(axis, int(place * (mel.shape[axis] - size)), size).fill_(mean)
    return mel


def other_microphone(mel: Tensor, draw: torch.Generator, strength: float = 0.1, waves: int = 4) -> Tensor:
    """A spectrogram [n_mels, T] as a microphone with another frequency response has it: a smooth curve is added.

    `waves` cosines over the bands, each of a random amplitude; 0.1 is 4 dB in Whisper's scale.
    """
    place = torch.linspace(0, math.pi, mel.shape[0])
    amplitudes = strength * torch.randn(waves, generator=draw)
    curve = (amplitudes[:, None] * torch.cos(place * torch.arange(1, waves + 1)[:, None])).sum(0)
    return mel + curve[:, None]
