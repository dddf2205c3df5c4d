"""What can be typed after `mmlm`: the verbs with their arguments, options and examples."""

import argparse
from typing import Any

from mmlm import __version__


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs; the chosen one's name is `verb` in its namespace."""
    parser = argparse.ArgumentParser(
        prog="mmlm",
        description="Caption pictures, answer questions about them, written or spoken, draw, speak, and train.",
        epilog="`mmlm VERB --help` shows examples. A first try: mmlm caption photo.jpg",
    )
    parser.add_argument("--version", action="version", version=f"mmlm {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    verb = _verb(verbs, "caption", "caption pictures", """
  mmlm caption photo.jpg
  mmlm caption *.jpg --json --num-beams 3
  mmlm caption clip.mp4
  cat photo.jpg | mmlm caption -
  mmlm caption photo.jpg --model my-model --examples captioned/ --shots 4""")  # fmt: skip
    verb.add_argument("images", nargs="+", metavar="IMAGE", help="pictures, videos, or - for standard input")
    _add_model_options(verb)
    _add_example_options(verb)
    _add_generation_options(verb)

    verb = _verb(verbs, "answer", "answer a question about a picture", """
  mmlm answer photo.jpg "what color is the circle?"
  cat photo.jpg | mmlm answer - "how many shapes are there?" --json""")  # fmt: skip
    verb.add_argument("image", metavar="IMAGE", help="a picture file; - reads it from standard input")
    verb.add_argument("question", metavar="QUESTION")
    _add_model_options(verb)
    _add_example_options(verb)
    _add_generation_options(verb)

    verb = _verb(verbs, "generate", "continue text and pictures in any order, written as it comes", """
  mmlm generate --image photo.jpg --text "Output:a picture of"
  mmlm generate --image one.jpg --text "Output:a red circle" --image two.jpg --text "Output:" --num-beams 3
  mmlm generate --image photo.jpg --text "Output:" --temperature 0.8 --seed 1
  mmlm generate --text "Output:there is" --max-new-tokens 20""")  # fmt: skip
    verb.add_argument("--image", action=_AppendPart, metavar="IMAGE", help="a picture at this place of the prompt")
    verb.add_argument("--text", action=_AppendPart, metavar="TEXT", help="text at this place of the prompt")
    verb.set_defaults(parts=())
    _add_model_options(verb)
    _add_generation_options(verb)

    verb = _verb(verbs, "transcribe", "write down what is said in recordings", """
  mmlm transcribe talk.mp3 --model whisper/small
  mmlm transcribe *.wav --model whisper/base --format srt --output subtitles/
  mmlm transcribe film.mp4 --model my-whisper.pt --language en --json
  arecord -f S16_LE -r 16000 -t raw -d 5 | mmlm transcribe - --pcm-rate 16000 --model whisper/base""")  # fmt: skip
    verb.add_argument("recordings", nargs="+", metavar="AUDIO", help="sound or video files; - reads standard input")
    verb.add_argument(
        "--model",
        default="nano",
        metavar="WHISPER",
        help="nano, a Whisper model such as whisper/small (downloaded once), or a checkpoint file (default: nano)",
    )
    verb.add_argument("--format", choices=("txt", "srt", "vtt", "tsv", "json", "all"), help="openai-whisper's formats")
    verb.add_argument("--output", metavar="FOLDER", help="write files there instead of to standard output")
    verb.add_argument("--language", metavar="NAME", help="what is spoken; detected if not given")
    verb.add_argument("--task", choices=("transcribe", "translate"), default="transcribe", help="translate: to English")
    verb.add_argument("--vad", action="store_true", help="leave out what is said while nobody speaks (extra vad)")
    verb.add_argument("--prompt", metavar="TEXT", help="text that might stand before: names and words to expect")
    verb.add_argument("--pcm-rate", type=int, metavar="HZ", help="the input is raw 16-bit mono at this rate")
    verb.add_argument("--seed", type=int, default=0, metavar="N", help="of second attempts, which sample")
    _add_device_option(verb)
    _add_json_option(verb)

    verb = _verb(verbs, "ask", "answer what is asked in a recording, or about it", """
  mmlm ask question.wav
  mmlm ask question.wav --image photo.jpg --show-transcript
  mmlm ask order.wav "Which drink does the speaker order?" --mode features
  arecord -f S16_LE -r 16000 -t raw -d 5 | mmlm ask - --pcm-rate 16000 --json""")  # fmt: skip
    verb.add_argument("recording", metavar="AUDIO", help="a sound or video file; - reads standard input")
    verb.add_argument("question", nargs="?", metavar="QUESTION", help="about the recording; else its own is answered")
    verb.add_argument("--image", metavar="IMAGE", help="the picture that the question is about")
    verb.add_argument(
        "--mode",
        choices=("transcript", "features", "both"),
        default="transcript",
        help="what the language model gets: the words, what the adapters hear, or both (default: transcript)",
    )
    verb.add_argument("--show-transcript", action="store_true", help="print what was said before the answer")
    verb.add_argument("--few-shot", action="store_true", help="for a language model that only continues text")
    verb.add_argument("--language", metavar="NAME", help="what is spoken; detected if not given")
    verb.add_argument("--pcm-rate", type=int, metavar="HZ", help="the input is raw 16-bit mono at this rate")
    _add_model_options(verb)
    _add_generation_options(verb)

    verb = _verb(verbs, "draw", "draw what a text says", """
  mmlm draw "in the middle a large red circle, on a white background" -o out.png
  mmlm draw "a small blue star" -o star.png -n 4 --seed 1
  mmlm draw "a small blue star" -o best.png -n 4 --rerank --guidance-scale 2
  mmlm draw "a small blue star" -o more.png --init-image out.png --mask mask.png""")  # fmt: skip
    verb.add_argument("text", metavar="TEXT")
    verb.add_argument("-o", "--output", required=True, metavar="FILE", help="a picture file; several are numbered")
    verb.add_argument("-n", "--num-images", type=int, default=1, metavar="N", help="so many at once")
    verb.add_argument("--rerank", action="store_true", help="keep the one that CLIP finds nearest to the text")
    verb.add_argument("--init-image", metavar="IMAGE", help="begin with this picture")
    verb.add_argument("--mask", metavar="IMAGE", help="what of it is drawn anew: black stays")
    verb.add_argument("--strength", type=float, default=0.5, metavar="S", help="without a mask, the share drawn anew")
    _add_model_options(verb)
    _add_writing_options(verb)

    verb = _verb(verbs, "speak", "say a text aloud, into a file", """
  mmlm speak "seven" -o seven.wav --model my-model
  mmlm speak "seven" -o seven.flac --model my-model --seed 2 --temperature 0.7""")  # fmt: skip
    verb.add_argument("text", metavar="TEXT")
    verb.add_argument("-o", "--output", required=True, metavar="FILE", help="a sound file: wav, flac, ogg")
    verb.add_argument("--max-seconds", type=float, default=4.0, metavar="S", help="it ends by then (default: 4)")
    _add_model_options(verb)
    _add_writing_options(verb)

    verb = _verb(verbs, "train", "train adapters on pictures paired with text", """
  mmlm train recipe.yaml
  mmlm train recipe.yaml steps=200 learning_rate=1e-3 output=runs/second
  mmlm train recipe.yaml --json                    (prints the folder and the last losses)""")  # fmt: skip
    verb.add_argument("recipe", metavar="RECIPE.yaml")
    verb.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="values in place of the recipe's")
    _add_json_option(verb)

    verb = _verb(verbs, "eval", "measure a model beside the same model given wrong pictures", """
  mmlm eval nano pairs.jsonl
  mmlm eval my-model photos/ --limit 200 --num-beams 3 --json""")  # fmt: skip
    verb.add_argument("model", metavar="MODEL", help="preset, folder or hub id")
    verb.add_argument("data", metavar="DATA", help="JSONL manifest, folder with metadata.jsonl, tars, or COCO JSON")
    verb.add_argument("--limit", type=int, metavar="N", help="measure on the first N records")
    verb.add_argument("--batch-size", type=int, default=32, metavar="N")
    _add_device_option(verb)
    _add_dtype_option(verb)
    _add_pack_option(verb)
    _add_generation_options(verb)

    verb = _verb(verbs, "convert", "turn an OpenFlamingo checkpoint into a folder of safetensors, or back", """
  mmlm convert openflamingo-3b my-flamingo
  mmlm convert checkpoint.pt my-flamingo --language-model togethercomputer/RedPajama-INCITE-Base-3B-v1
  mmlm convert my-flamingo checkpoint.pt""")  # fmt: skip
    verb.add_argument("model", metavar="SOURCE", help="preset, folder or hub id; or an OpenFlamingo checkpoint file")
    verb.add_argument("output", metavar="OUTPUT", help="a folder for model.safetensors and config.json, or NAME.pt")
    verb.add_argument("--language-model", metavar="NAME", help="hub id or folder: what the checkpoint file is of")
    verb.add_argument("--image-encoder", metavar="NAME", help="the same for its CLIP (default: ViT-L-14/openai)")
    verb.set_defaults(device="cpu", pack=None)
    _add_dtype_option(verb)
    _add_json_option(verb)

    verb = _verb(verbs, "models", "list the models that come with mmlm", """
  mmlm models
  mmlm models --json""")  # fmt: skip
    _add_json_option(verb)
    return parser


def _verb(verbs: Any, name: str, purpose: str, examples: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        name,
        help=purpose,
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        epilog=f"examples:{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    return verb


class _AppendPart(argparse.Action):
    """Collects `--image` and `--text` in the order they were given."""

    def __call__(self, parser, namespace, value, option=None):
        namespace.parts = (*namespace.parts, (self.dest, value))


def _add_writing_options(verb: argparse.ArgumentParser) -> None:
    group = verb.add_argument_group("writing")
    group.add_argument("--steps", type=int, metavar="N", help="of the diffusion decoder; 0: codec alone (default: 4)")
    group.add_argument("--guidance-scale", type=float, metavar="S", help="towards the text; 1 is off (default: 1)")
    group.add_argument("--temperature", type=float, metavar="T")
    group.add_argument("--top-k", type=int, metavar="K")
    group.add_argument("--top-p", type=float, metavar="P")
    group.add_argument("--seed", type=int, default=0, metavar="N")
    _add_json_option(verb)


def _add_model_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--model", default="nano", metavar="MODEL", help="preset, folder or hub id (default: nano)")
    _add_device_option(verb)
    _add_dtype_option(verb)
    _add_pack_option(verb)


def _add_device_option(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu, cuda or cuda:N (default: cpu)")


def _add_dtype_option(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of the language model and the image encoder (default: float32)",
    )


def _add_pack_option(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--pack",
        choices=("exact", "fp16", "int8", "int4"),
        help="write faster: exact on a GPU or a CPU, or on a CPU with weights rounded to so many bits",
    )


def _add_json_option(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="print one JSON object a line")


def _add_example_options(verb: argparse.ArgumentParser) -> None:
    group = verb.add_argument_group("few-shot", "show the model the examples whose pictures are most like this one")
    group.add_argument("--examples", metavar="DATA", help="folder with metadata.jsonl, or any data that train reads")
    group.add_argument("--shots", type=int, default=4, metavar="K", help="how many of them (default: 4)")


def _add_generation_options(verb: argparse.ArgumentParser) -> None:
    group = verb.add_argument_group("generation", "greedy unless beams or a sampling option are asked for")
    group.add_argument("--max-new-tokens", type=int, metavar="N")
    group.add_argument("--num-beams", type=int, metavar="N")
    group.add_argument("--length-penalty", type=float, metavar="X", help="above 1 favours long texts (with beams)")
    group.add_argument("--repetition-penalty", type=float, metavar="X", help="above 1 avoids repetition")
    group.add_argument("--temperature", type=float, metavar="X", help="sample at this temperature")
    group.add_argument("--top-k", type=int, metavar="K", help="sample among the K likeliest tokens")
    group.add_argument("--top-p", type=float, metavar="P", help="sample among the likeliest tokens that make up P")
    group.add_argument("--seed", type=int, metavar="N", help="of sampling; the same seed gives the same text")
    _add_json_option(verb)


