"""The keys of recipes, with defaults and meanings, read from the source of the settings' classes and not imported."""

from __future__ import annotations

import ast
import re
import shutil
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from inspect import cleandoc
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).parents[2]
REQUIRED = "required"
COLUMN = 36  # where meanings begin
SETTINGS, RECIPES = "mmlm/training/config.py", "mmlm/training/recipe.py"
MODELS = "mmlm/training/model_recipe.py"
ALIGNED, OBJECTIVES = "mmlm/training/align_recipe.py", "mmlm/training/alignment/config.py"
SIZES, IMAGE, AUDIO = "mmlm/model/config.py", "decoders/codecs/image_vqvae.py", "decoders/codecs/audio_vqvae.py"
QUANTIZER, DECODER = "decoders/codecs/quantizer.py", "decoders/diffusion/decoder.py"
HOMES = {
    "TrainerConfig": SETTINGS,
    "TrainConfig": SETTINGS,
    "CodecTrainConfig": SETTINGS,
    "AlignConfig": OBJECTIVES,
    "RolloutConfig": OBJECTIVES,
    "AlignRecipe": ALIGNED,
    "ImageResampler": MODELS,
    "LoraConfig": SIZES,
}
HOMES |= {"DiffusionDecoderConfig": DECODER, "QuantizerConfig": QUANTIZER}

TABLES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "adapters: a recipe with `model`": (
        ("", RECIPES, "Recipe"),
        ("model.", MODELS, "ModelRecipe"),
        ("model.resampler.", MODELS, "ImageResampler"),
        ("model.audio_resampler.", MODELS, "AudioResampler"),
        ("model.fusion.", SIZES, "FusionConfig"),
        ("model.lora.", SIZES, "ReadingLora"),
        ("model.template.", "mmlm/prompting/templates.py", "PromptTemplate"),
    ),
    "a codec, or a diffusion decoder on one: a recipe with `codec` or `decoder`": (
        ("", RECIPES, "CodecRecipe"),
        ("codec.", RECIPES, "CodecParts"),
        ("codec.image.", IMAGE, "ImageVQVAEConfig"),
        ("codec.image.quantizer.", QUANTIZER, "QuantizerConfig"),
        ("codec.audio.", AUDIO, "AudioVQVAEConfig"),
        ("codec.audio.quantizer.", QUANTIZER, "QuantizerConfig"),
        ("decoder.", RECIPES, "DecoderParts"),
    ),
    "a model that draws and speaks: a recipe with `write`": (
        ("", RECIPES, "WritingRecipe"),
        ("model.", MODELS, "WritingModelRecipe"),
        ("model.lora.", SIZES, "LoraConfig"),
        ("write.", SETTINGS, "WritingTrainConfig"),
    ),
    "alignment by preferences: a recipe with `objective.kind` dpo, ipo, simpo or kto": (
        ("", ALIGNED, "PreferenceRecipe"),
        ("model.", MODELS, "WritingModelRecipe"),
        ("model.lora.", SIZES, "LoraConfig"),
        ("objective.", OBJECTIVES, "PreferenceConfig"),
    ),
    "a reward model: a recipe with `objective.kind` reward": (
        ("", ALIGNED, "RewardRecipe"),
        ("objective.", OBJECTIVES, "RewardConfig"),
    ),
    "alignment by rewards: a recipe with `objective.kind` grpo": (
        ("", ALIGNED, "GrpoRecipe"),
        ("model.", MODELS, "WritingModelRecipe"),
        ("model.lora.", SIZES, "LoraConfig"),
        ("objective.", OBJECTIVES, "GrpoConfig"),
    ),
    "alignment by rewards, with a value head: a recipe with `objective.kind` ppo": (
        ("", ALIGNED, "PpoRecipe"),
        ("model.", MODELS, "WritingModelRecipe"),
        ("model.lora.", SIZES, "LoraConfig"),
        ("objective.", OBJECTIVES, "PpoConfig"),
    ),
    "distillation of a teacher: a recipe with `objective.kind` distill": (
        ("", ALIGNED, "DistillRecipe"),
        ("objective.", OBJECTIVES, "DistillConfig"),
    ),
}
"""By what is trained: the prefix of keys, and the file and class that has them."""

DATA = """\
data of adapters and of models that draw and speak, for `data` and `held_out`: one of these, or a list of them
  pairs.jsonl              one JSON object a line; paths start from its folder, or from `images`:
                             {"image": "1.jpg", "caption": "a dog runs"}       (or "captions": a list)
                             {"image": "2.jpg", "question": "what?", "answer": "a dog"}   (or "qa": a list of these)
                             {"image": "film.mp4", "caption": "a dog runs"}    (a film: 8 of its frames)
                             {"audio": "1.flac", "transcript": "lights on"}    (beside "image" or alone)
  photos/                  a folder with such lines in metadata.jsonl, "file_name" and "text" for image and caption
  train-{000..003}.tar     WebDataset: KEY.jpg, KEY.flac or both, with KEY.json (fields as above) or KEY.txt
  captions.json            COCO captions; VQAv2's questions (answers beside them); LLaVA's list of conversations
  train-*.parquet          tables with columns of pictures and recordings, as `datasets` writes them
                             conversations ("messages", "conversations") and documents: see docs/data.md
data of alignment: such lines (of distillation these and conversations), or trl's and verl's, with media as above
                             {"image": "1.jpg", "prompt": "what?", "chosen": "a dog", "rejected": "a cat"}
                             {"image": "1.jpg", "prompt": "what?", "completion": "a dog", "label": true}
                             {"image": "1.jpg", "prompt": "what?", "answer": "a dog"}   (rewards compare with it)
data of codecs and diffusion decoders: a folder of pictures or recordings, files, tars, or any of the above"""


