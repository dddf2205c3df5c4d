"""How many positions of the language model a prompt takes, with those of its media."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from encoders.base import Features
from mmlm.model.network import MultimodalNetwork
from mmlm.prompting.parts import Image, Media, Sound, modality_of


def encoded(model: MultimodalNetwork, parts: Sequence[Any]) -> list[Any]:
    """Parts whose media are features where these take several positions, so that counting and generating read each
    medium once.
    """
    if not _several(model):
        return list(parts)
    return [_encoded(model, part) if isinstance(part, Image | Sound) else part for part in parts]


def positions_of(model: MultimodalNetwork, prompt: Sequence[Any]) -> int:
    """The positions of a prompt. ValueError where its tokens alone are too many for the language model."""
    media = [part for part in prompt if isinstance(part, Image | Sound)]
    return len(model.processor.encode(prompt).input_ids) + sum(_more(model, part) for part in media)


def _more(model: MultimodalNetwork, part: Media) -> int:
    """How many positions a medium takes beside that of its token: a prefix is as long as the medium has latents."""
    if not _several(model):
        return 0
    return model.media_positions(modality_of(part), _encoded(model, part).source.tokens.shape[1]) - 1


def _several(model: MultimodalNetwork) -> bool:
    return model.fusion.positions(2) != 1


def _encoded(model: MultimodalNetwork, part: Media) -> Media:
    return part if isinstance(part.source, Features) else replace(part, source=model.encode_media([part])[0])
