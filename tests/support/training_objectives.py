"""Tiny models, data and runs of every objective, for the tests of training."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.transform import image_transform
from PIL import Image as PilImage

import mmlm
from decoders.codecs.image_vqvae import ImageVQVAE, ImageVQVAEConfig
from decoders.codecs.quantizer import QuantizerConfig
from decoders.diffusion.decoder import DiffusionDecoder, DiffusionDecoderConfig
from encoders.clip import ClipImageEncoder
from mmlm.assembly import Codecs, extended
from mmlm.data import Record, RecordSet
from mmlm.model.config import FusionConfig, LoraConfig, ResamplerConfig
from mmlm.training import (
    CodecTrainConfig,
    LossObjective,
    Objective,
    Part,
    Trainer,
    TrainerConfig,
    TrainResult,
    WritingTrainConfig,
    train,
    train_codec,
    train_decoder,
    train_writing,
)
from mmlm.training.objectives.adapters import AdaptersObjective
from mmlm.training.objectives.codec import CodecObjective
from mmlm.training.objectives.codes import CodesObjective
from mmlm.training.objectives.decoder import DecoderObjective
from support import parts
from support.codec_parts import image_codec
from support.families import language_model, tokenizer

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "yellow": (230, 220, 40)}


def tiny_clip(seed: int = 0) -> open_clip.CLIP:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        clip = open_clip.CLIP(
            embed_dim=16,
            vision_cfg=open_clip.CLIPVisionCfg(image_size=16, patch_size=8, layers=1, width=32, head_width=16),
            text_cfg=open_clip.CLIPTextCfg(context_length=8, vocab_size=64, width=16, heads=2, layers=1),
        )
        for parameter in clip.visual.parameters():
            if parameter.ndim > 1:  # large enough that colours differ clearly
                torch.nn.init.normal_(parameter, std=0.3)
    return clip


def tiny_encoder(seed: int = 0) -> ClipImageEncoder:
    return ClipImageEncoder(tiny_clip(seed), image_transform(16, is_train=False))


def tiny_model(frozen: str | torch.nn.Module = "gpt2", seed: int = 0) -> mmlm.MultimodalLM:
    return mmlm.assemble(
        language_model(frozen) if isinstance(frozen, str) else frozen,
        tiny_encoder(),
        tokenizer=tokenizer(),
        resampler=ResamplerConfig(depth=1, num_latents=4, heads=2, dim_head=8),
        fusion=FusionConfig(heads=2, dim_head=8),
        seed=seed,
    )


def png(colour, size: int = 16, dot: int = 0) -> bytes:
    image = PilImage.new("RGB", (size, size), colour)
    image.putpixel((dot % size, dot // size), (0, 0, 0))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def tiny_records(count: int = 20, start: int = 0) -> RecordSet:
    names = list(COLOURS)
    return RecordSet(tuple(
        Record(
            f"r{i}",
            png(COLOURS[names[i % 4]], dot=i),
            captions=(f"a {names[i % 4]} square", names[i % 4]),
            qa=(
                ("what colour?", names[i % 4]),
                (f"is it {names[i // 4 % 4]}?", "yes" if i % 4 == i // 4 % 4 else "no"),
            ),
        )
        for i in range(start, start + count)
    ))  # fmt: skip


def run(model, output, data=None, **settings):
    settings = dict(steps=8, batch_size=4, learning_rate=1e-2, log_every=3, save_every=100, eval_every=100) | settings
    return train(model, data or tiny_records(), output=output, progress=False, **settings)


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def added(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.added_parameters()}


def metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]


def assert_equal(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


# Every objective


@dataclass(frozen=True)
class Case:
    """One objective: how to build what it trains from a seed, to train it into a folder, and to read its weights."""

    objective: type[Objective]
    build: Callable
    train: Callable[..., TrainResult]
    weights: Callable[..., dict[str, torch.Tensor]]


SETTINGS = dict(steps=6, batch_size=4, learning_rate=1e-2, warmup_steps=2, precision="float32", log_every=2)
SETTINGS |= dict(eval_every=3, save_every=100)


def noise(seed: int, count: int = 16, size: int = 16) -> list[bytes]:
    """PNGs of random pixels."""
    found = []
    for index in range(count):
        buffer = io.BytesIO()
        pixels = np.random.default_rng([seed, index]).integers(0, 255, (size, size, 3), dtype=np.uint8)
        PilImage.fromarray(pixels).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


def picture_folder(folder: Path, seed: int = 0) -> Path:
    """Pictures with captions, written once: `folder/SEED`."""
    place = folder / f"pictures-{seed}"
    if not place.exists():
        place.mkdir(parents=True)
        lines = []
        for index, data in enumerate(noise(seed)):
            (place / f"{index:02d}.png").write_bytes(data)
            lines.append(json.dumps({"file_name": f"{index:02d}.png", "text": f"picture {index}"}))
        (place / "metadata.jsonl").write_text("\n".join(lines))
    return place


def _seeded(seed: int, build: Callable):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def _tensors(module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def _adapters(model, output, data=None, **settings):
    data = tiny_records() if data is None else data
    return train(model, data, held_out=tiny_records(8, 20), output=output, progress=False, **{**SETTINGS, **settings})


def _writer(seed: int = 0):
    return extended(parts.build("llama"), Codecs(image=image_codec()), lora=LoraConfig(rank=2), seed=seed)


def _codes(model, output, data=None, resume=True, **settings):
    data = picture_folder(output.parent) if data is None else data
    config = WritingTrainConfig(**{**SETTINGS, **settings})
    return train_writing(model, data, output, data, config, resume=resume, progress=False)


def _codec(seed: int = 0):
    return _seeded(seed, lambda: ImageVQVAE(ImageVQVAEConfig(16, 8, 4, 16, 1, QuantizerConfig("vq", 16, dim=8))))


def _train_codec(model, output, data=None, resume=True, **settings):
    data = picture_folder(output.parent) if data is None else data
    config = CodecTrainConfig(**{**SETTINGS, "preview_every": 3, **settings})
    return train_codec(model, data, output, data, config, resume=resume, progress=False)


def _train_with_critic(model, output, data=None, **settings):
    return _train_codec(model, output, data, **{"adversarial_from": 2, **settings})


def _train_its_decoder(model, output, data=None, **settings):
    return _train_codec(model, output, data, **{"tune": "decoder", **settings})


def _decoder(seed: int = 0):
    return _seeded(seed, lambda: DiffusionDecoder(image_codec(), DiffusionDecoderConfig(channels=(16,))))


def _train_decoder(model, output, data=None, resume=True, **settings):
    data = picture_folder(output.parent) if data is None else data
    config = CodecTrainConfig(**{**SETTINGS, "preview_every": 6, "ema_decay": 0.7, **settings})
    return train_decoder(model, data, output, data / "00.png", config, resume=resume, progress=False)


def _network(seed: int = 0):
    """With dropout and running means, which only the trainer's seeds and checkpoints carry over a stop."""
    layers = lambda: torch.nn.Sequential(  # noqa: E731
        torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2)
    )
    return _seeded(seed, layers)


