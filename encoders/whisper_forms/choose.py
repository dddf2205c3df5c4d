"""Which form a file, a folder or a hub id has, and the Whisper in it."""

from __future__ import annotations

from pathlib import Path

import whisper

from encoders.model_files import ModelFiles, read_json
from encoders.whisper_forms import ctranslate2, huggingface, openai
from encoders.whisper_forms.others import READ, other_file, other_form
from encoders.whisper_forms.parts import Parts, build

CONFIG = "config.json"


def from_file(path: Path) -> whisper.Whisper:
    """The model in a checkpoint file of openai-whisper; ValueError for any other file, which names its form."""
    try:
        return build(openai.read(path), path)
    except Exception as error:  # torch, pickle and zip raise many types for other files
        why = other_file(path) or f"{error}. It must be {openai.LAYOUT}"
        raise ValueError(f"cannot load a Whisper model from {str(path)!r}: {why}") from error


def from_folder(name: str) -> whisper.Whisper:
    """The model in a folder, or of a hub id, of transformers or CTranslate2.

    FileNotFoundError for a file that is missing, or cannot be fetched; ValueError for all else, with its form.
    """
    files = ModelFiles(name)
    try:
        return build(_read(files), files.need(CONFIG).parent)
    except FileNotFoundError as error:
        held = files.names()
        whole = {*huggingface.WEIGHTS, ctranslate2.WEIGHTS} & {*held}
        if not whole and (form := other_form(held)) is not None:
            raise ValueError(f"cannot load a Whisper model from {name!r}: {form}") from error
        raise
    except Exception as error:  # safetensors, torch and struct raise many types for damaged files
        raise ValueError(f"cannot load a Whisper model from {name!r}: {error}") from error


def _read(files: ModelFiles) -> Parts:
    config = read_json(files.need(CONFIG))
    if "model_type" in config:
        return huggingface.read(files, config)
    if files.find(ctranslate2.WEIGHTS) is not None:
        return ctranslate2.read(files, config)
    raise ValueError(f"its {CONFIG} names no model_type, and it has no {ctranslate2.WEIGHTS}: {READ}")
