"""Training to write codes: texts to pictures and to speech, the codes computed once and kept."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from decoders.codecs.base import MediaCodec
from decoders.codecs.checkpoint import codec_fingerprint
from encoders.media.sound import load_audio
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.data.readers import read_records
from mmlm.data.records import RecordSet
from mmlm.generation.media import picture_tensor
from mmlm.prompting.parts import END_OF_CHUNK, Codes
from mmlm.training.fit import Schedule, Shuffle, fit, generator

log = logging.getLogger(__name__)

ENCODED_AT_ONCE = 64


@dataclass(frozen=True)
class WritingTrainConfig:
    """How to train. `tune`: the codes' "rows" alone; with "lora" low-rank adapters as well; "full": all of the language
    model, which is then written beside the model and no longer the one that was given.

    text_dropped: share of texts left out, so that guidance has what it leads away from. pairs_per_row: so many texts
    with their media follow one another in a row, each closed.
    """

    steps: int = 2000
    batch_size: int = 32
    learning_rate: float = 2e-3
    tune: Literal["rows", "lora", "full"] = "lora"
    text_dropped: float = 0.1
    pairs_per_row: int = 1
    max_seconds: float = 4.0
    eval_every: int = 250
    optimizer: str = "adamw"
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tune not in ("rows", "lora", "full"):
            raise ValueError(f'tune is "rows", "lora" or "full", not {self.tune!r}')
        for name in ("steps", "batch_size", "pairs_per_row", "eval_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.text_dropped < 1 or self.learning_rate <= 0 or self.max_seconds <= 0:
            raise ValueError("text_dropped is a share below 1; learning_rate and max_seconds are above 0")


@dataclass(frozen=True)
class Pair:
    """What is to be written, and for which texts; `codes` [K, h, w] or [K, T]."""

    modality: str
    codes: Tensor
    texts: tuple[str, ...]


def train_writing(
    model: MultimodalLM,
    data: Any,
    output: str | Path,
    held_out: Any = None,
    config: WritingTrainConfig = WritingTrainConfig(),
    progress: bool = True,
) -> Path:
    """Train the rows of codes, and what `tune` adds, in place; writes and gives `output/model`, for `mmlm.load`.

    data, held_out: anything `mmlm.data.read_records` takes. A picture with captions is drawn for one of them, a
    recording with a transcript is spoken for it, wherever the model has such a codec; ValueError where it is neither.
    Recordings longer than `max_seconds` are left out, and counted in a warning.
    `output/metrics.jsonl` tells the loss, nats a code, of training and, by medium, of what is held out.
    """
    output, host = Path(output), model.language_model
    if host.codes is None:
        raise ValueError("the model has no codecs: assemble it with image_codec=, audio_codec= or both")
    if config.tune == "lora" and host.lora is None:
        raise ValueError("the model has no LoRA: assemble it with a lora rank above 0, or tune rows, or full")
    trained = nn.ModuleDict({"codes": host.codes})
    if config.tune != "rows" and host.lora is not None:
        trained["lora"] = host.lora
    if config.tune == "full":
        # Its weights and not itself, which would be put into training mode, with dropout that no seed reaches.
        trained["language_model"] = nn.ParameterDict(
            {name.replace(".", "/"): weight for name, weight in host.model.named_parameters()}
        )
    pairs = read_pairs(model, data, output / "codes", config, progress)
    held = None if held_out is None else read_pairs(model, held_out, output / "codes", config, progress)
    wanting = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.requires_grad_(False)
    trained.requires_grad_(True)
    order = Shuffle(len(pairs), config.batch_size * config.pairs_per_row, config.seed)

    def loss_at(step: int) -> Tensor:
        draw = generator(config.seed, 1, step)
        return _loss(model, [pairs[index] for index in order.batch(step).tolist()], config, draw)

    @torch.no_grad()
    def after_step(done: int) -> dict[str, float]:
        if held is None or (done % config.eval_every and done != config.steps):
            return {}
        found = {}
        for modality in sorted({pair.modality for pair in held}):
            chosen = [pair for pair in held if pair.modality == modality][: 8 * config.batch_size]
            groups = [chosen[start : start + config.batch_size] for start in range(0, len(chosen), config.batch_size)]
            draw = generator(config.seed, 2)
            losses = [float(_loss(model, group, config, draw, training=False)) for group in groups]
            found[f"held_out_loss_{modality}"] = sum(losses) / len(losses)
        return found

    schedule = Schedule(
        config.steps, config.learning_rate, weight_decay=0.01, optimizer=config.optimizer, precision=config.precision
    )
    try:
        identity = f"{config} {host.vocabulary.layouts} {len(pairs)}"
        fit(trained, loss_at, schedule, output, "writing", after_step, progress, identity)
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(wanting[name])
    if config.tune == "full":
        host.model.save_pretrained(output / "language_model")
        host.tokenizer.save_pretrained(output / "language_model")
        host.name = str((output / "language_model").resolve())
    return model.save(output / "model")


def read_pairs(
    model: MultimodalLM, data: Any, cache: Path, config: WritingTrainConfig, progress: bool = True
) -> list[Pair]:
    """Pairs of records, in their order, pictures first; their codes are computed once and kept in `cache`."""
    records = read_records(data)
    found: list[Pair] = []
    for modality, codec in model.codecs.items():
        own = [record for record in records if _texts(record, modality)]
        if not own:
            continue
        name = f"{modality}-{codec_fingerprint(codec)}-{RecordSet(tuple(own)).fingerprint()}-{config.max_seconds:g}"
        path = cache / f"{name}.safetensors"
        if not path.exists():
            _encode(own, codec, path, config.max_seconds, progress)
        with safe_open(path, "pt") as kept:
            lengths = json.loads(kept.metadata()["lengths"])
            codes = kept.get_tensor("codes").long().split(lengths, dim=-1)
        if skipped := lengths.count(0):
            log.warning("%d of %d recordings are too long and are left out", skipped, len(own))
        for record, row in zip(own, codes, strict=True):
            if row.shape[-1]:
                whole = row.unflatten(1, codec.grid) if codec.grid else row
                found.append(Pair(modality, whole, _texts(record, modality)))
    if not found:
        raise ValueError("the data hold nothing to draw or to say: pictures with captions, recordings with transcripts")
    return found


def _texts(record: Any, modality: str) -> tuple[str, ...]:
    if modality == "image":
        return record.captions if record.source is not None and record.sound is None else ()
    return (record.transcript,) if record.sound is not None and record.transcript else ()


@torch.no_grad()
def _encode(records: Sequence, codec: MediaCodec, path: Path, max_seconds: float, progress: bool) -> None:
    """Codes of all records, side by side, [K, n] int32, and how many each has; 0 for a recording that is too long.

    A medium that comes several times, to be seen as often in each pass, is encoded once.
    """
    places = [record.source if codec.modality == "image" else record.sound for record in records]
    first = {place: record for place, record in zip(reversed(places), reversed(records), strict=True)}
    device = next((tensor.device for tensor in codec.state_dict().values()), torch.device("cpu"))
    rows: list[Tensor] = []
    once = list(first.values())
    bar = tqdm(total=len(once), desc=f"codes of {codec.modality}s", disable=not progress, mininterval=2)
    for start in range(0, len(once), ENCODED_AT_ONCE):
        chunk = once[start : start + ENCODED_AT_ONCE]
        if codec.modality == "image":
            batch = torch.cat([picture_tensor(record.image, codec.size) for record in chunk])
            rows += codec.encode(batch.to(device)).codes.flatten(2).cpu().unbind()
        else:
            for record in chunk:
                sound = torch.from_numpy(load_audio(record.audio, sample_rate=codec.sample_rate).waveform)
                if len(sound) > max_seconds * codec.sample_rate:
                    rows.append(torch.empty(codec.num_codebooks, 0, dtype=torch.long))
                else:
                    rows.append(codec.encode(sound.clamp(-1, 1)[None, None].to(device)).codes[0].cpu())
        bar.update(len(chunk))
    bar.close()
    encoded = dict(zip(first, rows, strict=True))
    rows = [encoded[place] for place in places]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    lengths = json.dumps([row.shape[1] for row in rows])
    save_file({"codes": torch.cat(rows, dim=1).int()}, partial, metadata={"lengths": lengths})
    os.replace(partial, path)


def _loss(
    model: MultimodalLM, pairs: Sequence[Pair], config: WritingTrainConfig, draw: torch.Generator, training: bool = True
) -> Tensor:
    """Mean loss in nats of what the pairs are to be written as; the texts before them are given.

    Rows with pictures, which are long, and those without go through the model apart: padding costs as much as codes.
    """
    per_row = config.pairs_per_row if training else 1
    examples: dict[bool, list] = {True: [], False: []}
    for start in range(0, len(pairs), per_row):
        row = pairs[start : start + per_row]
        parts: list[Any] = []
        for number, pair in enumerate(row, start=1):
            text = pair.texts[int(torch.randint(len(pair.texts), (1,), generator=draw))]
            dropped = training and float(torch.rand(1, generator=draw)) < config.text_dropped
            parts += model.template.writing_prompt(pair.modality, "" if dropped else text)
            if number == len(row):
                drawn = any(pair.modality == "image" for pair in row)
                examples[drawn].append(model.processor.encode(parts, Codes(pair.modality, pair.codes)))
            parts += [Codes(pair.modality, pair.codes), END_OF_CHUNK]
    outputs = []
    for group in filter(None, examples.values()):
        batch = model.processor.collate(group)
        if per_row > 1:
            _label_codes(model, batch)
        outputs.append(model(batch, [[] for _ in group], codes=True))
    return sum(output.loss * output.num_tokens for output in outputs) / sum(output.num_tokens for output in outputs)


def _label_codes(model: MultimodalLM, batch: Any) -> None:
    """Every medium of a row is learned, not the last alone."""
    first = model.language_model.vocabulary.code_offset
    own = batch.input_ids >= first
    batch.labels[own] = batch.input_ids[own]
