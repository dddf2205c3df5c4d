"""Loading a saved model: from a preset, a folder, the hub."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from decoders.codecs.base import MediaCodec
from encoders.base import FrozenEncoder
from mmlm.assembly.assemble import _writing_parts, assemble
from mmlm.assembly.config import FrozenPart, ModelConfig, digest
from mmlm.assembly.frozen import audio_encoder_of, codec_of, compare, image_encoder_of, language_model_of
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.assembly.presets import ASSEMBLED, OPEN_FLAMINGO, PRESETS
from mmlm.assembly.save import REPLACED, load_added
from mmlm.model.network import layouts_of


def load(
    name: str | Path,
    *,
    language_model: nn.Module | None = None,
    tokenizer: Any = None,
    image_encoder: FrozenEncoder | None = None,
    audio_encoder: FrozenEncoder | None = None,
    image_codec: MediaCodec | None = None,
    audio_codec: MediaCodec | None = None,
    image_decoder: nn.Module | None = None,
    audio_decoder: nn.Module | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> MultimodalLM:
    """A saved model: a preset ("nano"), a folder written by `save`, or a hub id; or one of `presets.ASSEMBLED` or
    `presets.OPEN_FLAMINGO`, whose parts are downloaded once.

    Parts that were ready-made when it was saved are given here again. A frozen part with other weights than those it
    was trained with is a warning with both fingerprints. Errors: no such model, a part that cannot be found, weights
    that do not fit the config.
    """
    if str(name) in ASSEMBLED:
        parts = {**ASSEMBLED[str(name)], "tokenizer": tokenizer}
        given = {"language_model": language_model, "image_encoder": image_encoder, "audio_encoder": audio_encoder}
        given |= {"image_codec": image_codec, "audio_codec": audio_codec}
        given |= {"image_decoder": image_decoder, "audio_decoder": audio_decoder}
        parts |= {part: value for part, value in given.items() if value is not None}
        return assemble(**parts, dtype=dtype, device=device)
    if str(name) in OPEN_FLAMINGO:
        from mmlm.assembly.interop.open_flamingo import load_released

        if audio_encoder is not None:
            raise ValueError(f"{name} has no audio encoder")
        if any(part is not None for part in (image_codec, audio_codec, image_decoder, audio_decoder)):
            raise ValueError(f"{name} has no codecs: give it some with mmlm.assembly.extended")
        return load_released(str(name), language_model, image_encoder, tokenizer=tokenizer, dtype=dtype, device=device)
    folder = _folder(str(name))
    if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(f"{folder} is not a saved model: config.json or model.safetensors is missing")
    try:
        written = json.loads((folder / "config.json").read_text())
        config = ModelConfig.from_dict(written)
        with safe_open(folder / "model.safetensors", "pt") as weights:
            metadata = weights.metadata() or {}
            tensors = {key: weights.get_tensor(key) for key in weights.keys()}
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise ValueError(f"the model in {folder} is damaged: {error}") from error
    if metadata.get("config", digest(written)) != digest(written):
        raise ValueError(f"the weights and the config.json in {folder} are of two different models: save it again")
    named = _given(language_model, config.language_model.name, "language_model")
    rows = {key.removeprefix(REPLACED): tensors.pop(key) for key in list(tensors) if key.startswith(REPLACED)}
    codecs, decoders = _saved_writing_parts(
        config, {"image": image_codec, "audio": audio_codec}, {"image": image_decoder, "audio": audio_decoder}
    )
    with torch.random.fork_rng(devices=[]):  # starting weights are drawn, then replaced
        host = language_model_of(
            named, tokenizer, dtype, config.audio_encoder is not None, rows, layouts_of(codecs), config.lora
        )
    compare("language model", config.language_model.fingerprint, host.fingerprint())
    eyes = ears = None
    if (part := config.image_encoder) is not None:
        eyes = image_encoder_of(_given(image_encoder, part.name, "image_encoder"), part.final_norm, dtype)
        compare("image encoder", part.fingerprint, eyes.fingerprint())
    if (part := config.audio_encoder) is not None:
        ears = audio_encoder_of(_given(audio_encoder, part.name, "audio_encoder"))
        compare("audio encoder", part.fingerprint, ears.fingerprint())
    with torch.random.fork_rng(devices=[]):
        model = MultimodalLM(
            host,
            eyes,
            config.resampler,
            config.fusion,
            config.template,
            audio_encoder=ears,
            audio_resampler=config.audio_resampler,
            codecs=codecs,
            decoders=decoders,
        )
    load_added(model, tensors)
    return model.to(device)


def _folder(name: str) -> Path:
    if name in PRESETS:
        return PRESETS[name]
    if Path(name).exists():
        return Path(name)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        known = ", ".join([*PRESETS, *ASSEMBLED, *OPEN_FLAMINGO])
        raise FileNotFoundError(
            f"no model {name!r}: it is neither a preset ({known}), nor a folder, nor a hub id like user/model"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["config.json", "model.safetensors"]))
    except Exception as error:
        raise FileNotFoundError(f"no folder {name!r}, and it could not be fetched from the hub: {error}") from error


def _given(part: Any, name: str | None, argument: str) -> Any:
    if part is None and name is None:
        raise ValueError(f"this model was saved with a ready-made {argument}: pass {argument}= to load it")
    return part if part is not None else name


def _saved_writing_parts(
    config: ModelConfig, codecs: dict[str, MediaCodec | None], decoders: dict[str, nn.Module | None]
) -> tuple[dict[str, MediaCodec], dict[str, nn.Module]]:
    """The same for a saved model: what is given goes before what the config names."""
    parts: dict[str, dict[str, FrozenPart | None]] = {
        "codec": {"image": config.image_codec, "audio": config.audio_codec},
        "decoder": {"image": config.image_decoder, "audio": config.audio_decoder},
    }
    named: dict[str, dict[str, Any]] = {"codec": {}, "decoder": {}}
    for kind, given in (("codec", codecs), ("decoder", decoders)):
        for modality, part in parts[kind].items():
            if part is not None:
                source = _given(given[modality], part.name, f"{modality}_{kind}")
                named[kind][modality] = codec_of(source, part) if kind == "codec" else source
            elif given[modality] is not None and kind == "decoder":
                named[kind][modality] = given[modality]
            elif given[modality] is not None:
                raise ValueError(f"the model has no {modality} codec: give it one with mmlm.assembly.extended")
    made = _writing_parts(named["codec"], named["decoder"])
    if not made[0]:
        return made
    from decoders.codecs.checkpoint import codec_fingerprint

    for kind, found in zip(("codec", "decoder"), made, strict=True):
        for modality, module in found.items():
            if parts[kind][modality] is None:
                continue
            compare(f"{modality} {kind}", parts[kind][modality].fingerprint, codec_fingerprint(module))
    return made
