"""Putting a model together: from names, from ready-made parts, from a folder, from the hub."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from decoders.base import MediaCodec
from encoders.base import FrozenEncoder
from mmlm.config import FrozenPart, FusionConfig, LoraConfig, ModelConfig, ResamplerConfig, digest
from mmlm.frozen import audio_encoder_of, codec_of, compare, decoder_of, image_encoder_of, language_model_of
from mmlm.language_model import LanguageModel
from mmlm.model import REPLACED, MultimodalLM, layouts_of
from mmlm.presets import ASSEMBLED, OPEN_FLAMINGO, PRESETS
from mmlm.prompt import PromptTemplate


def assemble(
    language_model: str | Path | nn.Module,
    image_encoder: str | Path | FrozenEncoder | None = None,
    *,
    audio_encoder: str | Path | FrozenEncoder | None = None,
    tokenizer: Any = None,
    final_norm: bool = True,
    resampler: ResamplerConfig | None = None,
    audio_resampler: ResamplerConfig | None = None,
    fusion: FusionConfig | None = None,
    template: PromptTemplate | None = None,
    image_codec: str | Path | MediaCodec | None = None,
    audio_codec: str | Path | MediaCodec | None = None,
    image_decoder: str | Path | nn.Module | None = None,
    audio_decoder: str | Path | nn.Module | None = None,
    lora: LoraConfig = LoraConfig(),
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> MultimodalLM:
    """A new model from a causal LM and a CLIP, a Whisper or both, with untrained adapters whose gates are shut.

    With codecs it has rows for their codes, to be trained to draw and to speak.

    `language_model`: a hub id, a folder or a `...ForCausalLM` (then with its `tokenizer`). `image_encoder`: an
    open_clip `NAME/PRETRAINED_TAG`, `NAME/FILE`, a folder, or a `FrozenEncoder`. `audio_encoder`: a model of
    openai-whisper, such as "whisper/tiny", a checkpoint file, or a `FrozenEncoder`. `image_codec`, `audio_codec`: a
    folder written by `mmlm train` or by diffusers or transformers, a hub id, or a `MediaCodec`; `image_decoder`,
    `audio_decoder`: a folder of a diffusion decoder of that codec, or one ready-made. `dtype` is that of the language
    model and the image encoder; all else is float32. The adapters' starting weights draw from `seed`; the global random
    state is left as it was.
    """
    codecs, decoders = _writing_parts({"image": image_codec, "audio": audio_codec},
                                      {"image": image_decoder, "audio": audio_decoder})  # fmt: skip
    eyes = None if image_encoder is None else image_encoder_of(image_encoder, final_norm, dtype)
    ears = None if audio_encoder is None else audio_encoder_of(audio_encoder)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs as well
        host = language_model_of(
            language_model, tokenizer, dtype, audio_encoder is not None, layouts=layouts_of(codecs), lora=lora
        )
        model = MultimodalLM(
            host, eyes, resampler, fusion, template, audio_encoder=ears, audio_resampler=audio_resampler,
            codecs=codecs, decoders=decoders,
        )  # fmt: skip
    return model.to(device)


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
    """A saved model: a preset ("nano"), a folder written by `save`, or a hub id; or one of `mmlm.presets.ASSEMBLED` or
    `OPEN_FLAMINGO`, whose parts are downloaded once.

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
        from mmlm.interop.open_flamingo import load_released

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


@torch.no_grad()
def extended(
    model: MultimodalLM,
    *,
    image_codec: str | Path | MediaCodec | None = None,
    audio_codec: str | Path | MediaCodec | None = None,
    image_decoder: str | Path | nn.Module | None = None,
    audio_decoder: str | Path | nn.Module | None = None,
    lora: LoraConfig | None = None,
    seed: int = 0,
) -> MultimodalLM:
    """A model of the same frozen parts, adapters, codecs and decoders, with these beside them or in their place.

    What was trained stays, LoRA and the rows of codecs that stay or are given again among it; what is new is drawn from
    `seed`, and to be trained. A codec in place of another takes the other's diffusion decoder with it. lora: None for
    what the model has.
    """
    from decoders.checkpoint import codec_fingerprint

    host, old = model.language_model, dict(model.codecs.items())
    given = {"image": image_codec, "audio": audio_codec}
    rendered = {"image": image_decoder, "audio": audio_decoder}
    if not any(part is not None for part in (*given.values(), *rendered.values(), lora)):
        raise ValueError("nothing is given: a codec, a decoder, or lora")
    for modality in given:
        if given[modality] is None and modality in old:
            given[modality] = old[modality]
            if rendered[modality] is None and modality in model.decoders:
                rendered[modality] = model.decoders[modality]
    codecs, decoders = _writing_parts(given, rendered)
    lora = host.lora_config if lora is None else lora
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        writing = LanguageModel(
            host.model, host.tokenizer, host.name, host.vocabulary.tokens, layouts=layouts_of(codecs), lora=lora
        )
        writing.replaced = host.replaced
        encoders = {name: model.encoders[name] if name in model.encoders else None for name in ("image", "audio")}
        made = MultimodalLM(
            writing, encoders["image"], model.resampler_config, model.fusion_config, model.template,
            audio_encoder=encoders["audio"], audio_resampler=model.audio_resampler_config,
            codecs=codecs, decoders=decoders,
        )  # fmt: skip
    made = made.to(model.device)
    earlier = dict(model.added_parameters())
    for name, parameter in made.added_parameters():
        if name.startswith("language_model.codes."):
            continue
        if name in earlier and (not name.startswith("language_model.lora.") or lora == host.lora_config):
            parameter.copy_(earlier[name])
    for modality, codec in codecs.items():
        if modality in old and codec_fingerprint(old[modality]) == codec_fingerprint(codec):
            _copy_codes(host, writing, modality)
    return made


def _copy_codes(source: LanguageModel, target: LanguageModel, modality: str) -> None:
    """Rows of one medium's codes, and of a picture's places, from one language model to another."""
    old, new = (own.vocabulary.spans[modality].begin - own.vocabulary.code_offset for own in (source, target))
    count = source.vocabulary.spans[modality].layout.rows
    for name in ("embedding", "head"):
        getattr(target.codes, name)[new : new + count] = getattr(source.codes, name)[old : old + count]
    if modality == "image":
        target.codes.places.copy_(source.codes.places)


@torch.no_grad()
def load_added(model: MultimodalLM, tensors: dict[str, torch.Tensor]) -> None:
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


def _writing_parts(
    codecs: dict[str, str | Path | MediaCodec | None], decoders: dict[str, str | Path | nn.Module | None]
) -> tuple[dict[str, MediaCodec], dict[str, nn.Module]]:
    """Codecs and their diffusion decoders by modality, loaded where they are names; those that are None left out."""
    made = {modality: codec_of(source) for modality, source in codecs.items() if source is not None}
    rendered = {}
    for modality, source in decoders.items():
        if source is None:
            continue
        if modality not in made:
            raise ValueError(f"an {modality} decoder needs the {modality} codec that it is of")
        rendered[modality] = source if isinstance(source, nn.Module) else decoder_of(source, made[modality])
    return made, rendered


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
    from decoders.checkpoint import codec_fingerprint

    for kind, found in zip(("codec", "decoder"), made, strict=True):
        for modality, module in found.items():
            if parts[kind][modality] is None:
                continue
            compare(f"{modality} {kind}", parts[kind][modality].fingerprint, codec_fingerprint(module))
    return made
