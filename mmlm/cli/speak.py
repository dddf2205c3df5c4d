"""Say a text aloud, into a file."""

from __future__ import annotations

import argparse

from mmlm.cli.loading import load_model, output_paths
from mmlm.cli.options import add_media_options, add_model_options, file_path, media_options
from mmlm.cli.output import print_result, progress_bar

EXAMPLES = """\
  mmlm speak "seven" -o seven.wav --model my-model
  mmlm speak "seven" -o seven.flac --model my-model --seed 2 --temperature 0.7"""
SUFFIXES = (".wav", ".flac", ".ogg")


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    verb.add_argument("text", metavar="TEXT")
    verb.add_argument("-o", "--output", required=True, type=file_path, metavar="FILE", help="a wav, flac or ogg file")
    verb.add_argument("--max-seconds", type=float, default=4.0, metavar="S", help="it ends by then (default: 4)")
    add_model_options(verb)
    add_media_options(verb)


def run(args: argparse.Namespace) -> None:
    """A sound, into a file."""
    (path,) = output_paths(args.output, SUFFIXES)
    options = media_options(args)
    if not args.max_seconds > 0:
        raise ValueError(f"--max-seconds must be above 0, not {args.max_seconds}")
    model = load_model(args, "audio")
    import soundfile

    from encoders.media.sound import Audio
    from mmlm.tasks.rows import one_result

    with progress_bar() as progress:
        spoken = model.speak(args.text, max_seconds=args.max_seconds, details=True, progress=progress, **options)
    result = one_result(spoken)
    sound = result.media[0]
    assert isinstance(sound, Audio), "speech is sound"
    with open(path, "wb") as file:  # libsndfile itself would not follow the umask
        soundfile.write(file, sound.waveform, sound.sample_rate, format=path.suffix[1:])
    record = {"prompt": args.text, "audio": str(path), "seconds": round(sound.seconds, 3), "rate": sound.sample_rate}
    print_result(args, record, str(path), result)
