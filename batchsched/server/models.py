"""Routes of OpenAI's Models API: what batches may name."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from batchsched.errors import NotFound
from batchsched.server.auth import GUARDED
from batchsched.server.runtime import Runtime
from batchsched.units import to_unix


def router(runtime: Runtime) -> APIRouter:
    """The routes, bound to a server."""
    routes = APIRouter(tags=["Models"], dependencies=GUARDED)

    @routes.get("/v1/models")
    def list_models() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """Models that batches may name."""
        data = [_model(runtime, name) for name in runtime.scheduler.served_models()]
        return {"object": "list", "data": data}

    @routes.get("/v1/models/{name:path}")
    def retrieve_model(name: str) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """One model."""
        if name not in runtime.scheduler.served_models():
            raise NotFound(f"The model '{name}' does not exist.", param="model")
        return _model(runtime, name)

    return routes


def _model(runtime: Runtime, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": to_unix(runtime.started_at), "owned_by": "batchsched"}