def _train_network(model, output, data=None, resume=True, **settings):
    def loss_at(step):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        return (model(x) - x[:, :2]).square().mean()

    objective = LossObjective("network", model, loss_at, lambda folder: folder, {"data": str(data)})
    return Trainer(objective, TrainerConfig(**{**SETTINGS, **settings}), output, progress=False).fit(resume=resume)


CASES = {
    "adapters": Case(AdaptersObjective, lambda seed=0: tiny_model(seed=seed), _adapters, added),
    "codes": Case(CodesObjective, _writer, _codes, added),
    "codec": Case(CodecObjective, _codec, _train_codec, _tensors),
    "codec with critic": Case(CodecObjective, _codec, _train_with_critic, _tensors),
    "codec's decoder": Case(CodecObjective, lambda seed=0: image_codec(seed=seed), _train_its_decoder, _tensors),
    "diffusion decoder": Case(DecoderObjective, _decoder, _train_decoder, _tensors),
    "any loss": Case(LossObjective, _network, _train_network, _tensors),
}


def at_step(monkeypatch, case: Case, step: int, action: Callable[[], None]) -> None:
    """Calls `action` at the start of step `step` (from 0)."""
    original = case.objective.parts

    def parts(self, at):
        if at == step:
            action()
        return original(self, at)

    monkeypatch.setattr(case.objective, "parts", parts)


def poison(monkeypatch, case: Case, steps, how: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Changes the loss of some steps, after the whole forward pass."""
    original = case.objective.parts

    def parts(self, at):
        found = original(self, at)
        if at not in steps:
            return found
        return [Part(part.count, lambda part=part: how(part.loss()), part.size) for part in found]

    monkeypatch.setattr(case.objective, "parts", parts)


def stopping(at: int, plain: Callable[..., None] = Trainer.step) -> Callable[..., None]:
    """A `Trainer.step` that is interrupted at a step."""

    def step(self, gradient):
        if self.done.step == at:
            raise KeyboardInterrupt
        return plain(self, gradient)

    return step
