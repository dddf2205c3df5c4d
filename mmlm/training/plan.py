"""What a recipe would do: `mmlm train --dry-run`. Settings of frozen parts are read, and none of their weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import nn

from mmlm.assembly.inspect import inspect
from mmlm.assembly.load import model_folder, read_saved
from mmlm.assembly.presets import ASSEMBLED, OPEN_FLAMINGO
from mmlm.assembly.widths import encoder_width, language_model_size
from mmlm.data.records import RecordSet
from mmlm.data.streams import Shard
from mmlm.model.config import DEFAULTS, WHY, FusionConfig, ResamplerConfig
from mmlm.model.fusion.kinds import KINDS
from mmlm.model.resampler import PerceiverResampler
from mmlm.prompting.vocabulary import ADDED_TOKENS, ADDED_TOKENS_WITH_AUDIO, MediaVocabulary
from mmlm.training.config import TrainerConfig
from mmlm.training.features import film_of
from mmlm.training.model_recipe import ModelRecipe
from mmlm.training.recipe import Recipe

RESAMPLER = {"image": "resampler of pictures", "audio": "resampler of sound"}
NAMED = "named by the recipe"


@dataclass(frozen=True)
class Choice:
    """A setting of the new modules, and why it is used."""

    what: str
    value: str
    why: str


@dataclass(frozen=True)
class DataCount:
    """How many records of a source can be used, media of each kind among them, texts about these, and bad records."""

    records: int
    pictures: int
    films: int
    recordings: int
    texts: int
    bad: int

    def __str__(self) -> str:
        counts = {name: count for name, count in vars(self).items() if count and name != "records"}
        return ", ".join([f"{self.records:,} records", *(f"{count:,} {name}" for name, count in counts.items())])


@dataclass(frozen=True)
class Plan:
    """What a run would do. `print` shows it.

    per_step: examples of a step. choices: of new modules. weights: how many train; None where only loading tells.
    """

    model: str
    data: str
    held_out: str | None
    steps: int
    per_step: int
    output: str
    choices: tuple[Choice, ...] = ()
    weights: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        count = "known when the parts are loaded" if self.weights is None else f"{self.weights:,} weights"
        lines = {
            "model": self.model,
            **{choice.what: f"{choice.value} ({choice.why})" for choice in self.choices},
            "trains": count,
            "data": self.data,
            "held out": self.held_out or "nothing",
            "steps": f"{self.steps:,} of {self.per_step} examples",
            "output": self.output,
        }
        return "\n".join(f"{name + ':':<23}{value}" for name, value in lines.items())


def count_of(records: RecordSet | None) -> DataCount | None:
    """What a source holds; None for none."""
    if records is None:
        return None
    films = sum(film_of(record) is not None for record in records)
    media = Counter(modality for record in records for modality, _ in record.places)
    pictures, recordings = media["image"] - films, media["audio"]
    texts = sum(len(record.texts) for record in records)
    return DataCount(len(records), pictures, films, recordings, texts, len(records.bad))


def plan_of(
    config: TrainerConfig, model: str, data: RecordSet | str, held_out: RecordSet | None, output: str, **known: Any
) -> Plan:
    """The plan of a run on records, or on a stream that is told in words. known: `choices` and `weights`, if known."""
    per_step = config.batch_size * config.accumulation
    steps = config.steps_over(len(data))
    held = count_of(held_out)
    return Plan(
        model,
        data if isinstance(data, str) else str(count_of(data)),
        None if held is None else str(held),
        steps,
        per_step,
        output,
        **known,
    )


def count_of_shards(sets: Sequence[Sequence[Shard]]) -> str:
    """What a stream is read from, in words."""
    sizes = [shard.size for shards in sets for shard in shards]
    size = f"{sum(sizes) / 1e9:,.1f} GB" if sum(sizes) >= 1e9 else f"{sum(sizes) / 1e6:,.1f} MB"
    return f"a stream of {len(sizes):,} tars, {size}, which are indexed before the first step"


def plan_of_adapters(recipe: Recipe, data: RecordSet | str, held_out: RecordSet | None) -> Plan:
    """The plan of a run that trains adapters: new ones, or those of a model.

    Errors are those of a model whose config, or of parts whose settings, cannot be found or read.
    """
    name = recipe.model.load
    if name is None or name in ASSEMBLED:
        model, choices, weights = _new(recipe.model)
    else:
        facts = inspect(name)
        model, weights = (
            f"the adapters of {name}, trained further",
            next(p.weights for p in facts.parts if p.part == "added"),
        )
        choices = () if name in OPEN_FLAMINGO else _saved(name)
    return plan_of(recipe, model, data, held_out, recipe.output, choices=choices, weights=weights)


def _saved(name: str) -> tuple[Choice, ...]:
    config, _ = read_saved(model_folder(name))
    has = {"image": config.image_encoder is not None, "audio": config.audio_encoder is not None}
    found = {"image": config.resampler, "audio": config.audio_resampler}
    choices = [Choice(RESAMPLER[own], described(found[own]), f"as {name} has it") for own in has if has[own]]
    return (*choices, Choice("fusion", described(config.fusion), f"as {name} has it"))


def _new(part: ModelRecipe) -> tuple[str, tuple[Choice, ...], int | None]:
    """New adapters: between what, of which form and why, and how many weights."""
    published = ASSEMBLED.get(part.load or "")
    named = published or part
    language_model = cast(str, named.language_model)
    encoders = {own: name for own in RESAMPLER if (name := getattr(named, f"{own}_encoder")) is not None}
    shaped = part.new_adapters()
    given = {"image": shaped.get("resampler"), "audio": shaped.get("audio_resampler"), "fusion": part.fusion}
    why = {own: WHY[own] if form is None else NAMED for own, form in given.items()}
    sizes = {own: given[own] or DEFAULTS[own] for own in encoders}
    fusion = part.fusion or FusionConfig()
    choices = [Choice(RESAMPLER[own], described(size), why[own]) for own, size in sizes.items()]
    choices.append(Choice("fusion", described(fusion), why["fusion"]))
    lora = part.lora if part.lora is not None and part.lora.rank else None
    if lora is not None:
        choices.append(Choice("LoRA", f"rank {lora.rank} in {lora.layers or 'all linear layers'}", NAMED))
    model = f"new adapters between {language_model} and {' and '.join(encoders.values())}"
    if published is not None:  # nothing is fetched for a plan
        return model, tuple(choices), round(1e6 * published.millions["added"])
    weights = new_weights(language_model, encoders, sizes, fusion)
    return model, tuple(choices), weights if lora is None else None  # the sizes of layers are no settings


def new_weights(
    language_model: str, encoders: Mapping[str, str], sizes: Mapping[str, ResamplerConfig], fusion: FusionConfig
) -> int | None:
    """How many weights new adapters have, by the settings of the frozen parts; None where these do not tell.

    encoders: names by modality. sizes: of their resamplers. ValueError for a fusion that the language model is too
    short for.
    """
    width, blocks = language_model_size(language_model)
    widths = {own: encoder_width(own, name) for own, name in encoders.items()}
    known = {own: found for own, found in widths.items() if found is not None}
    media_dim = next(iter(known.values()), 1)
    vocabulary = MediaVocabulary(0, ADDED_TOKENS_WITH_AUDIO if "audio" in widths else ADDED_TOKENS)
    with torch.device("meta"):
        joined = KINDS[fusion.kind](fusion, width, blocks, media_dim, vocabulary)
        if len(known) < len(widths):
            return None
        resamplers = [PerceiverResampler(media_dim, known[own], **asdict(size)) for own, size in sizes.items()]
    rows = 2 * len(vocabulary) * width  # of the embedding and of the head
    return rows + sum(map(_count, (joined, *resamplers)))


def _count(module: nn.Module) -> int:
    return sum(tensor.numel() for tensor in module.parameters())


def described(size: ResamplerConfig | FusionConfig) -> str:
    """A resampler or a fusion in a few words."""
    if isinstance(size, FusionConfig):
        return KINDS[size.kind].described(size)
    form = f"{size.depth} layers, {size.num_latents} latents" if size.depth else "every token, no latents"
    return form + (f", {size.stack} tokens joined in one" if size.stack > 1 else "") + (", timed" if size.timed else "")
