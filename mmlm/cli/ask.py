"""Answer what is asked in a recording, or about it."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import Any

from mmlm.cli.batch import Batch
from mmlm.cli.first_contact import Note
from mmlm.cli.inputs import Input, inputs_of, labelled
from mmlm.cli.loading import check_index, check_sound, load_model, read_image
from mmlm.cli.lookup import add_lookup_options, check_lookup, opened_lookup, print_sources
from mmlm.cli.options import (
    SOUND_LIMITS,
    add_batch_options,
    add_generation_options,
    add_hearing_options,
    add_model_options,
    add_reading_options,
    file_path,
    generation_options,
    reading_options,
)
from mmlm.cli.output import one_line, print_result, tell_cut
from mmlm.cli.thoughts import add_thinking_options

EXAMPLES = """\
  mmlm ask question.wav
  mmlm ask question.wav --image photo.jpg --show-transcript
  mmlm ask order.wav "Which drink does the speaker order?" --mode features
  mmlm ask question.wav --index notes.index        (made by mmlm index add)
  mmlm ask "orders/*.wav" "Which drink?" --json    (a quoted pattern or a folder: each of its recordings)
  arecord -f S16_LE -r 16000 -t raw -d 5 | mmlm ask - --pcm-rate 16000 --json"""


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verb.add_argument(
        "recording", nargs="?", metavar="AUDIO",
        help="a sound or video file, folder, pattern, or - for standard input; left out with --data",
    )  # fmt: skip
    verb.add_argument("question", nargs="?", metavar="QUESTION", help="about the recording; else its own is answered")
    verb.add_argument(
        "--data", type=file_path, metavar="DATA", help="tars or manifest: its recordings, without their texts"
    )
    verb.add_argument("--image", type=file_path, metavar="IMAGE", help="the picture that the question is about")
    add_hearing_options(verb)
    verb.add_argument("--show-transcript", action="store_true", help="print what was said before the answer")
    verb.add_argument("--few-shot", action="store_true", help="for a language model that only continues text")
    add_lookup_options(verb)
    add_thinking_options(verb)
    add_batch_options(verb)
    add_model_options(verb)
    add_reading_options(verb, *SOUND_LIMITS, "max_pixels")
    add_generation_options(verb)


def run(args: argparse.Namespace) -> int:
    """The answer, and what was said before it where that was asked for."""
    given = [value for value in (args.recording, args.question) if value is not None]
    names = given[:1] if args.data is None else []
    if len(given) > len(names) + 1 or not (names or args.data):
        raise ValueError("give one AUDIO or --data, and one QUESTION at most")
    question = given[len(names)] if len(given) > len(names) else None
    if question is not None and os.path.isfile(question):
        raise ValueError(f"the question {question!r} is a file: name recordings by a quoted pattern or a folder")
    if args.show_transcript and args.mode == "features":
        raise ValueError("--show-transcript: in mode features nothing is written down; choose transcript or both")
    check_lookup(args)
    if args.index is not None:
        check_index(args)
        if args.mode == "features" and question is None:
            raise ValueError("an index is asked in words: give a QUESTION, or choose --mode transcript or both")
    batch = Batch(args)
    inputs = inputs_of(args, batch, names, "audio", args.data)
    label = labelled(names, inputs)
    options, reading = generation_options(args), reading_options(args, *SOUND_LIMITS)
    image = None if args.image is None else read_image(args.image, args)
    inputs = [one for one in inputs if batch.attempt(one.name, lambda one=one: check_sound(one, reading))]
    model, lookup, note = None, None, Note(args)
    with contextlib.ExitStack() as stack:
        for one in inputs:
            sound = batch.attempt(one.name, lambda one=one: read_sound(one, reading))
            if sound is None:
                continue
            if model is None:
                needed = () if args.index else ("audio", *(("image",) if image is not None else ()))
                model = load_model(args, *needed, codecs=False)
                lookup = opened_lookup(args, model, stack)

            def asked(one: Input = one, sound: Any = sound, model: Any = model, lookup: Any = lookup) -> bool:
                answer(args, model, one, sound, question, image, lookup, options, label, note)
                return True

            if batch.attempt(one.name, asked):
                batch.done += 1
    return batch.code()


def read_sound(one: Input, reading: dict[str, Any]) -> Any:
    """A whole recording in memory."""
    from encoders.media.sound import load_audio

    return load_audio(one.source(), **reading)


def answer(
    args: argparse.Namespace, model: Any, one: Input, sound: Any, question: str | None, image: Any,
    lookup: Any, options: dict[str, Any], label: bool, note: Note,
) -> None:  # fmt: skip
    """Prints the answer about one recording."""
    from mmlm.tasks.ask import EXAMPLES as FEW_SHOT
    from mmlm.tasks.rows import answers_of, one_result
    from mmlm.tasks.thinking import THOUGHTS

    said: Any = None if args.mode == "features" else model.transcribe(sound, language=args.language)
    before = f"{one.name}\t" if label else ""
    if args.show_transcript:
        print(f"{before}transcript: {said.text}", file=sys.stderr if args.json else sys.stdout, flush=True)
    shown = FEW_SHOT if args.thinking is None else THOUGHTS
    answered = model.ask(
        sound, question, image, mode=args.mode, transcript=said, examples=shown if args.few_shot else (),
        index=lookup, votes=args.votes, details=True, **options,
    )  # fmt: skip
    result = one_result(answered)
    if said is not None:
        note.of_speech(said)
    if image is not None:
        note.of_picture(image)
    text = one_line(str(answers_of([result], False, False)))
    record = {"audio": one.name, "question": question, "image": args.image, "mode": args.mode}
    print_result(args, {**record, "answer": text, "transcript": said and said.to_dict()}, before + text, result)
    print_sources(args, result)
    tell_cut(args, result, one.name if label else "")
