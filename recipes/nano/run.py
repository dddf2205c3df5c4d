"""nano from nothing: draws its scenes, trains an image encoder, a language model and the adapters, packs the weights.

    python -m recipes.nano.run                                    # every stage; those already done are skipped
    python -m recipes.nano.run image_encoder.steps=20000 adapters.steps=50000 device=cuda --output runs/large
    python -m recipes.nano.run --stages freeze adapters pack      # some of them
    python -m recipes.nano.run --stages scenes speech unpack audio_encoder_more ears_more pack  # the packaged ones, on
    python -m recipes.nano.evaluate                               # the tables of docs/nano.md

docs/nano.md tells how long each stage took. Each goes on where it was stopped. The last writes the packaged weights,
`mmlm/nano/`, unless `--package` names another folder.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from recipes.nano import data
from recipes.nano.voice import (
    Voice,
    make_words,
    train_audio_codec,
    train_audio_codec_more,
    train_audio_decoder,
)
from recipes.nano.writing import Writing, train_writing

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Scenes:
    """How many pictures to draw; about 1,000 a second."""

    train: int = 60_000
    dev: int = 1000
    unseen: int = 500
    contrastive: int = 60_000  # for the image encoder; half of them hold nine things
    text: int = 80_000  # scenes that are only written about
    neat: int = 40_000  # with each thing in the middle of its cell, in exactly its colour, to learn drawing from


@dataclass
class ImageEncoder:
    steps: int = 2500
    batch_size: int = 128
    learning_rate: float = 1.5e-3
    width: int = 128
    layers: int = 4


@dataclass
class LanguageModel:
    vocabulary: int = 2048
    steps: int = 2400
    hidden_size: int = 192
    layers: int = 6  # to look up, to compare and to count takes several steps
    heads: int = 6


@dataclass
class Speech:
    """How much is said by espeak-ng; about 60 utterances a second."""

    train: int = 24_000
    dev: int = 500
    questions: int = 16_000  # said of pictures, and orders
    dev_questions: int = 600


@dataclass
class AudioEncoder:
    steps: int = 4700
    learning_rate: float = 2.5e-3  # Muon's
    batch_size: int = 32
    width: int = 128
    audio_layers: int = 4
    text_layers: int = 3
    more_steps: int = 4000  # from there on, with windows from the start
    more_learning_rate: float = 2e-3


@dataclass
class Adapters:
    steps: int = 7000
    learning_rate: float = 4.5e-3  # Muon's
    gate_learning_rate_scale: float = 3.0
    settling_steps: int = 1500  # in which every scene's caption has the wording that is to be written
    settling_rate: float = 1.5e-3
    batch_size: int = 64
    caption_share: float = 0.3  # questions have few tokens to learn from
    heads: int = 8  # how many things a word can look for at once
    dim_head: int = 32


@dataclass
class Ears:
    """The same adapters, when they learn to listen as well."""

    steps: int = 2500
    more_steps: int = 2000
    learning_rate: float = 3e-3  # Muon's
    batch_size: int = 48
    stack: int = 4  # of Whisper's 50 tokens a second


@dataclass
class Pencil:
    """What draws: a codec of 8 × 8 places, and its diffusion decoder."""

    codec_steps: int = 9000
    codec_decoder_steps: int = 1500  # of its decoder alone
    codec_width: int = 64
    codebook_size: int = 512
    num_codebooks: int = 2  # one alone blurs shapes: a patch has too many colours, grounds and outlines
    decoder_steps: int = 3000
    decoder_batch_size: int = 16
    decoder_channels: tuple[int, ...] = (32, 48, 64)


@dataclass
class Recipe:
    seed: int = 0
    device: str = "cpu"
    scenes: Scenes = field(default_factory=Scenes)
    image_encoder: ImageEncoder = field(default_factory=ImageEncoder)
    speech: Speech = field(default_factory=Speech)
    audio_encoder: AudioEncoder = field(default_factory=AudioEncoder)
    language_model: LanguageModel = field(default_factory=LanguageModel)
    adapters: Adapters = field(default_factory=Adapters)
    ears: Ears = field(default_factory=Ears)
    pencil: Pencil = field(default_factory=Pencil)
    voice: Voice = field(default_factory=Voice)
    writing: Writing = field(default_factory=Writing)


def draw_scenes(recipe: Recipe, output: Path) -> None:
    counts = {split: getattr(recipe.scenes, split) for split in data.SPLITS}
    data.write_scenes(output / "scenes", counts, recipe.seed)
    counts = {"train": recipe.scenes.train, "dev": recipe.scenes.dev}
    data.write_scenes(output / "settled", counts, recipe.seed, settled=True)
    (output / "scenes/done").touch()


def draw_neatly(recipe: Recipe, output: Path) -> None:
    counts = {"train": recipe.scenes.neat, "dev": recipe.scenes.dev}
    data.write_scenes(output / "neat", counts, recipe.seed, settled=True, loose=0)
    (output / "neat/done").touch()


def train_tokenizer(recipe: Recipe, output: Path) -> None:
    from recipes.pretrain.tokenizer import train_tokenizer

    documents = data.documents(data.sets_folder(), recipe.scenes.text, recipe.seed)
    texts = (text for document in documents for text in document)
    train_tokenizer(texts, recipe.language_model.vocabulary, output / "tokenizer")


def train_image_encoder(recipe: Recipe, output: Path) -> None:
    from recipes.pretrain.clip import ClipTrainConfig, train_clip

    part = recipe.image_encoder
    config = ClipTrainConfig(
        steps=part.steps,
        batch_size=part.batch_size,
        learning_rate=part.learning_rate,
        vision_width=part.width,
        vision_layers=part.layers,
        seed=recipe.seed,
        device=recipe.device,
    )
    pairs = data.contrastive_set(recipe.scenes.contrastive, data.sets_folder(), recipe.seed)
    train_clip(config, pairs.pictures, pairs.captions, output / "tokenizer", output / "image_encoder", pairs.regions)


def make_speech(recipe: Recipe, output: Path) -> None:
    from recipes.nano.speech import Phrases, write_speech, write_spoken_questions

    part, phrases = recipe.speech, Phrases.of(data.sets_folder())
    write_speech(output / "speech", {"dev": part.dev, "train": part.train}, recipe.seed, phrases)
    counts = {"dev": part.dev_questions, "train": part.questions}
    write_spoken_questions(output / "spoken", counts, recipe.seed, phrases)
    (output / "spoken/done").touch()


def train_audio_encoder(recipe: Recipe, output: Path) -> None:
    part = recipe.audio_encoder
    listen(recipe, output, "audio_encoder", steps=part.steps, learning_rate=part.learning_rate)


def train_audio_encoder_more(recipe: Recipe, output: Path) -> None:
    part = recipe.audio_encoder
    listen(
        recipe,
        output,
        "audio_encoder_more",
        start=output / "audio_encoder/whisper.pt",
        steps=part.more_steps,
        learning_rate=part.more_learning_rate,
        window_every=3,
        settling=0.5,
        seed=recipe.seed + 1,
    )


def listen(recipe: Recipe, output: Path, folder: str, start: Path | None = None, **settings) -> None:
    """Train Whisper into `output/folder`, from `start` on if it is given."""
    from recipes.nano.speech import utterances
    from recipes.pretrain.whisper import WhisperTrainConfig, train_whisper

    part = recipe.audio_encoder
    sizes = {"width": part.width, "audio_layers": part.audio_layers, "text_layers": part.text_layers}
    own = {"batch_size": part.batch_size, "seed": recipe.seed, "device": recipe.device}
    config = WhisperTrainConfig(**{**sizes, **own, **settings})
    heard = utterances(output / "speech", output / "spoken", data.sets_folder())
    train_whisper(config, heard, output / folder, start)


def train_language_model(recipe: Recipe, output: Path) -> None:
    from recipes.pretrain.lm import LanguageModelTrainConfig, train_language_model

    part = recipe.language_model
    config = LanguageModelTrainConfig(
        hidden_size=part.hidden_size,
        intermediate_size=part.hidden_size * 8 // 3,
        num_layers=part.layers,
        num_heads=part.heads,
        sequence_length=160,  # a picture's document has about so many
        batch_size=24,
        steps=part.steps,
        optimizer="muon",
        seed=recipe.seed,
        device=recipe.device,
    )
    documents = data.documents(data.sets_folder(), recipe.scenes.text, recipe.seed)
    train_language_model(config, documents, output / "tokenizer", output / "language_model")


def freeze(recipe: Recipe, output: Path) -> None:
    """Round both frozen parts to the float16 in which they ship, so that the adapters meet exactly those weights."""
    from safetensors.torch import load_file, save_file

    partial = output / "frozen.partial"
    shutil.rmtree(partial, ignore_errors=True)
    ignored = shutil.ignore_patterns("checkpoints", "metrics.jsonl", "loss.png")
    for part in ("image_encoder", "language_model"):
        shutil.copytree(output / part, partial / part, ignore=ignored)
        for weights in (partial / part).glob("*.safetensors"):
            tensors = {name: tensor.half().contiguous() for name, tensor in load_file(weights).items()}
            save_file(tensors, weights, metadata={"format": "pt"})
    config = partial / "language_model/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": "float16"}, indent=2) + "\n")
    os.replace(partial, output / "frozen")


def train_adapters(recipe: Recipe, output: Path) -> None:
    import mmlm
    from mmlm.model.config import FusionConfig, ResamplerConfig

    part = recipe.adapters
    model = mmlm.assemble(
        output / "frozen/language_model",
        output / "frozen/image_encoder",
        resampler=ResamplerConfig(depth=0),  # 64 tokens are few, and each tells where it is
        fusion=FusionConfig(heads=part.heads, dim_head=part.dim_head),
        device=recipe.device,
        seed=recipe.seed,
    )
    fit(model, recipe, output, "adapters", picture_data(output, "scenes"), part.steps, part.learning_rate)


def settle_adapters(recipe: Recipe, output: Path) -> None:
    import mmlm

    part = recipe.adapters
    model = mmlm.load(output / "adapters/model", device=recipe.device)
    pictures = picture_data(output, "settled")
    fit(model, recipe, output, "adapters_settled", pictures, part.settling_steps, part.settling_rate, seed=1)


def train_ears(recipe: Recipe, output: Path) -> None:
    """The picture model's adapters with rows and a resampler for sound beside what they have, trained on both."""
    model = hearing(recipe, output, output / "adapters_settled/model", output / "audio_encoder/whisper.pt")
    part = recipe.ears
    sources = hearing_data(output, picture_passes=1)
    fit(model, recipe, output, "ears", sources, part.steps, part.learning_rate, part.batch_size, seed=2)


