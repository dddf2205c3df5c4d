"""Loading a saved model: from a preset, a folder, or the hub."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from encoders.base import FrozenEncoder
from encoders.files import at_home
from encoders.hub import hub_fault, split_revision
from encoders.sizes import believed, check_counts
from mmlm.assembly.arguments import check_arguments, check_name
from mmlm.assembly.assemble import assemble
from mmlm.assembly.codecs import Codecs, load_saved_codecs
from mmlm.assembly.config import FrozenPart, ModelConfig, digest
from mmlm.assembly.forms.named import named_tokenizer
from mmlm.assembly.frozen import (
    audio_encoder_of,
    check_fingerprint,
    checked_tokenizer,
    given_or_named,
    image_encoder_of,
    language_model_of,
    tokenizer_fingerprint,
)
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.assembly.names import absolute_name, check_elsewhere, path_in, with_names
from mmlm.assembly.needed import ENCODERS, needed_of, unneeded, without
from mmlm.assembly.presets import ASSEMBLED, OPEN_FLAMINGO, PRESETS
from mmlm.assembly.save import REPLACED, load_added
from mmlm.assembly.sharing import shared_parts
from mmlm.model.draws import OwnDraws
from mmlm.model.layouts import layouts_of
from mmlm.model.network import MultimodalNetwork

FILES = ("config.json", "model.safetensors")
AS_PART = "(as a part of a model, give language_model=)"


def load(
    name: str | Path,
    *,
    language_model: str | Path | nn.Module | None = None,
    tokenizer: Any = None,
    image_encoder: str | Path | FrozenEncoder | None = None,
    audio_encoder: str | Path | FrozenEncoder | None = None,
    codecs: Codecs | None = Codecs(),
    encoders: Collection[str] | None = None,
    beside: Collection[MultimodalNetwork] = (),
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> MultimodalLM:
    """A saved model: a preset ("nano"), a folder that `save` wrote, or a hub id; or a model of `mmlm models`.

    Parts that were saved ready-made are given here again; other parts, or their new places, may be given in place of
    those it names, as `assemble` takes them. Other weights than the adapters were trained with are a warning.
    codecs: in place of its own. None: the model without its codecs, which are neither fetched nor loaded; it answers in
        text alone, and cannot be saved.
    encoders: those that are needed, of "image" and "audio": the model's others are neither fetched nor loaded, and what
        is loaded cannot be saved. None, or none that the model has: all of them.
    beside: models in memory. A language model or an encoder of theirs that this model has too, loaded from the same
        place with the same fingerprint and type, is not loaded again: its tensors are shared. Answers stay the same.
    dtype: of a language model and an image encoder that are named; ready-made parts stay as they are.
    Errors: FileNotFoundError for a model or part that cannot be found; ValueError for a damaged model, and for weights
    that do not fit the config, or a device that is not there; TypeError for values of another kind.
    """
    check_name(name, "a model")
    check_arguments(dtype, device, codecs=codecs)
    given = {"language_model": language_model, "image_encoder": image_encoder, "audio_encoder": audio_encoder}
    if str(name) in {**ASSEMBLED, **OPEN_FLAMINGO}:
        return _published(str(name), given, tokenizer, codecs, encoders, dtype, device)
    name = at_home(name)
    folder = model_folder(name)
    config, tensors = read_saved(folder)
    rows = {key.removeprefix(REPLACED): tensors.pop(key) for key in list(tensors) if key.startswith(REPLACED)}
    hears = config.audio_encoder is not None
    left_out, codecs = unneeded(config, encoders, codecs is None), codecs or Codecs()
    config, tensors, given = without(left_out, config, tensors, given)
    fetch_parts(name, folder, config, given | codecs.by_field() | {"tokenizer": tokenizer})
    sources = sources_of(config, given)
    tokenizer = _tokenizer(config.tokenizer, tokenizer)
    _check_rank(config, tensors)
    shared: dict[str, Any] = shared_parts(config, sources, beside, dtype)
    bare = None if rows else shared.pop("language_model", None)  # rows are written into the embedding
    with OwnDraws(0):  # initial weights are drawn, then replaced
        loaded = load_saved_codecs(config, codecs)
        host = language_model_of(
            sources["language_model"], tokenizer, dtype, hears, rows, layouts_of(loaded.codecs), config.lora, bare
        )
        check_fingerprint("language model", config.language_model, host.fingerprint())
        images, audio = _encoders(config, sources | shared, dtype)
        with believed(folder / "model.safetensors"):
            model = MultimodalLM(
                host, images, config.resampler, config.fusion, config.template, audio_encoder=audio,
                audio_resampler=config.audio_resampler, codecs=loaded.codecs, decoders=loaded.decoders,
                media_dim=_media_dim(tensors), left_out=left_out,
            )  # fmt: skip
    load_added(model, tensors)
    return model.to(device)


def _published(
    name: str, given: dict[str, Any], tokenizer: Any, codecs: Codecs | None, encoders: Collection[str] | None,
    dtype: torch.dtype, device: str | torch.device,
) -> MultimodalLM:  # fmt: skip
    """A model of `mmlm models` whose parts are published, with what is given in their place."""
    if name in OPEN_FLAMINGO:
        from mmlm.assembly.interop.open_flamingo import load_released

        if given["audio_encoder"] is not None or codecs:
            raise ValueError(f"{name} has no audio encoder and no codecs: add codecs with mmlm.assembly.extended")
        return load_released(
            name, given["language_model"], given["image_encoder"], tokenizer=tokenizer, dtype=dtype, device=device
        )
    parts = {part: source or getattr(ASSEMBLED[name], part) for part, source in given.items()}
    kept = needed_of(ENCODERS, encoders)
    return assemble(
        parts["language_model"], parts["image_encoder"] if "image" in kept else None,
        audio_encoder=parts["audio_encoder"] if "audio" in kept else None, tokenizer=tokenizer,
        codecs=codecs or Codecs(), dtype=dtype, device=device,
    )  # fmt: skip


def _tokenizer(saved: FrozenPart | None, given: Any) -> Any:
    """The tokenizer that is given, or that was saved; None where it is the language model's own."""
    if saved is None:
        return given
    if given is None and saved.name is not None and not Path(saved.name).exists():
        raise FileNotFoundError(f"{saved.name}, which was saved with the model, is not there: pass tokenizer=")
    found = (
        named_tokenizer(given_or_named(None, saved.name, "tokenizer")) if given is None else checked_tokenizer(given)
    )
    check_fingerprint("tokenizer", saved, tokenizer_fingerprint(found))
    return found


