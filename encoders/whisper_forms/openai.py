"""Checkpoint files as openai-whisper writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import whisper
from whisper.model import ModelDimensions

from encoders.guarded import torch_file
from encoders.sizes import RefusedError
from encoders.whisper_forms.parts import Parts, dimensions, said, said_beside

LAYOUT = 'a file as openai-whisper writes them: torch.save({"dims": …, "model_state_dict": …})'


def read(path: Path) -> Parts:
    """The parts in a checkpoint file; ValueError for another file, and other errors, of many types, for damage."""
    content = torch_file(path)
    if not isinstance(content, dict) or not {"dims", "model_state_dict"} <= content.keys():
        raise ValueError("it holds no dims and no model_state_dict")
    told, state = ModelDimensions(**content["dims"]), content["model_state_dict"]
    if (found := dimensions(state, told.n_audio_head, told.n_text_head)) != told:
        raise RefusedError(f"its dims {vars(told)} are not those of its weights, {vars(found)}")
    return Parts(found, state, **said(content, "suppress_tokens", path))


def content_of(model: whisper.Whisper) -> dict[str, Any]:
    """What such a file holds: openai-whisper reads the first two, and `read` what the model's makers say beside."""
    return {"dims": vars(model.dims), "model_state_dict": model.state_dict(), **said_beside(model)}
