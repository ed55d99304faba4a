"""The route by which launchers ask what is wanted of them (wire.Launching)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from batchsched.errors import NotFound
from batchsched.queue import chunks, launchers, workers
from batchsched.queue.database import again
from batchsched.queue.rows import Row
from batchsched.server.auth import GUARDED
from batchsched.server.messages import answer, read
from batchsched.server.runtime import Runtime
from batchsched.wanted import Crew
from batchsched.wire import PREFIX, Launched, LaunchedWorker, Launching, Wanted


def router(runtime: Runtime) -> APIRouter:
    """The route, bound to a server."""
    routes = APIRouter(prefix=PREFIX, tags=["Workers"], dependencies=GUARDED)
    desk = LaunchDesk(runtime)

    @routes.post("/launchers")
    async def launch(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        """A launcher says what it can run, and gets what is wanted of it."""
        return answer(await run_in_threadpool(desk.launch, await read(request, Launching)))

    return routes


class LaunchDesk:
    """What the route does."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._fleet = runtime.fleet
        self._lease_s = runtime.settings.server.lease_s

    @again
    def launch(self, message: Launching) -> Launched:
        """Raises NotFound for a pool that is not declared."""
        if unknown := message.pools.keys() - self._fleet.pools.keys():
            declared = ", ".join(self._fleet.pools) or "none"
            raise NotFound(f"There is no pool '{min(unknown)[:64]}'; declared: {declared}.", param="pools")
        now = self._runtime.clock.now()
        with self._runtime.database.write() as connection:
            news = launchers.said(connection, message.name, message.pools, now)
            launchers.forget(connection, now - launchers.KEPT)
        with self._runtime.database.read() as connection:  # nobody who writes waits for it
            alive = workers.active(connection, now - timedelta(seconds=self._lease_s))
            able = launchers.active(connection, now - launchers.SILENT)
            leases = chunks.leases(connection)
            unfinished = chunks.ready(connection, now) | {batch_id for batch_id, _ in chunks.in_flight(connection)}
            crews = {
                pool: self._runtime.scheduler.crew(connection, pool, now, message.lead_s, unfinished, alive)
                for pool in message.pools
            }
        if news:
            self._runtime.scheduler.poke()
        wanted = {pool: _wanted(message.name, pool, crew, alive, able, leases) for pool, crew in crews.items()}
        before = {one["pool"]: one["share"] for one in able if one["name"] == message.name}
        if shares := {pool: one.replicas for pool, one in wanted.items() if one.replicas != before.get(pool)}:
            with self._runtime.database.write() as connection:
                launchers.told(connection, message.name, shares)
        return Launched(wanted)


def _wanted(name: str, pool: str, crew: Crew, alive: Sequence[Row], able: Sequence[Row], leases: Mapping[str, int]) -> Wanted:
    """A launcher's share, and what it has to know of the pool. Workers that rest are there beside those that are wanted."""
    mine = [worker for worker in alive if worker["pool"] == pool]
    wanted = crew.replicas and crew.replicas + sum(map(workers.rests, mine))
    share = launchers.share_of(name, wanted, mine, [one for one in able if one["pool"] == pool])
    launched = [_launched(worker, leases.get(worker["id"], 0)) for worker in mine if worker["replica"]]
    return Wanted(share, sorted(crew.keep), launched, crew.next_at)


def _launched(worker: Row, leases: int) -> LaunchedWorker:
    return LaunchedWorker(
        worker_id=worker["id"],
        replica=worker["replica"],
        registered_at=worker["registered_at"],
        ready_models=workers.models(worker),
        leases=leases,
        finished=worker["finished"],
        failed=worker["failed"],
    )
