"""A recogniser of single words, the judge of what nano says: a small convolutional net that knows nothing of nano."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoders.codecs.spectrum import log_mel
from mmlm.training import LossObjective, Trainer, TrainerConfig
from mmlm.training.identity import digest
from mmlm.training.shuffle import generator

RATE = 8000
SAMPLES = RATE  # a second: words are shorter
WINDOW, BANDS = 256, 40


class Recogniser(nn.Module):
    """Waveforms [B, SAMPLES] at 8 kHz → scores [B, words]."""

    def __init__(self, words: Sequence[str], width: int = 32) -> None:
        super().__init__()
        self.words = tuple(words)
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
        self.layers = nn.Sequential(*layers, nn.Dropout2d(0.2))
        self.head = nn.Linear(4 * width * (BANDS // 8), len(self.words))

    def forward(self, sounds: Tensor) -> Tensor:
        heard = log_mel(sounds, RATE, WINDOW, BANDS, floor=1e-3)
        heard = heard - heard.mean((1, 2), keepdim=True)  # how loud it is says nothing
        return self.head(self.layers(heard.unsqueeze(1)).mean(3).flatten(1))

    @torch.no_grad()
    def recognise(self, sounds: Sequence[Tensor]) -> list[str]:
        """The word in each waveform [T] at 8 kHz."""
        scores = torch.cat([self(batch) for batch in placed(sounds).split(64)])
        return [self.words[index] for index in scores.argmax(1).tolist()]


def trained(words: Sequence[str], sounds: Sequence[Tensor], said: Sequence[str], output: Path, seed: int) -> Recogniser:
    """A recogniser trained on recordings [T] of what was `said`, each varied whenever it is heard; kept in `output`."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = Recogniser(words)
    labels = torch.tensor([model.words.index(word) for word in said])

    def loss_at(step: int) -> Tensor:
        draw = generator(seed, step)
        chosen = torch.randint(len(sounds), (32,), generator=draw)
        heard = torch.stack([varied(sounds[index], draw) for index in chosen.tolist()])
        return F.cross_entropy(model(heard), labels[chosen], label_smoothing=0.05)

    config = TrainerConfig(steps=1200, learning_rate=2e-3, weight_decay=0.02, precision="float32", seed=seed)
    identity = {"words": list(words), "data": digest(*sounds, labels)}
    objective = LossObjective("recogniser", model, loss_at, lambda folder: folder, identity)
    Trainer(objective, config, output).fit()
    return model.eval()


def placed(sounds: Sequence[Tensor]) -> Tensor:
    """Waveforms [T] in the middle of a second each, [B, SAMPLES]; what is longer loses both ends."""
    rows = []
    for sound in sounds:
        spare = SAMPLES - len(sound)
        rows.append(F.pad(sound, (spare // 2, spare - spare // 2)))  # a negative width cuts
    return torch.stack(rows)


def varied(sound: Tensor, draw: torch.Generator) -> Tensor:
    """The same word said faster or slower, sooner or later, in some noise: [T] → [SAMPLES]."""
    speed, at, noise = torch.rand(3, generator=draw).tolist()
    sound = F.interpolate(sound.view(1, 1, -1), scale_factor=0.88 + 0.24 * speed, mode="linear")[0, 0][:SAMPLES]
    start = round(at * (SAMPLES - len(sound)))
    whole = F.pad(sound, (start, SAMPLES - len(sound) - start))
    level = sound.square().mean().sqrt() * 10 ** (-(10 + 40 * noise) / 20)
    return whole + level * torch.randn(SAMPLES, generator=draw)
