"""What identifies a model beside its added weights, by content: the same parts under another name are the same."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mmlm.model.network import MultimodalNetwork


def identity_of(model: MultimodalNetwork) -> dict[str, Any]:
    """Fingerprints of the frozen parts, and the settings that weights do not show, as JSON values."""
    host = model.language_model
    return {
        "language_model": host.fingerprint(),
        **{f"{name}_encoder": encoder.fingerprint() for name, encoder in model.encoders.items()},
        "resampler": asdict(model.resampler_config),
        "audio_resampler": asdict(model.audio_resampler_config),
        "fusion": asdict(model.fusion_config),
        **({"lora": asdict(host.lora_config)} if host.lora_config.reads else {}),
        "template": asdict(model.template),
    }
