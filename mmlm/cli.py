"""The command line: `mmlm VERB ...`. Nothing heavy is imported until a verb has checked what it was given."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmlm import __version__

if TYPE_CHECKING:
    from mmlm.model import MultimodalLM

BATCH = 8  # pictures that are decoded and captioned at once
GENERATION = ("max_new_tokens", "num_beams", "length_penalty", "repetition_penalty", "seed")
SAMPLING = ("temperature", "top_k", "top_p")
PICTURES, SOUNDS = (".png", ".jpg", ".jpeg", ".webp"), (".wav", ".flac", ".ogg")  # that are written


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit code: 0 done, 2 input that cannot be used, 130 interrupted."""
    args = build_parser().parse_args(argv)
    if not sys.stderr.isatty():  # transformers and open_clip draw their bars through huggingface_hub
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (`| head`) has enough; the interpreter's own last flush must not complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, ImportError) as error:  # what bad input raises throughout the library
        if args.debug:
            raise
        print(f"mmlm {args.verb}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


# ---- the verbs


def caption(args: argparse.Namespace) -> None:
    for name in args.images:
        if name != "-" and not Path(name).is_file():
            raise FileNotFoundError(f"{name}: no such file")
    options, model, demonstrations = _generation(args), None, None
    for start in range(0, len(args.images), BATCH):
        names = args.images[start : start + BATCH]
        images = [_read_image(name) for name in names]
        if model is None:
            model = _load(args)
            demonstrations = _demonstrations(args, model)
        if demonstrations is None:
            prompts = [model.template.caption_prompt(image) for image in images]
        else:
            prompts = [demonstrations.caption_prompt(image, args.shots, model.template) for image in images]
        drawn = {**options, "seed": options["seed"] + start} if "seed" in options else options
        for name, text in zip(names, model.generate(prompts, **drawn), strict=True):
            text = _one_line(text)
            _print(args, {"image": name, "caption": text}, text if len(args.images) == 1 else f"{name}\t{text}")


def answer(args: argparse.Namespace) -> None:
    options, image = _generation(args), _read_image(args.image)
    model = _load(args)
    demonstrations = _demonstrations(args, model)
    if demonstrations is None:
        prompt = model.template.question_prompt(image, args.question)
    else:
        prompt = demonstrations.question_prompt(image, args.question, args.shots, model.template)
    text = _one_line(model.generate(prompt, **options))
    _print(args, {"image": args.image, "question": args.question, "answer": text}, text)


def generate(args: argparse.Namespace) -> None:
    from mmlm.prompt import Image

    if not args.parts:
        raise ValueError("the prompt is empty: give --image and --text in the order they should be read")
    options = _generation(args)
    parts = [Image(_read_image(value)) if kind == "image" else value for kind, value in args.parts]
    model = _load(args)
    if args.json or options.get("num_beams", 1) > 1:
        text = model.generate(parts, **options)
        _print(args, {"text": text}, text)
        return
    for piece in model.stream(parts, **options):
        print(piece, end="", flush=True)
    print()


def transcribe(args: argparse.Namespace) -> None:
    for name in args.recordings:
        if name != "-" and not Path(name).is_file():
            raise FileNotFoundError(f"{name}: no such file")
    if args.format == "all" and args.output is None:
        raise ValueError("--format all writes several files: give a folder for them with --output")
    from whisper.utils import get_writer

    from encoders.transcriber import Transcriber
    from encoders.whisper import load_whisper
    from mmlm.presets import part_of_preset

    options = {name: value for name in ("language", "prompt", "pcm_rate") if (value := getattr(args, name)) is not None}
    device = _device(args)
    transcriber = Transcriber(load_whisper(part_of_preset(args.model, "audio_encoder.pt"), device))
    at_once = args.format is None and args.output is None and not args.json
    for name in args.recordings:
        source = sys.stdin.buffer if name == "-" else Path(name)
        running = transcriber.stream(source, task=args.task, seed=args.seed, vad=args.vad, **options)
        segments = []
        for segment in _with_bar(running, name):
            segments.append(segment)
            if at_once:
                line = segment.text.strip()
                print(line if len(args.recordings) == 1 else f"{name}\t{line}", flush=True)
        result = running.transcript(segments).to_dict()
        if args.output is not None:
            Path(args.output).mkdir(parents=True, exist_ok=True)
            get_writer(args.format or "txt", args.output)(result, "stdin" if name == "-" else name, {})
        elif args.json:
            print(json.dumps({"audio": name, **result}, ensure_ascii=False), flush=True)
        elif args.format is not None:
            get_writer(args.format, ".").write_result(result, sys.stdout, {})


def ask(args: argparse.Namespace) -> None:
    if args.recording != "-" and not Path(args.recording).is_file():
        raise FileNotFoundError(f"{args.recording}: no such file")
    if args.show_transcript and args.mode == "features":
        raise ValueError("--show-transcript: in mode features nothing is written down; choose transcript or both")
    options = _generation(args)
    image = None if args.image is None else _read_image(args.image)
    from encoders.sound import load_audio

    source = sys.stdin.buffer if args.recording == "-" else Path(args.recording)
    sound = load_audio(source, pcm_rate=args.pcm_rate)
    model = _load(args)
    from mmlm.tasks import EXAMPLES

    said = None if args.mode == "features" else model.transcribe(sound, language=args.language)
    if args.show_transcript:
        print(f"transcript: {said.text}", file=sys.stderr if args.json else sys.stdout, flush=True)
    examples = EXAMPLES if args.few_shot else ()
    text = model.ask(sound, args.question, image, mode=args.mode, transcript=said, examples=examples, **options)
    text = _one_line(text)
    record = {"audio": args.recording, "question": args.question, "image": args.image, "mode": args.mode}
    _print(args, {**record, "answer": text, "transcript": said and said.to_dict()}, text)


def draw(args: argparse.Namespace) -> None:
    if args.rerank and args.num_images < 2:
        raise ValueError("--rerank chooses among several: give -n 4, say")
    if args.mask is not None and args.init_image is None:
        raise ValueError("--mask says what of --init-image stays: give that too")
    paths = _numbered(args.output, PICTURES, 1 if args.rerank else args.num_images)
    start, mask = (None if name is None else _read_image(name) for name in (args.init_image, args.mask))
    model = _load(args)
    with _writing_bar() as progress:
        pictures = model.draw(
            args.text, args.num_images, rerank=args.rerank, init_image=start, mask=mask, strength=args.strength,
            progress=progress, **_writing(args),
        )  # fmt: skip
    for path, picture in zip(paths, pictures if isinstance(pictures, list) else [pictures], strict=True):
        picture.save(path)
        _print(args, {"text": args.text, "image": str(path), "size": list(picture.size)}, str(path))


def speak(args: argparse.Namespace) -> None:
    (path,) = _numbered(args.output, SOUNDS)
    model = _load(args)
    with _writing_bar() as progress:
        sound = model.speak(args.text, max_seconds=args.max_seconds, progress=progress, **_writing(args))
    import soundfile

    soundfile.write(path, sound.waveform, sound.sample_rate)
    record = {"text": args.text, "audio": str(path), "seconds": round(sound.seconds, 3), "rate": sound.sample_rate}
    _print(args, record, str(path))


def train(args: argparse.Namespace) -> None:
    from mmlm.training import train_from_recipe

    result = train_from_recipe(args.recipe, args.overrides, progress=sys.stderr.isatty())
    _print(args, {**vars(result), "model": str(result.model)}, str(result.model))


def evaluate(args: argparse.Namespace) -> None:
    options = _generation(args)
    from mmlm.data import read_records
    from mmlm.evaluation import evaluate as measure

    records = read_records(args.data)
    report = measure(_load(args), records, limit=args.limit, batch_size=args.batch_size, **options)
    _print(args, report.to_dict(), str(report))


def convert(args: argparse.Namespace) -> None:
    output, parts = Path(args.output), (args.language_model, args.image_encoder)
    if output.exists() and output.is_dir() == (output.suffix == ".pt"):
        raise ValueError(f"{output} is in the way: NAME.pt becomes a file, any other name a folder")
    if Path(args.model).is_file():
        if args.language_model is None:
            raise ValueError(f"{args.model} does not say what language model it is of: give it with --language-model")
        from mmlm.interop import open_flamingo

        model = open_flamingo.load(args.model, *(part for part in parts if part is not None), dtype=_dtype(args))
    elif parts != (None, None):
        raise ValueError("--language-model and --image-encoder are for checkpoint files; other models name their own")
    else:
        model = _load(args)
    if output.suffix == ".pt":
        from mmlm.interop import open_flamingo

        open_flamingo.save(model, output)
    else:
        model.save(output)
    _print(args, {"output": str(output)}, str(output))


def models(args: argparse.Namespace) -> None:
    from mmlm.presets import ASSEMBLED, OPEN_FLAMINGO, PRESETS

    for name, folder in PRESETS.items():
        if not folder.is_dir():
            raise FileNotFoundError(f"the weights of {name!r} are missing from this installation: {folder}")
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        about = _first_paragraph((folder / "MODEL_CARD.md").read_text(encoding="utf-8"))
        record = {"name": name, "megabytes": round(size, 1), "folder": str(folder), "about": about}
        _print(args, record, f"{name}\t{size:.1f} MB\t{about}")
    for name, parts in ASSEMBLED.items():
        about = f"{', '.join(parts.values())}: downloaded once; answers what is said, its adapters are new."
        _print(args, {"name": name, "megabytes": None, "folder": None, "about": about}, f"{name}\t\t{about}")
    for name, parts in OPEN_FLAMINGO.items():
        about = f"{parts['checkpoint']} on {parts['language_model']}: downloaded once, its size shown before."
        _print(args, {"name": name, "megabytes": None, "folder": None, "about": about}, f"{name}\t\t{about}")


# ---- what verbs share


def _with_bar(running: Any, name: str) -> Any:
    """The segments of a running transcription, with a bar of seconds on the terminal."""
    from tqdm import tqdm

    with tqdm(desc=name, unit="s", disable=not sys.stderr.isatty(), bar_format="{l_bar}{bar}| {elapsed}") as bar:
        for segment in running:
            bar.total = running.total
            bar.update(running.seconds - bar.n)
            yield segment
        bar.update(running.seconds - bar.n)


def _numbered(output: str, suffixes: Sequence[str], count: int = 1) -> list[Path]:
    """`out.png`, or `out-1.png` and on where there are several; ValueError where such a file could not be written."""
    path = Path(output)
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{output}: the name must end in one of {', '.join(suffixes)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder")
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{number}") for number in range(1, count + 1)]


def _writing(args: argparse.Namespace) -> dict[str, Any]:
    """Options of drawing and speaking that were given."""
    names = ("steps", "guidance_scale", *SAMPLING, "seed")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


@contextmanager
def _writing_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on the terminal over code tokens, then over the decoder's steps."""
    from tqdm import tqdm

    with tqdm(disable=not sys.stderr.isatty()) as bar:

        def show(what: str, done: int, total: int) -> None:
            bar.set_description(what, refresh=False)
            bar.total, bar.n = total, done
            bar.refresh()

        yield show


def _device(args: argparse.Namespace) -> Any:
    import torch

    try:
        device = torch.device(args.device)
    except RuntimeError as error:
        raise ValueError(f"--device is cpu, cuda or cuda:N, not {args.device!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device here")
    return device


def _dtype(args: argparse.Namespace) -> Any:
    import torch

    return getattr(torch, args.dtype)


def _load(args: argparse.Namespace) -> "MultimodalLM":
    device = _device(args)
    if args.pack is not None and device.type != "cpu":
        raise ValueError(f"--pack is for writing on a CPU, not on {device}: leave it out")
    from mmlm.assembly import load

    model = load(args.model, dtype=_dtype(args), device=device)
    return model if args.pack is None else model.pack(args.pack)


def _read_image(name: str) -> Any:
    from encoders.media import load_image
    from encoders.video import is_video, load_video

    if is_video(name):
        return load_video(Path(name))
    return load_image(sys.stdin.buffer if name == "-" else Path(name))


def _demonstrations(args: argparse.Namespace, model: "MultimodalLM") -> Any:
    """The folder of `--examples`, indexed by picture; None without it."""
    if args.examples is None:
        return None
    from mmlm.rices import Rices

    return Rices(model.encoders["image"], args.examples)


def _generation(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments for `model.generate`, checked before any weights are read."""
    from mmlm.generation import GenerationOptions

    options = {name: getattr(args, name) for name in (*GENERATION, *SAMPLING) if getattr(args, name) is not None}
    if any(name in options for name in SAMPLING):
        options["do_sample"] = True
    GenerationOptions(**options)
    return options


def _print(args: argparse.Namespace, record: dict[str, Any], line: str) -> None:
    print(json.dumps(record, ensure_ascii=False) if args.json else line, flush=True)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _first_paragraph(card: str) -> str:
    """The first paragraph of prose in a Markdown text, after its front matter and headings."""
    if card.startswith("---\n"):
        card = card[4:].partition("\n---\n")[2]
    paragraphs = (_one_line(block) for block in card.split("\n\n"))
    return next((text for text in paragraphs if text and not text.startswith("#")), "")


# ---- the parser


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs; the chosen one is `run` in its namespace."""
    parser = argparse.ArgumentParser(
        prog="mmlm",
        description="Caption pictures, answer questions about them, written or spoken, draw, speak, and train.",
        epilog="`mmlm VERB --help` shows examples. A first try: mmlm caption photo.jpg",
    )
    parser.add_argument("--version", action="version", version=f"mmlm {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    verb = _verb(verbs, caption, "caption pictures", """
  mmlm caption photo.jpg
  mmlm caption *.jpg --json --num-beams 3
  mmlm caption clip.mp4
  cat photo.jpg | mmlm caption -
  mmlm caption photo.jpg --model my-model --examples captioned/ --shots 4""")  # fmt: skip
    verb.add_argument("images", nargs="+", metavar="IMAGE", help="pictures, videos, or - for standard input")
    _add_model_options(verb)
    _add_example_options(verb)
    _add_generation_options(verb)

    verb = _verb(verbs, answer, "answer a question about a picture", """
  mmlm answer photo.jpg "what color is the circle?"
  cat photo.jpg | mmlm answer - "how many shapes are there?" --json""")  # fmt: skip
    verb.add_argument("image", metavar="IMAGE", help="a picture file; - reads it from standard input")
    verb.add_argument("question", metavar="QUESTION")
    _add_model_options(verb)
    _add_example_options(verb)
    _add_generation_options(verb)

    verb = _verb(verbs, generate, "continue text and pictures in any order, written as it comes", """
  mmlm generate --image photo.jpg --text "Output:a picture of"
  mmlm generate --image one.jpg --text "Output:a red circle" --image two.jpg --text "Output:" --num-beams 3
  mmlm generate --image photo.jpg --text "Output:" --temperature 0.8 --seed 1
  mmlm generate --text "Output:there is" --max-new-tokens 20""")  # fmt: skip
    verb.add_argument("--image", action=_AppendPart, metavar="IMAGE", help="a picture at this place of the prompt")
    verb.add_argument("--text", action=_AppendPart, metavar="TEXT", help="text at this place of the prompt")
    verb.set_defaults(parts=())
    _add_model_options(verb)
    _add_generation_options(verb)

    verb = _verb(verbs, transcribe, "write down what is said in recordings", """
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

    verb = _verb(verbs, ask, "answer what is asked in a recording, or about it", """
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

    verb = _verb(verbs, draw, "draw what a text says", """
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

    verb = _verb(verbs, speak, "say a text aloud, into a file", """
  mmlm speak "seven" -o seven.wav --model my-model
  mmlm speak "seven" -o seven.flac --model my-model --seed 2 --temperature 0.7""")  # fmt: skip
    verb.add_argument("text", metavar="TEXT")
    verb.add_argument("-o", "--output", required=True, metavar="FILE", help="a sound file: wav, flac, ogg")
    verb.add_argument("--max-seconds", type=float, default=4.0, metavar="S", help="it ends by then (default: 4)")
    _add_model_options(verb)
    _add_writing_options(verb)

    verb = _verb(verbs, train, "train adapters on pictures paired with text", """
  mmlm train recipe.yaml
  mmlm train recipe.yaml steps=200 learning_rate=1e-3 output=runs/second
  mmlm train recipe.yaml --json                    (prints the folder and the last losses)""")  # fmt: skip
    verb.add_argument("recipe", metavar="RECIPE.yaml")
    verb.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="values in place of the recipe's")
    _add_json_option(verb)

    verb = _verb(verbs, evaluate, "measure a model beside the same model given wrong pictures", """
  mmlm eval nano pairs.jsonl
  mmlm eval my-model photos/ --limit 200 --num-beams 3 --json""", name="eval")  # fmt: skip
    verb.add_argument("model", metavar="MODEL", help="preset, folder or hub id")
    verb.add_argument("data", metavar="DATA", help="JSONL manifest, folder with metadata.jsonl, tars, or COCO JSON")
    verb.add_argument("--limit", type=int, metavar="N", help="measure on the first N records")
    verb.add_argument("--batch-size", type=int, default=32, metavar="N")
    _add_device_option(verb)
    _add_dtype_option(verb)
    _add_pack_option(verb)
    _add_generation_options(verb)

    verb = _verb(verbs, convert, "turn an OpenFlamingo checkpoint into a folder of safetensors, or back", """
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

    verb = _verb(verbs, models, "list the models that come with mmlm", """
  mmlm models
  mmlm models --json""")  # fmt: skip
    _add_json_option(verb)
    return parser


def _verb(
    verbs: Any, run: Callable[[argparse.Namespace], None], purpose: str, examples: str, name: str | None = None
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        name or run.__name__,
        help=purpose,
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        epilog=f"examples:{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    verb.set_defaults(run=run)
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
        choices=("exact", "int8", "int4"),
        help="write faster on a CPU, on a copy of the weights: as they are, or rounded to so many bits",
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


