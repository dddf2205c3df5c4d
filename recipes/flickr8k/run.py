"""Real photographs: the whole path on Flickr8k, from nothing to captions of photographs that were never seen.

    python -m recipes.flickr8k.run                       # every stage; those already done are skipped
    python -m recipes.flickr8k.run --stages evaluate     # one stage

A tokenizer and a small language model learn from the text of the train captions alone, a small open_clip model from the
train photographs with their captions; both are then frozen, and adapters join them. About an hour of one CPU core.
Flickr8k is for research and education only and the photographs belong to their authors: neither they nor what is
trained here belongs in the package, so everything is written to the run's folder.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mmlm.data import RecordSet, read_records
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
    steps=800,
    learning_rate=2e-3,
)


def train_set() -> RecordSet:
    return read_records(DATA / "train-*.tar")


def dev_set() -> RecordSet:
    return read_records(DATA / "dev-*.tar")


def language_model(output: Path) -> None:
    """Tokenizer and language model, from the train captions' text alone, worded as the adapters will meet it."""
    captions = [caption for record in train_set() for caption in record.captions]
    train_tokenizer(captions, VOCABULARY, output / "tokenizer")
    texts = [f"Output:{caption}" for caption in captions]
    train_language_model(LANGUAGE_MODEL, texts, output / "tokenizer", output / "language_model")


STAGES = {
    "language_model": (language_model, "language_model/model.safetensors"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "runs/flickr8k", help="the run's folder")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    arguments = parser.parse_args()
    for name in arguments.stages:
        stage, result = STAGES[name]
        if (arguments.output / result).exists():
            print(f"{name}: done, see {arguments.output / result}")
        else:
            stage(arguments.output)


if __name__ == "__main__":
    main()
