"""The command line: `mmlm VERB ...`. Nothing heavy is imported until a verb has checked what it was given."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmlm.cli.parser import build_parser

if TYPE_CHECKING:
    from mmlm.assembly.multimodal_lm import MultimodalLM

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
        VERBS[args.verb](args)
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
    """A caption of each picture, a line each; several pictures at once."""
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
    """The answer to a question about one picture."""
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
    """What follows pictures and text in the order they were given, written as it comes."""
    from mmlm.prompting.parts import Image

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
    """What is said in recordings, on standard output or in openai-whisper's file formats."""
    for name in args.recordings:
        if name != "-" and not Path(name).is_file():
            raise FileNotFoundError(f"{name}: no such file")
    if args.format == "all" and args.output is None:
        raise ValueError("--format all writes several files: give a folder for them with --output")
    from whisper.utils import get_writer

    from encoders.transcription.transcriber import Transcriber
    from encoders.whisper import load_whisper
    from mmlm.assembly.presets import part_of_preset

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
    """The answer to what is asked in a recording, or about it."""
    if args.recording != "-" and not Path(args.recording).is_file():
        raise FileNotFoundError(f"{args.recording}: no such file")
    if args.show_transcript and args.mode == "features":
        raise ValueError("--show-transcript: in mode features nothing is written down; choose transcript or both")
    options = _generation(args)
    image = None if args.image is None else _read_image(args.image)
    from encoders.media.sound import load_audio

    source = sys.stdin.buffer if args.recording == "-" else Path(args.recording)
    sound = load_audio(source, pcm_rate=args.pcm_rate)
    model = _load(args)
    from mmlm.tasks.ask import EXAMPLES

    said = None if args.mode == "features" else model.transcribe(sound, language=args.language)
    if args.show_transcript:
        print(f"transcript: {said.text}", file=sys.stderr if args.json else sys.stdout, flush=True)
    examples = EXAMPLES if args.few_shot else ()
    text = model.ask(sound, args.question, image, mode=args.mode, transcript=said, examples=examples, **options)
    text = _one_line(text)
    record = {"audio": args.recording, "question": args.question, "image": args.image, "mode": args.mode}
    _print(args, {**record, "answer": text, "transcript": said and said.to_dict()}, text)


def draw(args: argparse.Namespace) -> None:
    """Pictures of a text, into files."""
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
    """A text said aloud, into a file."""
    (path,) = _numbered(args.output, SOUNDS)
    model = _load(args)
    with _writing_bar() as progress:
        sound = model.speak(args.text, max_seconds=args.max_seconds, progress=progress, **_writing(args))
    import soundfile

    soundfile.write(path, sound.waveform, sound.sample_rate)
    record = {"text": args.text, "audio": str(path), "seconds": round(sound.seconds, 3), "rate": sound.sample_rate}
    _print(args, record, str(path))


def train(args: argparse.Namespace) -> None:
    """One run of a recipe; the folder of what it trained."""
    from mmlm.training import train_from_recipe

    result = train_from_recipe(args.recipe, args.overrides, progress=sys.stderr.isatty())
    _print(args, {**vars(result), "model": str(result.model)}, str(result.model))


def evaluate(args: argparse.Namespace) -> None:
    """A model on records, beside the same model given wrong pictures."""
    options = _generation(args)
    from mmlm.data import read_records
    from mmlm.evaluation import evaluate as measure

    records = read_records(args.data)
    report = measure(_load(args), records, limit=args.limit, batch_size=args.batch_size, **options)
    _print(args, report.to_dict(), str(report))


def convert(args: argparse.Namespace) -> None:
    """An OpenFlamingo checkpoint as a folder of safetensors, or back."""
    output, parts = Path(args.output), (args.language_model, args.image_encoder)
    if output.exists() and output.is_dir() == (output.suffix == ".pt"):
        raise ValueError(f"{output} is in the way: NAME.pt becomes a file, any other name a folder")
    if Path(args.model).is_file():
        if args.language_model is None:
            raise ValueError(f"{args.model} does not say what language model it is of: give it with --language-model")
        from mmlm.assembly.interop import open_flamingo

        model = open_flamingo.load(args.model, *(part for part in parts if part is not None), dtype=_dtype(args))
    elif parts != (None, None):
        raise ValueError("--language-model and --image-encoder are for checkpoint files; other models name their own")
    else:
        model = _load(args)
    if output.suffix == ".pt":
        from mmlm.assembly.interop import open_flamingo

        open_flamingo.save(model, output)
    else:
        model.save(output)
    _print(args, {"output": str(output)}, str(output))


def models(args: argparse.Namespace) -> None:
    """What comes with mmlm, or is downloaded by name, with sizes."""
    from mmlm.assembly.presets import ASSEMBLED, OPEN_FLAMINGO, PRESETS

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


VERBS = {
    "caption": caption,
    "answer": answer,
    "generate": generate,
    "transcribe": transcribe,
    "ask": ask,
    "draw": draw,
    "speak": speak,
    "train": train,
    "eval": evaluate,
    "convert": convert,
    "models": models,
}


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
    if args.pack not in (None, "exact") and device.type != "cpu":
        raise ValueError(f"--pack {args.pack} is for writing on a CPU, not on {device}: take --pack exact")
    from mmlm.assembly.load import load

    model = load(args.model, dtype=_dtype(args), device=device)
    return model if args.pack is None else model.pack(args.pack)


def _read_image(name: str) -> Any:
    from encoders.media.image import load_image
    from encoders.media.video import is_video, load_video

    if is_video(name):
        return load_video(Path(name))
    return load_image(sys.stdin.buffer if name == "-" else Path(name))


def _demonstrations(args: argparse.Namespace, model: "MultimodalLM") -> Any:
    """The folder of `--examples`, indexed by picture; None without it."""
    if args.examples is None:
        return None
    from mmlm.retrieval.rices import Rices

    return Rices(model.encoders["image"], args.examples)


def _generation(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments for `model.generate`, checked before any weights are read."""
    from mmlm.generation.options import GenerationOptions

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
