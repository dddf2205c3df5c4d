"""The codecs of a model and their diffusion decoders: one value, from what users name to what is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from decoders.codecs.base import MediaCodec
from encoders.model_files import read_settings
from mmlm.assembly.config import CodecPart, FrozenPart, ModelConfig
from mmlm.assembly.frozen import check_fingerprint, given_or_named, lasting_name
from mmlm.assembly.presets import preset_path
from mmlm.model.network import MultimodalNetwork

CodecSource = str | Path | MediaCodec
DecoderSource = str | Path | nn.Module
MODALITIES: tuple[Literal["image", "audio"], ...] = ("image", "audio")


@dataclass(frozen=True)
class Codecs:
    """What turns the codes that a model writes into pictures and sound; each is None for none.

    image, audio: a folder that `mmlm train` wrote, a folder or hub id of a codec of diffusers or transformers, or a
        `MediaCodec`.
    image_decoder, audio_decoder: a folder of a diffusion decoder of that codec, or one ready-made.
    """

    image: CodecSource | None = None
    audio: CodecSource | None = None
    image_decoder: DecoderSource | None = None
    audio_decoder: DecoderSource | None = None

    def __post_init__(self) -> None:
        for name, part in vars(self).items():
            if part is not None and not isinstance(part, str | os.PathLike | nn.Module):
                raise TypeError(f"Codecs.{name} is a name, a path or ready-made, not {type(part).__name__}")

    def __bool__(self) -> bool:
        return any(part is not None for part in (self.image, self.audio, self.image_decoder, self.audio_decoder))

    def by_field(self) -> dict[str, CodecSource | DecoderSource | None]:
        """What was given for each codec and decoder, by the fields of `ModelConfig`."""
        codecs = {f"{modality}_codec": self.codec(modality) for modality in MODALITIES}
        return codecs | {f"{modality}_decoder": self.decoder(modality) for modality in MODALITIES}

    def codec(self, modality: str) -> CodecSource | None:
        """The codec of "image" or "audio"."""
        return self.image if modality == "image" else self.audio

    def decoder(self, modality: str) -> DecoderSource | None:
        """The diffusion decoder of "image" or "audio"."""
        return self.image_decoder if modality == "image" else self.audio_decoder

    def beside(self, model: MultimodalNetwork) -> Codecs:
        """These with those of a model in the places that are empty.

        A codec in place of another one leaves out the other's diffusion decoder.
        """
        found = self
        for modality in MODALITIES:
            if found.codec(modality) is None and modality in model.codecs:
                found = replace(found, **{modality: model.codecs[modality]})
                if found.decoder(modality) is None and modality in model.decoders:
                    found = replace(found, **{f"{modality}_decoder": model.decoders[modality]})
        return found


@dataclass(frozen=True)
class LoadedCodecs:
    """Codecs and their diffusion decoders by modality."""

    codecs: dict[str, MediaCodec] = field(default_factory=dict)
    decoders: dict[str, nn.Module] = field(default_factory=dict)


def load_codecs(sources: Codecs, parts: dict[str, CodecPart | None] | None = None) -> LoadedCodecs:
    """Loads what is named; `parts`: how the codecs of a saved model were loaded when it was saved.

    ValueError for a decoder without its codec.
    """
    found = LoadedCodecs()
    for modality in MODALITIES:
        source, decoder = sources.codec(modality), sources.decoder(modality)
        if source is not None:
            found.codecs[modality] = load_one_codec(source, None if parts is None else parts[modality])
        if decoder is None:
            continue
        if modality not in found.codecs:
            raise ValueError(f"an {modality} decoder needs the {modality} codec that it is of")
        codec = found.codecs[modality]
        found.decoders[modality] = decoder if isinstance(decoder, nn.Module) else load_one_decoder(decoder, codec)
    return found


def load_saved_codecs(config: ModelConfig, given: Codecs) -> LoadedCodecs:
    """The codecs of a saved model; what is given takes the place of what the config names.

    Warns where one has other weights than when the model was saved. ValueError for a codec that the model has no rows
    for.
    """
    codec_parts: dict[str, CodecPart | None] = {"image": config.image_codec, "audio": config.audio_codec}
    decoder_parts: dict[str, FrozenPart | None] = {"image": config.image_decoder, "audio": config.audio_decoder}
    sources: dict[str, Any] = {}
    for modality in MODALITIES:
        if (part := codec_parts[modality]) is not None:
            sources[modality] = given_or_named(given.codec(modality), part.name, f"{modality}_codec", "codecs")
        elif given.codec(modality) is not None:
            raise ValueError(f"the model has no {modality} codec: give it one with mmlm.assembly.extended")
        sources[f"{modality}_decoder"] = given.decoder(modality)
        if (own := decoder_parts[modality]) is not None:
            sources[f"{modality}_decoder"] = given_or_named(
                given.decoder(modality), own.name, f"{modality}_decoder", "codecs"
            )
    found = load_codecs(Codecs(**sources), codec_parts)
    if found.codecs:
        from decoders.codecs.checkpoint import codec_fingerprint

        for modality, codec in found.codecs.items():
            check_fingerprint(f"{modality} codec", codec_parts[modality], codec_fingerprint(codec))
        for modality, decoder in found.decoders.items():
            check_fingerprint(f"{modality} decoder", decoder_parts[modality], codec_fingerprint(decoder))
    return found


def load_one_codec(source: CodecSource, part: CodecPart | None = None) -> MediaCodec:
    """A codec by its name, or the ready-made one; `part`: how it was loaded when a model was saved."""
    if isinstance(source, MediaCodec):
        return source
    from decoders.codecs.checkpoint import load_codec  # the quantizers take a second to import

    path = Path(preset_path(source))
    if path.is_dir() and "kind" in (read_settings(str(path), "config.json") or {}):
        codec = load_codec(path)
        codec.name = lasting_name(source)
        return codec
    from decoders.codecs.pretrained import load_pretrained

    if part is None:
        return load_pretrained(str(path))
    return load_pretrained(
        str(path), subfolder=part.subfolder, size=part.size or None, num_codebooks=part.num_codebooks or None
    )


def load_one_decoder(source: str | Path, codec: MediaCodec) -> nn.Module:
    """The diffusion decoder of a codec, by its folder's name."""
    from decoders.diffusion.checkpoint import load_decoder

    decoder = load_decoder(preset_path(source), codec)
    decoder.name = lasting_name(source)
    return decoder