def train_ears_more(recipe: Recipe, output: Path) -> None:
    """The same adapters before the audio encoder of more steps; two of three examples are pictures, to forget none."""
    model = hearing(recipe, output, output / "ears/model", output / "audio_encoder_more/whisper.pt")
    part = recipe.ears
    sources = hearing_data(output, picture_passes=2)
    fit(model, recipe, output, "ears_more", sources, part.more_steps, part.learning_rate, part.batch_size, seed=3)


def hearing(recipe: Recipe, output: Path, start: Path, audio_encoder: Path):
    """The frozen parts with this audio encoder, and the adapters of the model at `start`, new where it has none."""
    import torch

    import mmlm
    from mmlm.model.config import FusionConfig, ResamplerConfig

    earlier = mmlm.load(start)
    model = mmlm.assemble(
        output / "frozen/language_model",
        output / "frozen/image_encoder",
        audio_encoder=audio_encoder,
        resampler=earlier.resampler_config,
        audio_resampler=ResamplerConfig(depth=0, timed=True, stack=recipe.ears.stack),
        # A question and the picture that it is about are one group, and both are needed.
        fusion=FusionConfig(heads=recipe.adapters.heads, dim_head=recipe.adapters.dim_head, visibility="group"),
        device=recipe.device,
        seed=recipe.seed,
    )
    own = dict(model.added_parameters())
    with torch.no_grad():
        for name, tensor in earlier.added_parameters():
            own[name][: len(tensor)] = tensor.to(own[name].device)
    return model


