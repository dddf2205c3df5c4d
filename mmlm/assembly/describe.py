"""A model in a few lines: its parts, what they can be loaded from again, and how many weights they have."""

from __future__ import annotations

from torch import nn

from mmlm.model.network import MultimodalNetwork


def described(model: MultimodalNetwork) -> str:
    """The text of `repr(model)`, a line for each part."""
    language_model = model.language_model
    added = [tensor for _, tensor in model.added_parameters()]
    lines = [
        _line("language model", language_model, type(language_model.model).__name__),
        *(_line(f"{name} encoder", part, type(part).__name__) for name, part in model.encoders.items()),
        *(_line(f"{name} codec", part, type(part).__name__) for name, part in model.codecs.items()),
        *(_line(f"{name} decoder", part, type(part).__name__) for name, part in model.decoders.items()),
        f"added: {_millions(sum(tensor.numel() for tensor in added))}, {model.fusion.described(model.fusion_config)}",
        f"on {model.device}, {str(language_model.dtype).removeprefix('torch.')}",
    ]
    return "\n".join(["MultimodalLM(", *(f"  {line}" for line in lines), ")"])


def _line(what: str, part: nn.Module, kind: str) -> str:
    name = getattr(part, "name", None)
    shown = "ready-made" if name is None else repr(name if len(name) <= 40 else "…" + name[-39:])
    return f"{what}: {kind} {shown}, {_millions(sum(tensor.numel() for tensor in part.parameters()))}"


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M weights" if count >= 50_000 else f"{count:,} weights"
