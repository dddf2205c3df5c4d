"""Write a commented recipe to begin with, for mmlm train."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mmlm.cli.options import add_json_option
from mmlm.cli.output import print_record

EXAMPLES = """\
  mmlm init
  mmlm init circles.yaml --data pairs.jsonl --held-out dev.jsonl --output runs/circles
  mmlm init codec.yaml --kind codec --data photos/"""
COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 70, 220), "yellow": (235, 205, 40)}
COUNTS = {"train": 32, "held-out": 8}  # pictures of the example

ADAPTERS = """\
# Run it with `mmlm train {recipe}`; `key=value` behind that replaces a value for once.
# All keys, their defaults and the formats of data: `mmlm train --help`. Paths start from the current folder.

# The model whose adapters are trained further: a preset, a folder or a hub id.
model: nano
# To begin with new adapters between parts of your choice, instead:
# model:
#   language_model: Qwen/Qwen2.5-0.5B          # any causal language model: a hub id or a folder
#   image_encoder: ViT-B-32/laion2b_s34b_b79k  # any CLIP or SigLIP
#   audio_encoder: whisper/small               # pictures, sound or both
#   fusion: {{kind: prefix}}                     # media among the words; without it, gated cross-attention
#   lora: {{rank: 16, alpha: 32}}                # the language model learns as well, beside its own weights

# Pictures, films or recordings with texts about them. Leave held_out away if you keep none apart.
data: {data}
{held_out}
# This folder gets model/, metrics.jsonl, loss.png and checkpoints/. The same command goes on where a run in it stopped.
output: {output}

# Each step shows batch_size examples. For a whole number of passes over the data give `epochs` in place of `steps`.
# A run that has ended goes on to more steps with `extend=true steps=...`.
steps: 40
batch_size: 8
learning_rate: 5e-4
# precision: auto      # bfloat16 where the hardware multiplies it
# accumulation: 4      # examples of 4 batches a step, in the memory of one

log_every: 10          # steps between lines of metrics
eval_every: 20         # steps between measurements on held_out
save_every: 20         # steps between checkpoints
"""

CODEC = """\
# A codec, which turns pictures into codes and back. Run it with `mmlm train {recipe}`.
# All keys and their defaults: `mmlm train --help`. Paths start from the current folder.

codec:
  image:               # or audio: {{}} for recordings; all sizes have defaults
    size: 64           # pixels per side
    downsample: 8      # pixels per side of what one code covers
    width: 32          # channels
    quantizer: {{kind: vq, codebook_size: 64}}

# Media alone: a folder, files, tars, or paired data.
data: {data}
{held_out}
# This folder gets codec/, metrics.jsonl, previews/ and checkpoints/. The same command goes on where a run stopped.
output: {output}

steps: 40
batch_size: 8
warmup_steps: 5
log_every: 10
eval_every: 20
preview_every: 20      # steps between pictures of what it gives back
"""

WRITING = """\
# A model learns to draw pictures, or to speak, for a text. Run it with `mmlm train {recipe}`.
# All keys and their defaults: `mmlm train --help`. Paths start from the current folder.

model:
  load: nano           # its codecs stay, unless others are given:
  # image_codec: runs/codec/codec              # what `mmlm train` made of a recipe with `codec`
  # lora: {{rank: 16, alpha: 32}}

# Pictures with captions, recordings with transcripts.
data: {data}
{held_out}
# This folder gets model/, metrics.jsonl and checkpoints/. The same command goes on where a run in it stopped.
output: {output}

write:
  tune: lora           # or rows, the codes' alone; or full, all of the language model
  steps: 20
  batch_size: 4
  log_every: 5
  eval_every: 10
"""
KINDS = {"adapters": ADAPTERS, "codec": CODEC, "writing": WRITING}


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verb.add_argument("recipe", nargs="?", default="recipe.yaml", metavar="RECIPE.yaml", help="default: recipe.yaml")
    verb.add_argument("--kind", choices=tuple(KINDS), default="adapters", help="what is trained (default: adapters)")
    verb.add_argument("--data", metavar="DATA", help="yours; without it, a small example is drawn beside the recipe")
    verb.add_argument("--held-out", metavar="DATA", help="data to measure on")
    verb.add_argument("--output", metavar="FOLDER", help="of the run (default: runs/ and the recipe's name)")
    add_json_option(verb)


def run(args: argparse.Namespace) -> None:
    """The recipe, and data for it where none were given."""
    recipe = Path(args.recipe)
    if recipe.exists():
        raise FileExistsError(f"{recipe} exists already: give another name, or remove it")
    if not recipe.parent.is_dir():
        raise FileNotFoundError(f"{recipe.parent}: no such folder")
    from mmlm.data.readers.paths import expand

    data, held_out = args.data, args.held_out
    if data is None:
        if held_out is not None:
            raise ValueError("--held-out without --data: give both, or none for an example")
        data, held_out = (str(_example(recipe.with_name("example") / name, name)) for name in COUNTS)
    else:
        for given in (data, held_out):
            if given is not None and "${" not in given:  # which the recipe fills in when it is run
                expand(given)
    text = KINDS[args.kind].format(
        recipe=recipe,
        data=_quoted(data),
        held_out="# held_out: dev.jsonl" if held_out is None else f"held_out: {_quoted(held_out)}",
        output=_quoted(args.output or f"runs/{recipe.stem}"),
    )
    recipe.write_text(text, encoding="utf-8")
    record = {"recipe": str(recipe), "data": data, "held_out": held_out}
    print_record(args, record, f"{recipe}: run it with `mmlm train {recipe}`")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # which YAML reads as well, whatever characters it holds


def _example(folder: Path, name: str) -> Path:
    """A folder of drawn circles with captions, as `data` reads it. One that is there already stays as it is."""
    if folder.exists():
        return folder
    from PIL import Image, ImageDraw

    folder.mkdir(parents=True)
    lines = []
    for number in range(COUNTS[name]):
        colour = list(COLOURS)[number % 4]
        picture, left = Image.new("RGB", (64, 64), "white"), 2 + (number * 7 + len(name)) % 30
        ImageDraw.Draw(picture).ellipse((left, 16, left + 30, 46), fill=COLOURS[colour])
        picture.save(folder / f"{number:02d}.png")
        lines.append(json.dumps({"file_name": f"{number:02d}.png", "text": f"a {colour} circle"}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder
