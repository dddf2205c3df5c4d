"""Giving a model codecs, diffusion decoders or LoRA that it does not have yet."""

from __future__ import annotations

import torch

from decoders.codecs.checkpoint import codec_fingerprint
from mmlm.assembly.codecs import Codecs, load_codecs
from mmlm.assembly.multimodal_lm import MultimodalLM
from mmlm.model.config import LoraConfig
from mmlm.model.draws import OwnDraws
from mmlm.model.language_model import LanguageModel
from mmlm.model.layouts import layouts_of


@torch.no_grad()
def extended(
    model: MultimodalLM, codecs: Codecs = Codecs(), *, lora: LoraConfig | None = None, seed: int = 0
) -> MultimodalLM:
    """A model of the same frozen parts, adapters, codecs and decoders, with these added or in their place.

    What was trained stays, LoRA and the rows of codecs that stay or are given again included. What is new is drawn from
    `seed`, and is to be trained. A codec in place of another one drops the other's diffusion decoder. lora: None keeps
    the model's own. ValueError where nothing is given.
    """
    if not codecs and lora is None:
        raise ValueError("nothing is given: a codec, a decoder, or lora")
    host = model.language_model
    with OwnDraws(seed):
        loaded = load_codecs(codecs.beside(model))
    lora = host.lora_config if lora is None else lora
    with OwnDraws(seed):
        writing = LanguageModel(
            host.model, host.tokenizer, host.name, host.vocabulary.tokens, layouts=layouts_of(loaded.codecs), lora=lora,
            own_tokenizer=host.own_tokenizer,
        )  # fmt: skip
        writing.replaced, writing.changes = host.replaced, host.changes  # the two share their frozen parts
        made = MultimodalLM(
            writing, model.encoders.get("image"), model.resampler_config, model.fusion_config, model.template,
            audio_encoder=model.encoders.get("audio"), audio_resampler=model.audio_resampler_config,
            codecs=loaded.codecs, decoders=loaded.decoders, media_dim=model.media_dim,
            left_out=model.left_out,
        )  # fmt: skip
    made = made.to(model.device)
    earlier = dict(model.added_parameters())
    for name, parameter in made.added_parameters():
        if name.startswith("language_model.codes."):
            continue
        if name in earlier and (not name.startswith("language_model.lora.") or lora == host.lora_config):
            parameter.copy_(earlier[name])
    for modality, codec in loaded.codecs.items():
        old = model.codecs.get(modality)
        if old is not None and codec_fingerprint(old) == codec_fingerprint(codec):
            copy_codes(host, writing, modality)
    return made


def copy_codes(source: LanguageModel, target: LanguageModel, modality: str) -> None:
    """Copies the rows of one medium's codes, and of a picture's places, from one language model to another."""
    assert source.codes is not None and target.codes is not None, "both have this medium's codes"
    old, new = (own.vocabulary.spans[modality].begin - own.vocabulary.code_offset for own in (source, target))
    count = source.vocabulary.spans[modality].layout.rows
    for name in ("embedding", "head"):
        getattr(target.codes, name)[new : new + count] = getattr(source.codes, name)[old : old + count]
    if source.codes.places is not None and target.codes.places is not None and modality == "image":
        target.codes.places.copy_(source.codes.places)
