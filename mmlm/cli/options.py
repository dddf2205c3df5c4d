"""Options that several verbs share: each stands once, and is read back by the name under which it was added."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from typing import Any

from mmlm.cli.forms import add_form_options, form_options
from mmlm.cli.thoughts import thinking_options


@dataclass(frozen=True)
class Option:
    """An option of a generation: `--the-name`, for the keyword `the_name`."""

    name: str
    type: type
    metavar: str
    help: str | None = None


GENERATION = (
    Option("max_new_tokens", int, "N", "at most so many tokens"),
    Option("min_new_tokens", int, "N", "at least so many tokens"),
    Option("num_beams", int, "N", "search with so many beams"),
    Option("length_penalty", float, "X", "above 1 favours long texts (with beams)"),
    Option("repetition_penalty", float, "X", "above 1 avoids repetition"),
    Option("no_repeat_ngram_size", int, "N", "no sequence of N tokens occurs twice"),
    Option("seed", int, "N", "of sampling; the same seed gives the same texts for the same inputs"),
)
SAMPLING = (
    Option("temperature", float, "X", "sample at this temperature"),
    Option("top_k", int, "K", "sample among the K most likely tokens"),
    Option("top_p", float, "P", "sample among the most likely tokens that make up P"),
)
MEDIA = (
    Option("steps", int, "N", "of the diffusion decoder; 0: the codec alone (default: 4)"),
    Option("guidance_scale", float, "S", "towards the text; 1 is off (default: 1)"),
    *SAMPLING,
    Option("seed", int, "N", "the same seed gives the same result (default: 0)"),
)
LIMITS = {
    "max_bytes": Option(
        "max_bytes", int, "N", "the largest file that is read (default: 100 MB for a picture, else 2 GB)"
    ),
    "max_pixels": Option("max_pixels", int, "N", "the largest picture that is read (default: 64 million pixels)"),
    "max_seconds": Option("max_seconds", float, "S", "the longest recording or video that is read (default: 4 hours)"),
}
IMAGE_LIMITS, VIDEO_LIMITS = ("max_bytes", "max_pixels"), ("max_bytes", "max_pixels", "max_seconds")
SOUND_LIMITS = ("max_bytes", "max_seconds", "allow_truncated", "pcm_rate")


def file_path(name: str) -> str:
    """A path with `~` for the home folder, as an argument's type."""
    return os.path.expanduser(name)


def add_batch_options(verb: argparse.ArgumentParser) -> None:
    """What happens when one of several inputs cannot be used."""
    verb.add_argument("--fail-fast", action="store_true", help="end at the first input that cannot be used")


def add_reading_options(verb: argparse.ArgumentParser, *names: str) -> None:
    """Limits of what is read, by the names of the keywords of `encoders.media`."""
    group = verb.add_argument_group("reading")
    _add(group, tuple(LIMITS[name] for name in LIMITS if name in names))
    if "allow_truncated" in names:
        group.add_argument("--allow-truncated", action="store_true", help="use what is there of a file that is cut off")
    if "pcm_rate" in names:
        group.add_argument("--pcm-rate", type=int, metavar="HZ", help="the input is raw 16-bit mono at this rate")
    group.add_argument("--allow-url", action="store_true", help="fetch media from http and https addresses")