def hearing_data(output: Path, picture_passes: int) -> tuple[list[str], Path]:
    """Pictures, each seen so often in a pass, and recordings."""
    pictures, _ = picture_data(output, "settled")
    recordings = data.hearing_sources(output / "speech", output / "spoken", data.sets_folder())
    return [*pictures * picture_passes, *recordings], output / "spoken/dev-*.tar"


def picture_data(output: Path, scenes: str) -> tuple[list[str], Path]:
    """Training and held-out tars of pictures; `scenes` names the folder of the drawn ones."""
    return data.adapter_sources(output / scenes, data.sets_folder()), output / scenes / "dev-*.tar"


def fit(
    model,
    recipe: Recipe,
    output: Path,
    folder: str,
    sources: tuple[list[str], Path],
    steps: int,
    learning_rate: float,
    batch_size: int | None = None,
    seed: int = 0,
) -> None:
    """Train into `output/folder` on `sources`, training and held out; `seed` is added to the recipe's."""
    import mmlm

    training, held_out = sources
    mmlm.train(
        model,
        training,
        output=output / folder,
        held_out=held_out,
        steps=steps,
        batch_size=batch_size or recipe.adapters.batch_size,
        optimizer="muon",
        learning_rate=learning_rate,
        gate_learning_rate_scale=recipe.adapters.gate_learning_rate_scale,
        caption_share=recipe.adapters.caption_share,
        precision="auto",
        eval_every=500,
        save_every=250,
        cache=str(output / "features"),
        seed=recipe.seed + seed,
    )


