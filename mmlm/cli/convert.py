"""Turn a model into a folder, with its frozen parts or without them; an OpenFlamingo checkpoint too, or back."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmlm.cli.loading import dtype_of, load_model
from mmlm.cli.options import add_dtype_option, add_json_option
from mmlm.cli.output import print_record

EXAMPLES = """\
  mmlm convert openflamingo-3b my-flamingo
  mmlm convert checkpoint.pt my-flamingo --language-model togethercomputer/RedPajama-INCITE-Base-3B-v1
  mmlm convert my-flamingo checkpoint.pt
  mmlm convert nano my-nano --bundle               (a folder that loads with nothing else present)"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verb.add_argument("model", metavar="SOURCE", help="preset, folder or hub id; or an OpenFlamingo checkpoint file")
    verb.add_argument("output", metavar="OUTPUT", help="a folder for model.safetensors and config.json, or NAME.pt")
    verb.add_argument("--language-model", metavar="NAME", help="hub id or folder: the checkpoint file's language model")
    verb.add_argument("--image-encoder", metavar="NAME", help="the same of its CLIP (default: ViT-L-14/openai)")
    verb.add_argument("--bundle", action="store_true", help="take the language model, encoders and codecs along")
    verb.set_defaults(device="cpu", pack=None)
    add_dtype_option(verb)
    add_json_option(verb)


def run(args: argparse.Namespace) -> None:
    """The checkpoint in its new form."""
    output, parts = Path(args.output), (args.language_model, args.image_encoder)
    if output.exists() and output.is_dir() == (output.suffix == ".pt"):
        raise ValueError(f"{output} is in the way: NAME.pt becomes a file, any other name a folder")
    if args.bundle and output.suffix == ".pt":
        raise ValueError("--bundle is for folders: a checkpoint file of OpenFlamingo holds no frozen parts")
    if Path(args.model).is_file():
        if args.language_model is None:
            raise ValueError(f"{args.model} does not name its language model: give it with --language-model")
        from mmlm.assembly.interop import open_flamingo

        model = open_flamingo.load(args.model, *(part for part in parts if part is not None), dtype=dtype_of(args))
    elif parts != (None, None):
        raise ValueError("--language-model and --image-encoder are for checkpoint files; other models name their own")
    else:
        model = load_model(args)
    if output.suffix == ".pt":
        from mmlm.assembly.interop import open_flamingo

        open_flamingo.save(model, output)
    else:
        model.save(output, bundle=args.bundle)
    print_record(args, {"output": str(output)}, str(output))
