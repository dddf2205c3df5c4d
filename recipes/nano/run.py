"""nano from nothing: draws its scenes, trains an image encoder, a language model and the adapters, packs the weights.

    python -m recipes.nano.run                                    # every stage; those already done are skipped
    python -m recipes.nano.run image_encoder.steps=20000 adapters.steps=50000 device=cuda --output runs/large
    python -m recipes.nano.run --stages freeze adapters pack      # some of them
    python -m recipes.nano.run --stages scenes speech neat words unpack exercises exercises_last \
        together pack  # the packaged ones, further
    torchrun --nproc-per-node 2 -m recipes.nano.run --stages thoughts  # adapters and codes train in several processes
    python -m recipes.nano.evaluate                               # the tables of docs/nano.md
    python -m recipes.nano.thinking                               # those of thinking, tools, notes and JSON

docs/nano.md tells how long each stage took. Each goes on where it was stopped. The last writes the packaged weights,
`mmlm/nano/`, unless `--package` names another folder.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mmlm.training.ranks import join
from recipes.nano.settings import Recipe
from recipes.nano.stages.adapters import settle_adapters, train_adapters
from recipes.nano.stages.audio_codec import make_words, train_audio_codec, train_audio_codec_more, train_audio_decoder
from recipes.nano.stages.audio_encoder import (
    make_speech,
    train_audio_encoder,
    train_audio_encoder_more,
    train_digits,
    train_digits_more,
)
from recipes.nano.stages.ears import train_ears, train_ears_more
from recipes.nano.stages.image_codec import learn_image_codec, train_image_decoder
from recipes.nano.stages.image_encoder import train_image_encoder
from recipes.nano.stages.judging import make_boxes, train_judging
from recipes.nano.stages.language_model import train_language_model, train_tokenizer
from recipes.nano.stages.looking import make_looking, train_looking, train_looking_more
from recipes.nano.stages.package import PACKAGE, freeze, pack, unpack
from recipes.nano.stages.rewarded import train_rewarded
from recipes.nano.stages.scenes import draw_neatly, draw_scenes
from recipes.nano.stages.thoughts import (
    make_exercises,
    make_last_exercises,
    make_more_exercises,
    train_thoughts,
    train_thoughts_more,
)
from recipes.nano.stages.thoughts_text import read_thoughts
from recipes.nano.stages.together import train_together
from recipes.nano.stages.writing import train_writing, train_writing_last, train_writing_more

RUNS = Path(__file__).resolve().parents[2] / "runs"

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
    "audio_digits": (train_digits, "audio_digits/whisper.pt"),
    "ears_more": (train_ears_more, "ears_more/model/config.json"),
    "neat": (draw_neatly, "neat/done"),
    "image_codec": (learn_image_codec, "image_codec/codec/config.json"),
    "image_decoder": (train_image_decoder, "image_decoder/decoder/config.json"),
    "words": (make_words, "own_words/done"),
    "audio_codec": (train_audio_codec, "audio_codec/codec/config.json"),
    "audio_codec_more": (train_audio_codec_more, "audio_codec_more/codec/config.json"),
    "audio_decoder": (train_audio_decoder, "audio_decoder/decoder/config.json"),
    "writing": (train_writing, "writing/model/config.json"),
    "exercises": (make_exercises, "exercises/done"),
    "thoughts_text": (read_thoughts, "thoughts_text/tokenizer.json"),
    "thoughts": (train_thoughts, "thoughts/model/config.json"),
    "exercises_more": (make_more_exercises, "exercises_more/done"),
    "thoughts_more": (train_thoughts_more, "thoughts_more/model/config.json"),
    "writing_more": (train_writing_more, "writing_more/model/config.json"),
    "exercises_last": (make_last_exercises, "exercises_last/done"),
    "together": (train_together, "together/model/config.json"),
    "rewarded": (train_rewarded, "rewarded/model/config.json"),
    "writing_last": (train_writing_last, "writing_last/model/config.json"),
    "exercises_looking": (make_looking, "exercises_looking/done"),
    "audio_digits_more": (train_digits_more, "audio_digits_more/whisper.pt"),
    "looking": (train_looking, "looking/model/config.json"),
    "looking_more": (train_looking_more, "looking_more/model/config.json"),
    "exercises_boxes": (make_boxes, "exercises_boxes/done"),
    "judging": (train_judging, "judging/model/config.json"),
}
TRIED = ("exercises_boxes", "judging")  # asked for by name alone: not in the packaged weights (docs/nano.md says why)


def main() -> None:
    from omegaconf import OmegaConf

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RUNS / "nano", help="the run's folder")
    parser.add_argument("--package", type=Path, default=PACKAGE, help="where the packed weights go")
    every = [*(name for name in STAGES if name not in TRIED), "pack"]
    parser.add_argument("--stages", nargs="+", choices=["unpack", *STAGES, "pack"], default=every)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="any field of the recipe's dataclasses")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    merged = OmegaConf.merge(OmegaConf.structured(Recipe), OmegaConf.from_dotlist(arguments.settings))
    recipe: Recipe = OmegaConf.to_object(merged)
    join(recipe.device)
    for name in arguments.stages:
        if name == "pack":
            pack(recipe, arguments.output, arguments.package)
            continue
        stage, result = STAGES.get(name) or (partial(unpack, arguments.package), "frozen")
        if (arguments.output / result).exists():
            print(f"{name}: done, see {arguments.output / result}")
        else:
            stage(recipe, arguments.output)


if __name__ == "__main__":
    main()
