"""Real photographs: the whole path on Flickr8k, from nothing to captions of photographs that were never seen.

    python -m recipes.flickr8k.run                       # every stage; what is done is skipped, what stopped goes on
    python -m recipes.flickr8k.run --stages evaluate     # one stage
    python -m recipes.flickr8k.run --language-model $MMLM_REAL/smollm2-135m-instruct     # in place of the small one

A tokenizer and a small language model learn from the text of the train captions alone, a small open_clip model from the
train photographs with their captions; both are then frozen, and adapters join them. Planned for 45 minutes of one core.
With --language-model the same CLIP is joined to another language model, whose adapters and report stand beside the
others, under its name.
Flickr8k is for research and education only and the photographs belong to their authors: neither they nor what is
trained here belongs in the package, so everything is written to the run's folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import torch

from encoders.clip import ClipImageEncoder
from encoders.media.image import load_image
from mmlm import assemble, load, train
from mmlm.data import RecordSet, read_records
from mmlm.evaluation import RetrievalScores, evaluate, retrieval_recall
from mmlm.evaluation.contact_sheet import contact_sheet
from mmlm.model.config import FusionConfig, ResamplerConfig
from mmlm.training import TrainConfig
from recipes.pretrain.clip import ClipTrainConfig, train_clip
from recipes.pretrain.lm import LanguageModelTrainConfig, train_language_model
from recipes.pretrain.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("MMLM_DATA", ROOT / "../shared/data")) / "flickr8k"

VOCABULARY = 3000
LANGUAGE_MODEL = LanguageModelTrainConfig(
    hidden_size=192,
    num_layers=4,
    num_heads=6,
    intermediate_size=512,
    max_positions=512,
    sequence_length=128,
    batch_size=16,
    steps=800,  # four passes over 25,000 captions
)
IMAGE_ENCODER = ClipTrainConfig(
    image_size=96,
    patch_size=16,
    vision_width=192,
    vision_layers=6,
    text_width=128,
    text_layers=3,
    context_length=28,
    embed_dim=128,
    augment=True,
    patch_dropout=0.5,
    batch_size=128,
    steps=2000,  # 51 passes over 5,000 photographs
    learning_rate=1e-3,
    weight_decay=0.2,
)
RESAMPLER = ResamplerConfig(depth=2, num_latents=16, heads=4, dim_head=48)
FUSION = FusionConfig(heads=4, dim_head=48)
ADAPTERS = TrainConfig(epochs=12, batch_size=32, learning_rate=1e-3, precision="auto")
# Of a language model that knows words already, and is larger: text attends to the 36 patches themselves
LARGE_RESAMPLER = ResamplerConfig(depth=0)
LARGE_FUSION = FusionConfig(cross_attention_every=3)
LARGE_ADAPTERS = TrainConfig(epochs=4, batch_size=32, learning_rate=5e-4, precision="auto", save_every=50)
SHEET_PHOTOS = 12


def train_set() -> RecordSet:
    return read_records(DATA / "train-*.tar")


def dev_set() -> RecordSet:
    return read_records(DATA / "dev-*.tar")


def tokenizer(output: Path, _: Path | None) -> None:
    """Byte-level BPE of the train captions, for CLIP and the small language model."""
    train_tokenizer(
        [caption for record in train_set() for caption in record.captions], VOCABULARY, output / "tokenizer"
    )


def language_model(output: Path, given: Path | None) -> None:
    """The small language model, from the train captions' text alone, worded as the adapters will meet it."""
    if given is not None:
        return
    documents = [[f"Output:{caption}"] for record in train_set() for caption in record.captions]
    train_language_model(LANGUAGE_MODEL, documents, output / "tokenizer", output / "language_model")


def image_encoder(output: Path, _: Path | None) -> None:
    """CLIP, from the train photographs, each step with one of a photograph's five captions."""
    records = train_set()
    pictures = (load_image(record.image) for record in records)
    captions = [record.captions for record in records]
    train_clip(IMAGE_ENCODER, pictures, captions, output / "tokenizer", output / "image_encoder")


def adapters(output: Path, given: Path | None) -> None:
    """Resampler and gated blocks between the two, both frozen."""
    own = given or output / "language_model"
    small, large = (RESAMPLER, FUSION, ADAPTERS), (LARGE_RESAMPLER, LARGE_FUSION, LARGE_ADAPTERS)
    resampler, fusion, config = small if given is None else large
    config = dataclasses.replace(config, cache=str(output / "features"))
    model = assemble(own, output / "image_encoder", resampler=resampler, fusion=fusion)
    train(model, train_set(), held_out=dev_set(), output=output / named("adapters", given), config=config)


def evaluation(output: Path, given: Path | None) -> None:
    """Dev figures as `report.json` and a table, and a contact sheet of photographs as a seeded draw has them."""
    model, records = load(output / named("adapters", given) / "model"), dev_set()
    found = retrieval(model.encoders["image"], records)
    report = evaluate(model, records, num_beams=3, max_new_tokens=30)
    print(report)
    for way, recall in (("photograph to caption", found.image_to_text), ("caption to photograph", found.text_to_image)):
        print(f"{way:<34}" + "  ".join(f"R@{k} {share:.1%}" for k, share in recall.items()))

    chosen = np.random.default_rng(0).choice(len(records), SHEET_PHOTOS, replace=False)
    photos = [records[int(index)].image for index in chosen]
    captions = model.caption(photos, num_beams=3, max_new_tokens=30)
    print(contact_sheet(photos, captions, output / f"{named('dev', given)}.png"))
    for index, caption in zip(chosen, captions, strict=True):
        print(f"{records[int(index)].key}: {caption}")
    figures = {**report.to_dict(), "retrieval": dataclasses.asdict(found)}
    (output / f"{named('report', given)}.json").write_text(json.dumps(figures, indent=2) + "\n")


def named(what: str, given: Path | None) -> str:
    """What is made with a language model that was given bears its name."""
    return what if given is None else f"{what}-{given.name}"


def retrieval(encoder: ClipImageEncoder, records: RecordSet) -> RetrievalScores:
    """Recall of the CLIP alone, over every caption of the records."""
    pixels = torch.stack([encoder.preprocess(record.image) for record in records])
    owners = [number for number, record in enumerate(records) for _ in record.captions]
    texts = encoder.embed_texts([caption for record in records for caption in record.captions])
    return retrieval_recall(encoder.embed_images(pixels), texts, owners)


STAGES = {
    "tokenizer": (tokenizer, "tokenizer/tokenizer.json"),
    "language_model": (language_model, "language_model/model.safetensors"),
    "image_encoder": (image_encoder, "image_encoder/open_clip_model.safetensors"),
    "adapters": (adapters, "model/model.safetensors"),
    "evaluate": (evaluation, None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "runs/flickr8k", help="the run's folder")
    parser.add_argument("--language-model", type=Path, metavar="FOLDER", help="in place of the small one")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    arguments = parser.parse_args()
    for name in arguments.stages:
        stage, result = STAGES[name]
        folder = (
            arguments.output / named("adapters", arguments.language_model) if name == "adapters" else arguments.output
        )
        if result is not None and (folder / result).exists():
            print(f"{name}: done, see {folder / result}")
        else:
            stage(arguments.output, arguments.language_model)


if __name__ == "__main__":
    main()