def reading_options(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those keyword arguments of a reader that were given, out of `names` and `allow_url`."""
    values = {name: vars(args).get(name) for name in (*names, "allow_url")}
    return {name: value for name, value in values.items() if value is not None and value is not False}


def add_hearing_options(verb: argparse.ArgumentParser) -> None:
    """How a recording reaches the language model."""
    verb.add_argument(
        "--mode",
        choices=("transcript", "features", "both"),
        default="transcript",
        help="what the language model gets: the words, what the adapters hear, or both (default: transcript)",
    )
    verb.add_argument("--language", metavar="NAME", help="what is spoken; detected if not given")


PARTS = {
    "language_model": "a causal language model: a folder, a file of GGUF, or a hub id",
    "image_encoder": "a CLIP: a name of open_clip, a folder, a file or a hub id",
    "audio_encoder": "a Whisper: a name of openai-whisper, a checkpoint file, a folder or a hub id",
}
ENCODERS = ("image_encoder", "audio_encoder")
CODECS = {"image_codec": "what draws: a folder or hub id", "audio_codec": "what speaks: a folder or hub id"}
"""Parts of a model that options name, with what each is."""


def add_generation_options(verb: argparse.ArgumentParser) -> None:
    """How a text is decoded, and how it is printed."""
    group = verb.add_argument_group("generation", "greedy unless beams or a sampling option are asked for")
    _add(group, (*GENERATION, *SAMPLING))
    group.add_argument("--stop", action="append", metavar="TEXT", help="end the text there; may be given several times")
    add_form_options(verb)
    add_output_options(verb)


def generation_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of a generation, checked before any weights are read."""
    options = _given(args, (*GENERATION, *SAMPLING))
    if any(option.name in options for option in SAMPLING):
        options["do_sample"] = True
    if args.stop:
        options["stop"] = tuple(args.stop)
    options |= thinking_options(args) | form_options(args)
    from mmlm.generation.options import GenerationOptions

    GenerationOptions.of(options)
    return options


def add_media_options(verb: argparse.ArgumentParser) -> None:
    """How codes are written, and how they become media."""
    _add(verb.add_argument_group("drawing and speaking"), MEDIA)
    add_output_options(verb)


def media_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of `draw` and `speak` that were given, checked before any weights are read."""
    options = _given(args, MEDIA)
    if options.get("steps", 0) < 0:
        raise ValueError(f"--steps must be at least 0, not {options['steps']}")
    from mmlm.tasks.draw import check_numbers, sampled, text_of

    text_of(args.text)
    check_numbers(**{name: options[name] for name in ("steps", "guidance_scale", "seed") if name in options})
    names = ("temperature", "top_k", "top_p", "seed")
    sampled(1, *(options.get(name, default) for name, default in zip(names, (1.0, None, None, 0), strict=True)))
    return options


def add_output_options(verb: argparse.ArgumentParser) -> None:
    """How a result is printed."""
    verb.add_argument("--details", action="store_true", help="add why it ended, what it used and how likely it is")
    add_json_option(verb)


def add_model_options(verb: argparse.ArgumentParser) -> None:
    """Which model, where, and in which precision."""
    verb.add_argument("--model", type=file_path, metavar="MODEL", help="preset, folder or hub id (default: nano)")
    add_part_options(verb, joining=True)
    add_device_option(verb)
    add_dtype_option(verb)
    add_pack_option(verb)


def add_encoder_options(verb: argparse.ArgumentParser) -> None:
    """Which model's encoders, where, and in which precision."""
    verb.add_argument(
        "--model", type=file_path, metavar="MODEL", help="preset, folder or hub id, whose encoders (default: nano)"
    )
    group = verb.add_argument_group("encoders", "in place of the model's; its language model is not loaded")
    for part in ENCODERS:
        group.add_argument(f"--{part.replace('_', '-')}", type=file_path, metavar="NAME", help=PARTS[part])
    add_device_option(verb)
    add_dtype_option(verb)


def add_part_options(verb: argparse.ArgumentParser, joining: bool = False) -> None:
    """Frozen parts by name. joining: whether they may be joined to a new model."""
    about = "names, folders or files, in place of those that the model names"
    if joining:
        about += ";\n--language-model without --model joins the parts to a new model, whose adapters are untrained"
    group = verb.add_argument_group("parts", about)
    for part, what in (PARTS | CODECS).items():
        group.add_argument(f"--{part.replace('_', '-')}", type=file_path, metavar="NAME", help=what)


def add_device_option(verb: argparse.ArgumentParser) -> None:
    """Where the model runs."""
    verb.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu, cuda or cuda:N (default: cpu)")


def add_dtype_option(verb: argparse.ArgumentParser) -> None:
    """The precision of the frozen parts."""
    verb.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of the language model and the image encoder (default: float32)",
    )


def add_pack_option(verb: argparse.ArgumentParser) -> None:
    """Faster generation."""
    verb.add_argument(
        "--pack",
        choices=("exact", "fp16", "int8", "int4"),
        help="generate faster: exact on a GPU or a CPU; on a CPU also with weights rounded to 16, 8 or 4 bits",
    )


def add_json_option(verb: argparse.ArgumentParser) -> None:
    """Output for programs."""
    verb.add_argument("--json", action="store_true", help="print the whole result, one JSON object a line")


def add_example_options(verb: argparse.ArgumentParser) -> None:
    """Few-shot examples, chosen by similarity."""
    group = verb.add_argument_group("few-shot", "show the model the examples whose pictures are most like this one")
    group.add_argument(
        "--examples", metavar="DATA", type=file_path, help="folder with metadata.jsonl, or any data that train reads"
    )
    group.add_argument("--shots", type=int, default=4, metavar="K", help="how many of them (default: 4)")


def add_index_options(verb: argparse.ArgumentParser, required: bool) -> None:
    """Which index, and what of it."""
    about = "the file, such as notes.index" if required else "look up what this index has, made by `mmlm index add`"
    group = verb.add_argument_group("index")
    group.add_argument("--index", type=file_path, metavar="FILE", required=required, help=about)
    group.add_argument(
        "--where", action="append", type=key_and_value, metavar="KEY=VALUE", default=[],
        help="only what has this metadata; of one key several values: one of them",
    )  # fmt: skip


def add_least_option(verb: argparse.ArgumentParser) -> None:
    """How near vectors must be."""
    verb.add_argument(
        "--least", action="append", type=least_cosine, metavar="RANKING=COSINE", default=[],
        help="leave out what is farther, such as texts=0.8 and pictures=0.2; `mmlm index search --json` shows cosines",
    )  # fmt: skip


def least_cosine(text: str) -> tuple[str, float]:
    """`texts=0.8` → ("texts", 0.8), as an argument's type."""
    name, value = key_and_value(text)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise argparse.ArgumentTypeError(f"{text!r} is no RANKING=COSINE")
    return name, float(value)


def key_and_value(text: str) -> tuple[str, Any]:
    """`year=2020` → ("year", 2020): numbers, true, false and null as JSON has them, all else as text."""
    key, given, value = text.partition("=")
    if not key or not given:
        raise argparse.ArgumentTypeError(f"{text!r} is no KEY=VALUE")
    try:
        found = json.loads(value)
    except ValueError:
        found = value
    return key, value if isinstance(found, dict | list) else found


def where_of(args: argparse.Namespace) -> dict[str, list[Any]]:
    """The values of `--where`, by their keys."""
    found: dict[str, list[Any]] = {}
    for key, value in args.where:
        found.setdefault(key, []).append(value)
    return found


def _add(group: Any, options: tuple[Option, ...]) -> None:
    for option in options:
        flag = f"--{option.name.replace('_', '-')}"
        group.add_argument(flag, type=option.type, metavar=option.metavar, help=option.help)


def _given(args: argparse.Namespace, options: tuple[Option, ...]) -> dict[str, Any]:
    values = {option.name: getattr(args, option.name) for option in options}
    return {name: value for name, value in values.items() if value is not None}