def _media_dim(tensors: dict[str, Tensor]) -> int | None:
    """The width of the latents, by the norm that gives them; None for weights that are not of such a model."""
    norms = (tensors.get(f"resamplers.{name}.norm.weight") for name in ENCODERS)
    return next((len(tensor) for tensor in norms if tensor is not None and tensor.ndim == 1), None)


def _encoders(
    config: ModelConfig, sources: dict[str, Any], dtype: torch.dtype
) -> tuple[FrozenEncoder | None, FrozenEncoder | None]:
    """The image encoder and the audio encoder that a model has, with warnings for other weights."""
    images = audio = None
    if (part := config.image_encoder) is not None:
        images = image_encoder_of(sources["image_encoder"], part.final_norm, dtype)
        check_fingerprint("image encoder", part, images.fingerprint())
    if (part := config.audio_encoder) is not None:
        audio = audio_encoder_of(sources["audio_encoder"])
        check_fingerprint("audio encoder", part, audio.fingerprint())
    return images, audio


def sources_of(config: ModelConfig, given: dict[str, Any]) -> dict[str, Any]:
    """What each frozen part is loaded from: what was given, or what the config names. No weights are read yet."""
    for name, part in given.items():
        if part is not None and getattr(config, name) is None:
            raise ValueError(f"the model has no {name.replace('_', ' ')}: leave it out, or assemble one with it")
    saved = {name: getattr(config, name) for name in given}
    return {name: part and given_or_named(given[name], part.name, name) for name, part in saved.items()}


def fetch_parts(name: str, folder: Path, config: ModelConfig, given: dict[str, Any]) -> None:
    """Fetches the parts of a model of the hub that lie beside it, and says on standard error which lie elsewhere.

    given: parts by their fields; those that are None are the model's own. ValueError for one that is named by a path,
    FileNotFoundError for one that cannot be fetched.
    """
    if name in PRESETS or Path(name).exists():
        return
    elsewhere = check_elsewhere(name, folder, config, [part for part, source in given.items() if source is not None])
    if elsewhere:
        print(f"{name} loads its {', its '.join(elsewhere)}", file=sys.stderr, flush=True)
    own = {field: part.name for field, part in vars(config).items() if isinstance(part, FrozenPart)}
    if beside := [
        place for field, part in own.items() if given.get(field) is None and (place := _beside(part, folder))
    ]:
        _fetched(name, beside)


