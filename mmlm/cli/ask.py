"""Answer what is asked in a recording, or about it."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from mmlm.cli.loading import check_files, load_model, read_image, source_of
from mmlm.cli.options import add_generation_options, add_model_options, generation_options
from mmlm.cli.output import one_line, print_result

EXAMPLES = """\
  mmlm ask question.wav
  mmlm ask question.wav --image photo.jpg --show-transcript
  mmlm ask order.wav "Which drink does the speaker order?" --mode features
  arecord -f S16_LE -r 16000 -t raw -d 5 | mmlm ask - --pcm-rate 16000 --json"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
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
    add_model_options(verb)
    add_generation_options(verb)


def run(args: argparse.Namespace) -> None:
    """The answer, and what was said before it where that was asked for."""
    check_files([args.recording])
    if args.show_transcript and args.mode == "features":
        raise ValueError("--show-transcript: in mode features nothing is written down; choose transcript or both")
    options = generation_options(args)
    image = None if args.image is None else read_image(args.image)
    from encoders.media.sound import load_audio

    sound = load_audio(source_of(args.recording), pcm_rate=args.pcm_rate)
    model = load_model(args)
    from mmlm.tasks.ask import EXAMPLES as FEW_SHOT
    from mmlm.tasks.rows import one_result

    said: Any = None if args.mode == "features" else model.transcribe(sound, language=args.language)
    if args.show_transcript:
        print(f"transcript: {said.text}", file=sys.stderr if args.json else sys.stdout, flush=True)
    answered = model.ask(
        sound, args.question, image, mode=args.mode, transcript=said, examples=FEW_SHOT if args.few_shot else (),
        details=True, **options,
    )  # fmt: skip
    result = one_result(answered)
    text = one_line(result.answer)
    record = {"audio": args.recording, "question": args.question, "image": args.image, "mode": args.mode}
    print_result(args, {**record, "answer": text, "transcript": said and said.to_dict()}, text, result)
