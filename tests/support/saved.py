"""Frozen parts in files, as published ones are."""

import json
from pathlib import Path

import torch

from support import families, parts


def write_parts(folder: Path, family: str = "llama") -> Path:
    """A language model, a CLIP and a Whisper in files, as published ones are."""
    families.language_model(family).save_pretrained(folder / "lm")
    families.tokenizer().save_pretrained(folder / "lm")
    clip = parts.image_encoder().model
    (folder / "clip").mkdir()
    config = {
        "model_cfg": {"embed_dim": 16, "vision_cfg": parts.VISION, "text_cfg": parts.TEXT},
        "preprocess_cfg": {"size": 32, "interpolation": "bilinear", "mean": [0.5, 0.4, 0.3]},
    }
    (folder / "clip/open_clip_config.json").write_text(json.dumps(config))
    torch.save(clip.state_dict(), folder / "clip/open_clip_pytorch_model.bin")
    ears = parts.audio_encoder().model
    torch.save({"dims": vars(ears.dims), "model_state_dict": ears.state_dict()}, folder / "ears.pt")
    return folder
