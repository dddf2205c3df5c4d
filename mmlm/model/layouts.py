"""Which codes a language model writes for its codecs, and whether codecs, decoders and language model fit."""

import dataclasses
import math
from collections.abc import Mapping

from torch import nn

from decoders.codecs.base import MediaCodec
from mmlm.model.language_model import LanguageModel
from mmlm.model.modules import ModuleMap
from mmlm.prompting.code_layout import CodeLayout


def layouts_of(
    codecs: Mapping[str, MediaCodec] | ModuleMap[MediaCodec], max_seconds: float = 10.0
) -> tuple[CodeLayout, ...]:
    """The layouts of the codecs' codes, images first; audio is written for at most `max_seconds`."""
    found = []
    for modality in ("image", "audio"):
        if (codec := codecs.get(modality)) is not None:
            steps = CodeLayout.max_steps if codec.frame_rate is None else math.ceil(codec.frame_rate * max_seconds)
            found.append(CodeLayout(modality, codec.codebook_size, codec.num_codebooks, codec.grid, steps))
    return tuple(found)


def check_writing(codecs: ModuleMap[MediaCodec], decoders: ModuleMap[nn.Module], language_model: LanguageModel) -> None:
    """ValueError unless codecs, decoders and language model fit each other."""
    for modality, codec in codecs.items():
        if codec.modality != modality:
            raise ValueError(f"the codec given for {modality!r} has the modality {codec.modality!r}")
        if modality == "image" and codec.grid is None:
            raise ValueError("the image codec has no fixed size, so its grid is unknown: give it a size")
    for modality, decoder in decoders.items():
        if modality not in codecs or decoder.codec is not codecs[modality]:
            raise ValueError(f"the {modality} decoder does not belong to the model's {modality} codec")
    spans = language_model.vocabulary.spans
    for layout in layouts_of(codecs):
        own = spans.get(layout.modality)
        if own is None or dataclasses.replace(own.layout, max_steps=layout.max_steps) != layout:
            raise ValueError(
                f"the language model has no rows for the codes of the {layout.modality} codec: build it with "
                "layouts=layouts_of(codecs)"
            )
