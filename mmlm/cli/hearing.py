"""A Whisper that is ready to write down recordings, as the options of the command line ask for it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mmlm.cli.loading import check_pack, device_of

if TYPE_CHECKING:
    from encoders.media.sound import ReadingOptions
    from encoders.transcription.transcriber import Transcriber


def load_transcriber(args: argparse.Namespace) -> Transcriber:
    """The model, loaded, which refuses what it cannot do."""
    device = device_of(args)
    check_pack(args, device)
    from encoders.transcription.settings import check_settings, spoken_language
    from encoders.transcription.transcriber import TEMPERATURES, Transcriber
    from encoders.whisper import load_whisper
    from mmlm.assembly.presets import part_of_preset

    check_settings(args.prompt, TEMPERATURES, args.beam_size, args.seed)
    transcriber = Transcriber(load_whisper(part_of_preset(args.model, "audio_encoder.pt"), device))
    spoken_language(transcriber.model, args.language, args.task)
    return transcriber


def listening(args: argparse.Namespace, reading: ReadingOptions, transcriber: Transcriber) -> Callable[[Any], Any]:
    """A function from a recording to its running transcription; the model is packed where that was asked for."""
    if args.pack is not None and transcriber.model.device.type == "cpu":
        from mmlm.acceleration.speech import pack_transcriber

        pack_transcriber(transcriber, args.pack)
    names = ("language", "prompt", "task", "seed", "vad", "beam_size", "word_timestamps")
    options = {name: getattr(args, name) for name in names}
    if args.channels == "mix":
        return lambda source: transcriber.stream(source, **options, **reading)
    from encoders.transcription.channels import stream_channels

    return lambda source: stream_channels(transcriber, source, reading, **options)