def train_image_codec(recipe: Recipe, output: Path) -> None:
    import torch

    from decoders.codecs.image_vqvae import ImageVQVAE, ImageVQVAEConfig
    from decoders.codecs.quantizer import QuantizerConfig
    from mmlm.training import CodecTrainConfig, train_codec
    from mmlm.training.perceptual import contrast_distance

    part = recipe.pencil
    torch.manual_seed(recipe.seed)
    quantizer = QuantizerConfig("rvq", part.codebook_size, part.num_codebooks)
    codec = ImageVQVAE(ImageVQVAEConfig(width=part.codec_width, quantizer=quantizer, local=True))
    config = CodecTrainConfig(steps=part.codec_steps, learning_rate=2e-3, seed=recipe.seed, device=recipe.device)
    sources, held_out = coded_pictures(output)
    train_codec(codec, sources, output / "image_codec", held_out, config, contrast_distance())


def coded_pictures(output: Path) -> tuple[list[str], str]:
    """What the codec learns from: scenes as they come, and neat ones, which are what is drawn later."""
    sources, held_out = data.drawing_sources(output / "settled", data.sets_folder())
    return [*[f"{output}/neat/train-*.tar"] * 3, *sources], held_out


def train_image_codec_more(recipe: Recipe, output: Path) -> None:
    """The same codes; the decoder alone goes on, judged by the frozen CLIP as well, to which a shape is all."""
    from decoders.codecs.checkpoint import load_codec
    from mmlm.training import CodecTrainConfig, train_codec
    from mmlm.training.perceptual import clip_judge

    part = recipe.pencil
    config = CodecTrainConfig(
        steps=part.codec_decoder_steps, learning_rate=1.5e-3, tune="decoder", seed=recipe.seed + 1,
        device=recipe.device,
    )
    sources, held_out = coded_pictures(output)
    judge = clip_judge(str(output / "frozen/image_encoder"), recipe.device)
    codec = load_codec(output / "image_codec/codec")
    train_codec(codec, sources, output / "image_codec_more", held_out, config, judge)


def train_image_decoder(recipe: Recipe, output: Path) -> None:
    import torch

    from decoders.codecs.checkpoint import load_codec
    from decoders.diffusion.decoder import DiffusionDecoder, DiffusionDecoderConfig
    from mmlm.training import CodecTrainConfig, train_decoder

    part = recipe.pencil
    torch.manual_seed(recipe.seed)
    codec = load_codec(output / "image_codec_more/codec")
    decoder = DiffusionDecoder(codec, DiffusionDecoderConfig(channels=tuple(part.decoder_channels)))
    config = CodecTrainConfig(
        steps=part.decoder_steps, batch_size=part.decoder_batch_size, seed=recipe.seed, device=recipe.device
    )
    sources, held_out = data.drawing_sources(output / "settled", data.sets_folder())
    train_decoder(decoder, sources, output / "image_decoder", held_out, config)


def unpack(output: Path, package: Path) -> None:
    """The packaged weights, laid where stages look for what came before, to be trained on."""
    shutil.copytree(package / "language_model", output / "frozen/language_model")
    shutil.copytree(package / "image_encoder", output / "frozen/image_encoder")
    for name in ("audio_encoder", "audio_encoder_more"):
        (output / name).mkdir(parents=True)
        shutil.copy(package / "audio_encoder.pt", output / name / "whisper.pt")
    for name in ("ears", "ears_more", "writing"):
        (output / name / "model").mkdir(parents=True)
        for file in ("config.json", "model.safetensors"):
            shutil.copy(package / file, output / name / "model")
    for packed, name in (("image_codec", "image_codec_more/codec"), ("audio_codec", "audio_codec_more/codec")):
        shutil.copytree(package / packed, output / name)