def _beside(part: str | None, folder: Path) -> str | None:
    """Where in a model's own folder a part lies; None for one that lies elsewhere, or was ready-made."""
    path, home = part and path_in(part), os.path.realpath(folder)
    return os.path.relpath(path, home) if path and Path(path).is_relative_to(home) else None


def _check_rank(config: ModelConfig, tensors: dict[str, Tensor]) -> None:
    """ValueError for adapters of a higher rank than the saved ones have, before they are built."""
    ranks = [
        len(tensor) for key, tensor in tensors.items() if ".lora." in key and key.endswith(".down") and tensor.ndim
    ]
    has_lora = config.has_codecs or config.lora.reads
    if has_lora and config.lora.rank > max(ranks, default=0):
        raise ValueError(
            f"the weights do not fit the model: the config has LoRA of rank {config.lora.rank}, and the weights "
            f"{f'of rank {max(ranks)}' if ranks else 'none'}"
        )


def read_saved(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The config and the tensors of a saved model, checked to belong together."""
    if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(f"{folder} is not a saved model: config.json or model.safetensors is missing")
    written, config = _written(folder)
    try:
        with safe_open(folder / "model.safetensors", "pt") as weights:
            metadata = weights.metadata() or {}
            tensors = {key: weights.get_tensor(key) for key in weights.keys()}
    except SafetensorError as error:
        raise ValueError(f"the model in {folder} is damaged: {error}") from error
    if metadata.get("config", digest(written)) != digest(written):
        raise ValueError(
            f"the weights and the config.json in {folder} are of two different models, or the config was changed by "
            "hand: save it again. Parts that lie elsewhere now are given by language_model=, image_encoder=, …"
        )
    return with_names(config, lambda name: absolute_name(name, folder)), tensors


def read_config(folder: Path) -> ModelConfig:
    """The config of a saved model, without its weights; paths of its parts are those from here."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is not a saved model: config.json is missing")
    return with_names(_written(folder)[1], lambda name: absolute_name(name, folder))


def _written(folder: Path) -> tuple[Any, ModelConfig]:
    """What a config.json holds, as it is written and read."""
    try:
        written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if isinstance(written, dict) and isinstance(kind := written.get("model_type"), str):
            raise ValueError(f"{folder} is not a saved model but a {kind} of transformers {AS_PART}")
        config = ModelConfig.from_dict(written)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"the model in {folder} is damaged: {error}") from error
    check_counts(written, folder)
    return written, config


def check_model(name: str) -> None:
    """Raises what `load` would for a name that stands for no model, before frozen parts are looked for."""
    if name not in {**ASSEMBLED, **OPEN_FLAMINGO}:
        read_saved(model_folder(name))


def model_folder(name: str, files: Sequence[str] = FILES) -> Path:
    """The folder of a preset, a path or a hub id, of which `files` are fetched; FileNotFoundError where there is none.

    Frozen parts beside them are left to `fetch_parts`.
    """
    name = at_home(name)
    if name in PRESETS:
        return PRESETS[name]
    if Path(name).is_file():
        raise FileNotFoundError(f"{name} is not a saved model but a file {AS_PART}")
    if Path(name).exists():
        return Path(name)
    if split_revision(name)[0].count("/") != 1 or name.startswith((".", "/", "~")):
        known = ", ".join([*PRESETS, *ASSEMBLED, *OPEN_FLAMINGO])
        raise FileNotFoundError(
            f"no model {name!r}: it is neither a preset ({known}), nor a folder, nor a hub id like user/model"
        )
    return _fetched(name, files)


def _fetched(name: str, places: Sequence[str]) -> Path:
    """The folder of a hub id with these files and folders, each fetched once."""
    from huggingface_hub import snapshot_download

    repository, revision = split_revision(name)
    given: dict[str, Any] = {} if revision is None else {"revision": revision}
    patterns = [place + end for place in places for end in (("",) if place in FILES else ("", "/*"))]
    try:
        folder = Path(snapshot_download(repository, allow_patterns=patterns, **given))
    except Exception as error:
        fault = hub_fault(name, error)
        words = fault or f"no folder {name!r}, and it could not be fetched from the hub: {' '.join(str(error).split())}"
        raise FileNotFoundError(words) from error
    if lacking := [place for place in places if not (folder / place).exists()]:
        raise FileNotFoundError(
            f"{name!r} lacks {', '.join(lacking)}: it is no model of mmlm, or its download to {folder} was cut off "
            "(connect to the network and try again; with HF_HUB_OFFLINE set nothing is fetched)"
        )
    return folder
