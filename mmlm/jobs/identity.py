"""What identifies the model of a job, by content: the same weights by another name are the same."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from encoders.base import fingerprint
from mmlm.model.network import MultimodalNetwork


def model_identity(model: MultimodalNetwork) -> dict[str, Any]:
    """Fingerprints of all weights that the model writes texts with, and the settings that they do not show."""
    encoders = {f"{name}_encoder": encoder.fingerprint() for name, encoder in model.encoders.items()}
    return {
        "language_model": model.language_model.fingerprint(),
        **encoders,
        "added": fingerprint(dict(model.added_parameters())),
        "fusion": asdict(model.fusion_config),
        "template": asdict(model.template),
    }