def pack(recipe: Recipe, output: Path, package: Path) -> None:
    """Everything that ships, in float16, with the frozen parts named by where they lie in the package.

    What was not trained yet is left out. The diffusion decoders always are: of flat drawn scenes, and of single words,
    the codecs' own decoding is judged right more often (docs/nano.md).
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    import mmlm
    from decoders.codecs.checkpoint import save_codec

    partial = package.with_name(package.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(output / "frozen", partial)
    compress(output / "audio_encoder_more/whisper.pt", partial / "audio_encoder.pt")
    stages = ("writing", "ears_more")
    trained = next(path for stage in stages if (path := output / stage / "model").exists())
    model = mmlm.load(trained)
    name = "preset:nano" if package == ROOT / "mmlm/nano" else str(package.resolve())
    model.language_model.name = f"{name}/language_model"
    model.encoders["image"].name = f"{name}/image_encoder"
    model.encoders["audio"].name = f"{name}/audio_encoder.pt"
    for modality, codec in model.codecs.items():
        save_codec(codec, partial / f"{modality}_codec", torch.float16)
        codec.name = f"{name}/{modality}_codec"
    model.save(partial)
    with safe_open(partial / "model.safetensors", "pt") as weights:
        metadata = weights.metadata()
    tensors = {name: tensor.half() for name, tensor in load_file(partial / "model.safetensors").items()}
    save_file(tensors, partial / "model.safetensors", metadata=metadata)
    for kept in package.glob("*.md"):
        shutil.copy(kept, partial)
    for file in partial.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes for its owner alone
    shutil.rmtree(package, ignore_errors=True)
    os.replace(partial, package)
    size = sum(file.stat().st_size for file in package.rglob("*") if file.is_file())
    print(f"{package}: {size / 1e6:.1f} MB")


def compress(checkpoint: Path, packed: Path) -> None:
    """A checkpoint of torch.save with its entries deflated: torch.load reads it as it is.

    Nine in ten of Whisper's token rows are one and the same, and take no room then.
    """
    with zipfile.ZipFile(checkpoint) as whole, zipfile.ZipFile(packed, "w") as small:
        for entry in whole.infolist():
            small.writestr(zipfile.ZipInfo(entry.filename), whole.read(entry), zipfile.ZIP_DEFLATED, 9)


STAGES: dict[str, tuple[Callable[[Recipe, Path], None], str]] = {
    "scenes": (draw_scenes, "scenes/done"),
    "tokenizer": (train_tokenizer, "tokenizer/tokenizer.json"),
    "image_encoder": (train_image_encoder, "image_encoder/tokenizer.json"),
    "speech": (make_speech, "spoken/done"),
    "audio_encoder": (train_audio_encoder, "audio_encoder/whisper.pt"),
    "language_model": (train_language_model, "language_model/tokenizer.json"),
    "freeze": (freeze, "frozen"),
    "adapters": (train_adapters, "adapters/model/config.json"),
    "adapters_settled": (settle_adapters, "adapters_settled/model/config.json"),
    "ears": (train_ears, "ears/model/config.json"),
    "audio_encoder_more": (train_audio_encoder_more, "audio_encoder_more/whisper.pt"),
    "ears_more": (train_ears_more, "ears_more/model/config.json"),
    "neat": (draw_neatly, "neat/done"),
    "image_codec": (train_image_codec, "image_codec/codec/config.json"),
    "image_codec_more": (train_image_codec_more, "image_codec_more/codec/config.json"),
    "image_decoder": (train_image_decoder, "image_decoder/decoder/config.json"),
    "words": (make_words, "own_words/done"),
    "audio_codec": (train_audio_codec, "audio_codec/codec/config.json"),
    "audio_codec_more": (train_audio_codec_more, "audio_codec_more/codec/config.json"),
    "audio_decoder": (train_audio_decoder, "audio_decoder/decoder/config.json"),
    "writing": (train_writing, "writing/model/config.json"),
}


def main() -> None:
    from omegaconf import OmegaConf

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "runs/nano", help="the run's folder")
    parser.add_argument("--package", type=Path, default=ROOT / "mmlm/nano", help="where the packed weights go")
    parser.add_argument("--stages", nargs="+", choices=["unpack", *STAGES, "pack"], default=[*STAGES, "pack"])
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="any field of the recipe's dataclasses")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    merged = OmegaConf.merge(OmegaConf.structured(Recipe), OmegaConf.from_dotlist(arguments.settings))
    recipe: Recipe = OmegaConf.to_object(merged)
    for name in arguments.stages:
        if name == "pack":
            pack(recipe, arguments.output, arguments.package)
            continue
        if name == "unpack":
            unpack(arguments.output, arguments.package)
            continue
        stage, result = STAGES[name]
        if (arguments.output / result).exists():
            print(f"{name}: done, see {arguments.output / result}")
        else:
            stage(recipe, arguments.output)


if __name__ == "__main__":
    main()
