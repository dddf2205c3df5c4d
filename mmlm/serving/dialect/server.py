"""/v1/models, /health and /metrics: what is served, and how it goes."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from mmlm.serving.context import context_of
from mmlm.serving.errors import ApiError
from mmlm.serving.models import Loaded, Models

router = APIRouter()


@router.head("/health", include_in_schema=False)  # as some programs that watch servers ask
@router.get("/health")
async def health() -> dict[str, str]:
    """That the server answers; nothing else, for this needs no key."""
    return {"status": "ok"}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Figures in Prometheus's text format."""
    return Response(context_of(request).metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """All models, loaded or not."""
    models = context_of(request).models
    return {"object": "list", "data": [_described(models, name) for name in models.names]}


@router.get("/v1/models/{name:path}")
async def retrieve_model(name: str, request: Request) -> dict[str, Any]:
    """One model."""
    models = context_of(request).models
    if name not in models.names:
        raise ApiError(404, f"there is no model {name[:80]!r} here", "model", "model_not_found")
    return _described(models, name)


def _described(models: Models, name: str) -> dict[str, Any]:
    """A model; of one that is loaded also what it takes and gives."""
    about: dict[str, Any] = {"id": name, "object": "model", "created": models.began, "owned_by": "mmlm"}
    loaded = {one.name: one for one in models.loaded()}
    about["loaded"] = name in loaded
    if name in loaded:
        about["architecture"] = _modalities(loaded[name])
    return about


def _modalities(loaded: Loaded) -> dict[str, list[str]]:
    model = loaded.model
    return {
        "input_modalities": ["text", *(kind for kind in ("image", "audio") if kind in model.encoders)],
        "output_modalities": ["text", *model.language_model.vocabulary.spans],
    }
