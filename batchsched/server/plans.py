"""Routes about the plan as a whole."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from batchsched.server.accounting import MEDIA
from batchsched.server.auth import GUARDED
from batchsched.server.instants import instant
from batchsched.server.planned import PlanDesk
from batchsched.server.replay import Replay
from batchsched.server.runtime import Runtime
from batchsched.server.whatif import Asked, WhatIf
from batchsched.wire import PREFIX


def router(runtime: Runtime) -> APIRouter:
    """The routes, bound to a server."""
    routes = APIRouter(prefix=PREFIX, tags=["batchsched"], dependencies=GUARDED)
    desk = PlanDesk(runtime.database, runtime.scheduler, runtime.clock)
    questions = WhatIf(runtime.database, runtime.scheduler, runtime.provider, runtime.clock, runtime.settings.planner)
    replays = Replay(runtime.database, runtime.scheduler, runtime.provider, runtime.clock)

    @routes.get("/plan")
    def plan() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        """The plan in force. What has one entry a slot goes by `slots`."""
        return desk.shown()

    @routes.get("/plan/plot")
    def plot_plan(format: str = "svg") -> Response:  # noqa: A002 - the parameter's public name  # pyright: ignore[reportUnusedFunction]
        """A picture of the plan in force: pools by time, over intensity with its band."""
        return Response(desk.plot(format), media_type=MEDIA.get(format))

    @routes.get("/plan/what-if")
    def what_if(  # pyright: ignore[reportUnusedFunction]
        deadline: Annotated[list[str], Query(description="BATCH=+2h, BATCH=-30m, or BATCH= and a deadline")] = [],  # noqa: B006
        pool: Annotated[list[str], Query(description="NAME=+2 or NAME=-1: replicas")] = [],  # noqa: B006
        without_site: Annotated[list[str], Query(description="A site that were not there")] = [],  # noqa: B006
        with_zone: Annotated[list[str], Query(description="POOL=ZONE: a copy of a pool in that zone")] = [],  # noqa: B006
    ) -> dict[str, Any]:
        """What would be, were something another: grams by prices and by solving again, and who would be late. Nothing changes."""
        return questions.answer(desk.in_force(), Asked(deadline, pool, without_site, with_zone))

    @routes.get("/plan/replay")
    def replay(at: str | None = None, id: Annotated[int | None, Query(ge=0, lt=2**63)] = None) -> dict[str, Any]:  # noqa: A002  # pyright: ignore[reportUnusedFunction]
        """Make the plan that was in force at an instant, or that of a number, again from the archive."""
        return replays.answer(instant(at, "at") if at else None, id)

    return routes
