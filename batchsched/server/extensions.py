"""Routes beyond OpenAI's: health, metrics."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

import batchsched
from batchsched.server import ready
from batchsched.server.auth import GUARDED
from batchsched.server.metrics import exposition
from batchsched.server.runtime import Runtime


def router(runtime: Runtime) -> APIRouter:
    """The routes, bound to a server."""
    routes = APIRouter(tags=["batchsched"], dependencies=GUARDED)

    @routes.get("/livez")
    def livez() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        """The process lives."""
        return {"status": "ok"}

    @routes.get("/readyz")
    def readyz() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        """It can do its work: the database answers with no older schema, its folders can be written to, its loops turn."""
        ready.check(runtime)
        return {"status": "ok"}

    @routes.get("/version")
    def version() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        """Our version."""
        return {"version": batchsched.__version__}

    @routes.get("/metrics")
    def metrics() -> Response:  # pyright: ignore[reportUnusedFunction]
        """Prometheus metrics."""
        from prometheus_client import CONTENT_TYPE_LATEST

        return Response(exposition(runtime), media_type=CONTENT_TYPE_LATEST)

    return routes
