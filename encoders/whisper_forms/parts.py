"""What every form of a Whisper is read into, and openai-whisper's module built of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import whisper
from torch import Tensor
from whisper.model import ModelDimensions

from encoders.sizes import believed

MELS = (80, 128)  # for which openai-whisper has filters
OTHER = 'give one, such as "openai/whisper-tiny" of the hub'  # where a model is no Whisper
OUTPUT = "proj_out.weight"  # of forms that keep it apart; openai-whisper's is the token embedding


@dataclass
class Parts:
    """A Whisper as it was read.

    state: tensors by openai-whisper's names.
    suppress_tokens: ids that are never written. alignment_heads: (layer, head) pairs whose attention times words. Both
        as the model's makers give them; None where they do not.
    """

    dims: ModelDimensions
    state: dict[str, Tensor]
    suppress_tokens: list[int] | None = None
    alignment_heads: list[tuple[int, int]] | None = None


def build(parts: Parts, source: str | Path) -> whisper.Whisper:
    """openai-whisper's module, float32, with these parts.

    source: where they were read, for messages, and as the measure of sizes. ValueError for parts that do not fit
    together; `RefusedError` for sizes that the weights cannot fill.
    """
    with believed(source):
        model = whisper.Whisper(parts.dims)
    _check_state(parts.state, model.state_dict())
    model.load_state_dict(parts.state)
    if parts.suppress_tokens is not None:
        ids = torch.tensor(_ids(parts.suppress_tokens, parts.dims.n_vocab), dtype=torch.int64)
        model.register_buffer("suppress_tokens", ids, persistent=False)
    layers, heads = parts.dims.n_text_layer, parts.dims.n_text_head
    chosen = parts.alignment_heads or []
    # Distilled models often keep the heads of the model that they were made of, which are others: openai-whisper's
    # default, all heads of the last half of the layers, is for them.
    if chosen and all(0 <= layer < layers and 0 <= head < heads for layer, head in chosen):
        mask = torch.zeros(layers, heads, dtype=torch.bool)
        mask[tuple(zip(*chosen, strict=True))] = True
        model.register_buffer("alignment_heads", mask.to_sparse(), persistent=False)
    return model


def suppressed(model: whisper.Whisper) -> list[int] | str:
    """The tokens that a model never writes, as DecodingOptions takes them: its makers', or openai-whisper's ("-1")."""
    own = getattr(model, "suppress_tokens", None)
    return "-1" if own is None else own.tolist()


def said_beside(model: whisper.Whisper) -> dict[str, Any]:
    """`suppress_tokens`, where a model has its own, and `alignment_heads`: what is kept beside its weights."""
    heads: Any = model.alignment_heads
    found = {"alignment_heads": heads.coalesce().indices().T.tolist()}
    own = suppressed(model)
    return found if isinstance(own, str) else found | {"suppress_tokens": own}


def said(settings: Mapping[str, Any], suppress: str, source: str | Path) -> dict[str, Any]:
    """`suppress_tokens` and `alignment_heads` of Parts from settings, of which `suppress` names the former.

    ValueError for what are no ids or pairs.
    """
    ids, heads = settings.get(suppress), settings.get("alignment_heads")
    if ids is not None and not (isinstance(ids, list) and all(_is_index(one) for one in ids)):
        raise ValueError(f"{suppress} of {source} is a list of token ids, not {str(ids)[:60]}")
    pairs = isinstance(heads, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in heads)
    if heads is not None and not (pairs and all(_is_index(one) for pair in heads for one in pair)):
        raise ValueError(f"alignment_heads of {source} is a list of [layer, head], not {str(heads)[:60]}")
    return {"suppress_tokens": ids, "alignment_heads": heads and [(layer, head) for layer, head in heads]}


def dimensions(state: Mapping[str, Tensor], audio_heads: Any, text_heads: Any) -> ModelDimensions:
    """The dimensions that tensors by openai-whisper's names have; the numbers of heads are given.

    ValueError for tensors that are not those of a Whisper, and for heads that do not divide its width.
    """
    width, mels, _ = _shape(state, "encoder.conv1.weight", 3)
    audio_places, _ = _shape(state, "encoder.positional_embedding", 2)
    text_places, _ = _shape(state, "decoder.positional_embedding", 2)
    vocabulary, text_width = _shape(state, "decoder.token_embedding.weight", 2)
    if mels not in MELS:
        raise ValueError(f"it hears {mels} mel bands, and a Whisper hears {' or '.join(map(str, MELS))}")
    for heads, own in ((audio_heads, width), (text_heads, text_width)):
        if not _is_index(heads) or not heads or own % heads:
            raise ValueError(f"{heads!r} heads do not divide its width of {own}")
    return ModelDimensions(
        mels, audio_places, width, audio_heads, _layers(state, "encoder"),
        vocabulary, text_places, text_width, text_heads, _layers(state, "decoder"),
    )  # fmt: skip


def tied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without the output's, which is the token embedding in every Whisper; ValueError where it is not."""
    kept = {name: tensor for name, tensor in state.items() if name != OUTPUT}
    embedding = kept.get("decoder.token_embedding.weight")
    if OUTPUT in state and embedding is not None and not torch.equal(state[OUTPUT], embedding):
        raise ValueError(
            "its output layer is another one than its token embedding, which openai-whisper's are not: use it with the "
            "library that made it"
        )
    return kept


def _check_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    wrong = [name for name in sorted(expected.keys() & state.keys()) if state[name].shape != expected[name].shape]
    for names, fault in ((missing, "lack"), (unknown, "have besides"), (wrong, "have in another shape")):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(f"its weights {fault} {', '.join(names[:3])}{more}: they are no whole Whisper")
    quantised = [name for name, tensor in state.items() if not tensor.is_floating_point()]
    if quantised:
        raise ValueError(f"its weights are quantised in a way that is not read ({state[quantised[0]].dtype})")


def _ids(ids: Sequence[int], vocabulary: int) -> Sequence[int]:
    if beyond := [one for one in ids if one >= vocabulary]:
        raise ValueError(f"it suppresses token {beyond[0]}, and has {vocabulary:,} of them")
    return ids


def _shape(state: Mapping[str, Tensor], name: str, rank: int) -> tuple[int, ...]:
    if name not in state or state[name].ndim != rank:
        raise ValueError(f"its weights lack {name}: they are no whole Whisper")
    return tuple(state[name].shape)


def _layers(state: Mapping[str, Tensor], side: str) -> int:
    return len({name.split(".")[2] for name in state if name.startswith(f"{side}.blocks.")})


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
