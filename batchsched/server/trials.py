"""Routes for what profile runs measured."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from batchsched.errors import InvalidRequest, NotFound
from batchsched.queue import trials
from batchsched.queue.database import again
from batchsched.server.auth import GUARDED
from batchsched.server.runtime import Runtime
from batchsched.wire import PREFIX, Acknowledged, Trial, Trials


def router(runtime: Runtime) -> APIRouter:
    """The routes, bound to a server."""
    routes = APIRouter(prefix=PREFIX, tags=["Workers"], dependencies=GUARDED)

    @routes.post("/trials")
    async def add_trials(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Enter what a profile run measured. From then on plans go by it; a trial that comes twice counts once."""
        try:
            message = msgspec.json.decode(await request.body(), type=Trials)
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            raise InvalidRequest(f"This is not a Trials message: {problem}.") from None
        return _json(await run_in_threadpool(_add, runtime, message.trials))

    @routes.get("/trials")
    def list_trials(pool: str | None = None, model: str | None = None) -> Response:  # pyright: ignore[reportUnusedFunction]
        """The newest thousand trials, of a pool or a model where they are named, newest first."""
        with runtime.database.read() as connection:
            return _json(Trials(trials.page(connection, pool, model)))

    return routes


@again
def _add(runtime: Runtime, measured: list[Trial]) -> Acknowledged:
    for trial in measured:
        if trial.pool not in runtime.fleet.pools:
            raise NotFound(f"There is no pool '{trial.pool}'.", param="pool")
        if not trial.seconds > 0 or trial.energy_j < 0 or trial.host_j < 0:
            raise InvalidRequest(f"Trial {trial.id} took no time, or less than no energy.")
    with runtime.database.write() as connection:
        recorded = trials.add(connection, measured)
    if recorded:
        runtime.scheduler.poke()
    return Acknowledged(recorded, len(measured) - recorded)


def _json(message: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(message), media_type="application/json")
