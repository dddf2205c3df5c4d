"""Saving a model: what was added to the frozen parts, and a config that names these."""

import dataclasses
import json
import os
import tempfile
import warnings
from pathlib import Path

import torch

from decoders.codecs.checkpoint import codec_fingerprint
from decoders.files import apply_umask, beside, save_tensors, sync
from encoders.files import at_home
from mmlm.assembly.config import CodecPart, FrozenPart, ImageEncoderPart, ModelConfig, digest
from mmlm.assembly.frozen import tokenizer_fingerprint
from mmlm.assembly.names import path_in, relative_name, with_names
from mmlm.model.language_model import LanguageModel
from mmlm.model.network import MultimodalNetwork

TOKENIZER = "tokenizer"  # the folder of one that is not the language model's own
REPLACED = "language_model.replaced."  # before the names of saved rows that stand in place of the language model's own


def config_of(model: MultimodalNetwork) -> ModelConfig:
    """What rebuilds a model, with fingerprints of its frozen parts."""
    if model.left_out:
        lacking = model.left_out[0].replace("_", " ")
        raise ValueError(f"this model was loaded without its {lacking}: load all of it to save it")
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
        _tokenizer_part(model.language_model),
    )


def _tokenizer_part(host: LanguageModel) -> FrozenPart | None:
    """The tokenizer of a language model by name that was given apart; a ready-made one is given again with its own."""
    own = host.own_tokenizer and host.name is not None
    return FrozenPart(None, tokenizer_fingerprint(host.tokenizer)) if own else None


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


def save(model: MultimodalNetwork, folder: str | Path, *, bundle: bool = False) -> Path:
    """Writes `model.safetensors` and `config.json`: only what was added, and the names of the frozen parts.

    A part in the folder that holds `folder`, or in the one above that, is named by the path from here to there, so that
    both may move together. Equal weights give equal files, byte for byte. A tokenizer that was given apart from its
    language model is written as well.
    bundle: the frozen parts are written into the folder as well, and it loads with nothing else present. ValueError,
    with nothing written, for a part that cannot be taken along.

    Where a checkpoint replaced the language model's embedding, its rows are saved as well. Each file is written whole
    beside its place and then moved there. The weights carry the config's digest, so that files of two saves that were
    both interrupted are not taken for one model.
    """
    folder = Path(at_home(folder))
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"cannot save a model to {folder}: it is a file")
    folder.mkdir(parents=True, exist_ok=True)
    config = with_names(config_of(model), lambda name: relative_name(name, folder))
    return _write(model, config, folder, bundle)


def _write(model: MultimodalNetwork, config: ModelConfig, folder: Path, bundle: bool) -> Path:
    tensors = dict(model.added_parameters())
    tensors |= {f"{REPLACED}{part}": rows for part, rows in model.language_model.replaced_rows().items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with beside(folder) as parts:
        if bundle:
            from mmlm.assembly.bundle import write_parts

            config = write_parts(model, config, parts)
        elif config.tokenizer is not None:
            model.language_model.tokenizer.save_pretrained(parts / TOKENIZER)
            config = dataclasses.replace(config, tokenizer=FrozenPart(f"./{TOKENIZER}", config.tokenizer.fingerprint))
        apply_umask(parts)
        bundled = sorted(os.listdir(parts))
        written = config.to_dict()
        # One entry: safetensors writes several in an order of chance, and equal models have equal files.
        save_tensors(tensors, parts / "model.safetensors", {"config": digest(written)})
        (parts / "config.json").write_text(json.dumps(written, indent=2) + "\n")
        for name in bundled:
            _move(parts / name, folder / name)
        for name in ("model.safetensors", "config.json"):
            sync(parts / name)
            os.replace(parts / name, folder / name)
    sync(folder)
    return folder


def _move(source: Path, target: Path) -> None:
    """Puts a file or folder where another one may be; an old folder goes where what is temporary is removed."""
    if target.is_dir():
        os.replace(target, source.with_name(f".{source.name}.old"))
    os.replace(source, target)


def push_to_hub(
    model: MultimodalNetwork, repo_id: str, private: bool = False, token: str | None = None, *, bundle: bool = False
) -> str:
    """Uploads what `save` writes to the Hugging Face hub; returns the commit's address.

    Warns of parts that lie on this machine alone: others load the model with them given anew, or from a `bundle`.
    """
    from huggingface_hub import HfApi

    api, config = HfApi(token=token), config_of(model)
    parts = (getattr(config, field.name) for field in dataclasses.fields(config))
    names = (part.name for part in parts if isinstance(part, FrozenPart) and part.name is not None)
    here = [name for name in names if path_in(name) is not None]
    if here and not bundle:
        warnings.warn(
            f"{', '.join(here)}: on this machine alone, so others cannot load the model by its name; "
            "push_to_hub(..., bundle=True) takes its parts along",
            stacklevel=2,
        )
    with tempfile.TemporaryDirectory() as folder:
        _write(model, config, Path(folder), bundle)
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder))


@torch.no_grad()
def load_added(model: MultimodalNetwork, tensors: dict[str, torch.Tensor]) -> None:
    """Puts saved tensors into a model's added parameters; `ValueError`, with nothing changed, unless they fit."""
    added = dict(model.added_parameters())
    missing, unknown = sorted(set(added) - set(tensors)), sorted(set(tensors) - set(added))
    wrong = sorted(name for name in set(added) & set(tensors) if added[name].shape != tensors[name].shape)
    if missing or unknown or wrong:
        faults = {"missing": missing, "unknown": unknown, "of another shape": wrong}
        told = [f"{what} {_few(names)}" for what, names in faults.items() if names]
        raise ValueError(f"the weights do not fit the model: {'; '.join(told)}")
    for name, parameter in added.items():
        parameter.copy_(tensors[name])


def _few(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
