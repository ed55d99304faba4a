"""Routes about the plan as a whole."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from batchsched.server.accounting import MEDIA
from batchsched.server.planned import PlanDesk
from batchsched.server.runtime import Runtime
from batchsched.wire import PREFIX


def router(runtime: Runtime) -> APIRouter:
    """The routes, bound to a server."""
    routes = APIRouter(prefix=PREFIX, tags=["batchsched"])
    desk = PlanDesk(runtime.database, runtime.scheduler, runtime.clock)

    @routes.get("/plan")
    def plan() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """The plan in force. What has one entry a slot goes by `slots`."""
        return desk.shown()

    @routes.get("/plan/plot")
    def plot_plan(format: str = "svg") -> Response:  # noqa: A002 - the parameter's public name  # pyright: ignore[reportUnusedFunction]
        """A picture of the plan in force: pools by time, over intensity with its band."""
        return Response(desk.plot(format), media_type=MEDIA.get(format))

    return routes
