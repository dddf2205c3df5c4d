"""Saving a model: what was added to the frozen parts, and a config that names these."""

import json
import os
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from decoders.codecs.checkpoint import codec_fingerprint
from mmlm.assembly.config import CodecPart, FrozenPart, ImageEncoderPart, ModelConfig, digest
from mmlm.model.network import MultimodalNetwork

REPLACED = "language_model.replaced."  # before the names of saved rows that stand in place of the language model's own


def config_of(model: MultimodalNetwork) -> ModelConfig:
    """What rebuilds a model, with fingerprints of its frozen parts."""
    encoders = dict(model.encoders.items())
    image, audio = encoders.get("image"), encoders.get("audio")
    return ModelConfig(
        FrozenPart(model.language_model.name, model.language_model.fingerprint()),
        image and ImageEncoderPart(image.name, image.fingerprint(), getattr(image, "final_norm", True)),
        model.resampler_config,
        model.fusion_config,
        model.template,
        audio and FrozenPart(audio.name, audio.fingerprint()),
        model.audio_resampler_config,
        _codec_part(model, "image"),
        _decoder_part(model, "image"),
        _codec_part(model, "audio"),
        _decoder_part(model, "audio"),
        model.language_model.lora_config,
    )


def _codec_part(model: MultimodalNetwork, modality: str) -> CodecPart | None:
    if modality not in model.codecs:
        return None
    codec = model.codecs[modality]
    name, fingerprint = getattr(codec, "name", None), codec_fingerprint(codec)
    num_codebooks = codec.num_codebooks if modality == "audio" else None
    return CodecPart(name, fingerprint, getattr(codec, "subfolder", ""), codec.size, num_codebooks)


def _decoder_part(model: MultimodalNetwork, modality: str) -> FrozenPart | None:
    if modality not in model.decoders:
        return None
    decoder = model.decoders[modality]
    return FrozenPart(getattr(decoder, "name", None), codec_fingerprint(decoder))


def save(model: MultimodalNetwork, folder: str | Path) -> Path:
    """Writes `model.safetensors` and `config.json`: only what was added, and the names of the frozen parts.

    Where a checkpoint replaced the language model's embedding, its rows are saved as well. Each file is written whole
    beside its place and then moved there. The weights carry the config's digest, so that files of two saves that were
    both interrupted are not taken for one model.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"cannot save a model to {folder}: it is a file")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = dict(model.added_parameters())
    tensors |= {f"{REPLACED}{part}": rows for part, rows in model.language_model.replaced_rows().items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    config = config_of(model).to_dict()
    text = json.dumps(config, indent=2) + "\n"
    metadata = {"format": "pt", "config": digest(config)}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as parts:
        save_file(tensors, Path(parts, "model.safetensors"), metadata=metadata)
        Path(parts, "model.safetensors").chmod(0o644)  # safetensors writes for its owner alone
        Path(parts, "config.json").write_text(text)
        for name in ("model.safetensors", "config.json"):
            with open(Path(parts, name), "rb") as file:
                os.fsync(file.fileno())
            os.replace(Path(parts, name), folder / name)
    return folder


def push_to_hub(model: MultimodalNetwork, repo_id: str, private: bool = False, token: str | None = None) -> str:
    """Uploads what `save` writes to the Hugging Face hub; returns the commit's address."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save(model, folder)
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder))


@torch.no_grad()
def load_added(model: MultimodalNetwork, tensors: dict[str, torch.Tensor]) -> None:
    """Puts saved tensors into a model's added parameters; `ValueError`, with nothing changed, unless they fit."""
    added = dict(model.added_parameters())
    missing, unknown = sorted(set(added) - set(tensors)), sorted(set(tensors) - set(added))
    wrong = sorted(name for name in set(added) & set(tensors) if added[name].shape != tensors[name].shape)
    if missing or unknown or wrong:
        raise ValueError(
            f"the weights do not fit the model: missing {missing}, unknown {unknown}, of another shape {wrong}"
        )
    for name, parameter in added.items():
        parameter.copy_(tensors[name])