@dataclass(frozen=True)
class Key:
    """A key of a recipe; `default` as YAML has it, "required" where there is none."""

    name: str
    default: str
    meaning: str


def keys_text() -> str:
    """The keys of all recipes and the formats of data, to be read on a terminal.

    What has been said of a setting is not said again: its key and default stand among those "as above".
    """
    width = min(shutil.get_terminal_size().columns, 120)
    lines: list[str] = []
    told: set[tuple[str, str]] = set()
    for what, tables in TABLES.items():
        lines.append(f"keys of {what}")
        homes = {prefix: (file, name) for prefix, file, name in tables}
        for prefix, (file, name) in homes.items():
            above = []
            parent, _, field = prefix[:-1].rpartition(".")
            changed = _changed_defaults(*homes[f"{parent}." if parent else ""], field) if field else {}
            for key in keys_of(file, name, changed):
                text = f"{prefix}{key.name} = {key.default}"
                if (key.name, key.meaning) in told:
                    above.append(text)
                    continue
                told.add((key.name, key.meaning))
                lines += _entry(text, key.meaning, width)
            if above:
                lines += _entry("as above", "; ".join(above), width)
        lines.append("")
    return "\n".join([*lines, DATA])


def _entry(head: str, text: str, width: int) -> list[str]:
    """Two columns; a long first one has a line of its own."""
    wrapped = textwrap.wrap(text, max(20, width - COLUMN), break_on_hyphens=False)
    indented = [" " * COLUMN + line for line in wrapped]
    head = f"  {head}"
    if len(head) >= COLUMN or not wrapped:
        return [head, *indented]
    return [f"{head:<{COLUMN}}{wrapped[0]}", *indented[1:]]


def keys_of(file: str, name: str, changed: Mapping[str, str] = MappingProxyType({})) -> list[Key]:
    """The keys that the fields of a dataclass make, its own before those of its base classes.

    changed: defaults that the place of these settings in others gives them.
    """
    known: dict[str, Key] = {}
    order: list[str] = []
    for home, base in _bases(file, name):
        source = (ROOT / home).read_text(encoding="utf-8").splitlines()
        node = _classes(home)[base]
        fields = {ast.unparse(field.target): field for field in node.body if isinstance(field, ast.AnnAssign)}
        _, meanings = entries(ast.get_docstring(node) or "", [*fields, *known])
        for key, field in fields.items():
            earlier = known[key].meaning if key in known else ""
            meaning = meanings.get(key) or source[field.lineno - 1].partition("  # ")[2] or earlier
            if (default := _default(field)) is not None:
                known[key] = Key(
                    key, default, re.sub(r"\s*(ValueError (when|for|unless)|TypeError or ValueError,) .*", "", meaning)
                )
        order = [key for key in fields if key in known and key not in order] + order
    return [replace(known[key], default=changed.get(key, known[key].default)) for key in order]


def _changed_defaults(file: str, name: str, field: str) -> dict[str, str]:
    """Of `field: Kind = field(default_factory=lambda: Kind(1, size=2))`, the arguments by name."""
    own = [node for node in _classes(file)[name].body if isinstance(node, ast.AnnAssign)]
    made = next((node.value for node in own if ast.unparse(node.target) == field), None)
    factories = [keyword.value for keyword in made.keywords] if isinstance(made, ast.Call) else []
    if not factories or not isinstance(factories[0], ast.Lambda) or not isinstance(factories[0].body, ast.Call):
        return {}
    call = factories[0].body
    names = [key.name for key in keys_of(HOMES[ast.unparse(call.func)], ast.unparse(call.func))]
    given = dict(zip(names, call.args, strict=False)) | {str(one.arg): one.value for one in call.keywords}
    return {key: _yaml(ast.literal_eval(value)) for key, value in given.items()}


def entries(docstring: str, names: list[str]) -> tuple[str, dict[str, str]]:
    """A docstring without what it says of single fields (`name, name: …`), and that by field."""
    paragraphs = cleandoc(docstring).split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    name = rf"`?(?:{'|'.join(names)})`?"
    entry = re.compile(rf"(?:(?<=\n)|(?<=[.;:] )|^)({name}(?:, {name})*): ", re.MULTILINE)
    found = list(entry.finditer(text)) if names else []
    meanings, prose = {}, text[: found[0].start()] if found else text
    ends = [match.start() for match in found[1:]] + [len(text)]
    for match, end in zip(found, ends, strict=False):
        meaning, _, rest = text[match.end() : end].partition("\n\n")
        prose += f"\n\n{rest}"
        for key in re.findall(r"\w+", match[1]):
            meanings[key] = re.sub(r"(^|(?<=\.) )[A-Z][\w ]*:$|;$", "", meaning.strip())  # a heading of what follows
    return prose.strip(), meanings


@cache
def _classes(file: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _bases(file: str, name: str) -> list[tuple[str, str]]:
    """The class and those that it inherits settings from, the outermost first."""
    names = [base.id for base in _classes(file)[name].bases if isinstance(base, ast.Name) and base.id in HOMES]
    return [one for base in names for one in _bases(HOMES[base], base)] + [(file, name)]


def _default(field: ast.AnnAssign) -> str | None:
    """The default as YAML; None for settings that have keys of their own."""
    if field.value is None or (isinstance(field.value, ast.Name) and field.value.id == "MISSING"):
        return REQUIRED
    try:
        value = ast.literal_eval(field.value)
    except ValueError:
        return None
    return _yaml(value)


def _yaml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
