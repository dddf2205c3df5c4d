"""Giving a model codecs, decoders or LoRA that it has not."""

from pathlib import Path

import torch
from torch import nn

from decoders.codecs.base import MediaCodec
from mmlm.assembly.assemble import _writing_parts
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.model.config import LoraConfig
from mmlm.model.language_model import LanguageModel
from mmlm.model.network import layouts_of


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
    from decoders.codecs.checkpoint import codec_fingerprint

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
