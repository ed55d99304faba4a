"""Routes beyond OpenAI's: health, metrics."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.responses import Response

import batchsched
from batchsched.errors import ForecastUnavailable
from batchsched.queue import batches, deliveries, launchers, ledger, overrides, risks, workers
from batchsched.queue.rows import Row
from batchsched.queue.spare import hour_of_week
from batchsched.queue.tenancy import ANY
from batchsched.server.runtime import Runtime

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def router(runtime: Runtime) -> APIRouter:
    """The routes, bound to a server."""
    routes = APIRouter(tags=["batchsched"])

    @routes.get("/livez")
    def livez() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        """The process lives."""
        return {"status": "ok"}

    @routes.get("/readyz")
    def readyz() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        """The database answers."""
        with runtime.database.read() as connection:
            batches.page(connection, ANY, limit=1)
        return {"status": "ok"}

    @routes.get("/version")
    def version() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        """Our version."""
        return {"version": batchsched.__version__}

    @routes.get("/metrics")
    def metrics() -> Response:  # pyright: ignore[reportUnusedFunction]
        """Prometheus metrics."""
        from prometheus_client import CONTENT_TYPE_LATEST

        return Response(_exposition(runtime), media_type=CONTENT_TYPE_LATEST)

    return routes


def _exposition(runtime: Runtime) -> bytes:
    """Everything is read from the database when asked: a restart loses no count."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest
    from prometheus_client.core import CounterMetricFamily

    registry, now = CollectorRegistry(), runtime.clock.now()
    with runtime.database.read() as connection:
        by_state = batches.counted(connection)
        counters = ledger.counted(connection)
        waiting = deliveries.waiting(connection)
        at_risk = risks.counted(connection)
        ruled = overrides.active(connection, now)
        opened = runtime.scheduler.doors.openings(connection)
        able = launchers.active(connection, now - launchers.KEPT)
        alive = workers.active(connection, now - timedelta(seconds=runtime.settings.server.lease_s))
    gauge = Gauge("batchsched_batches", "Batches by state.", ["state"], registry=registry)
    for state, count in by_state.items():
        gauge.labels(state=state).set(count)
    risky = Gauge("batchsched_batches_at_risk", "Batches whose promised deadlines are in doubt.", registry=registry)
    risky.set(at_risk)
    pending = Gauge("batchsched_webhooks_pending", "Events that are still to be delivered.", registry=registry)
    pending.set(sum(waiting.values()))
    frozen = Gauge("batchsched_plan_frozen", "1 while nothing is shifted.", registry=registry)
    frozen.set(int(ruled.frozen is not None))
    closed = Gauge("batchsched_pool_closed", "1 for pools that an operator closed.", ["pool", "how"], registry=registry)
    for name, one in ruled.pools.items():
        closed.labels(pool=name, how=one.how).set(1)
    by_window = Gauge("batchsched_window_open", "1 while a window is open.", ["window", "pool"], registry=registry)
    for name, window in opened.standing.items():
        by_window.labels(window=name, pool=window.window.pool).set(int(opened.has_open(name, now)))
    spare = Gauge("batchsched_spare_tokens_per_second", "Expected of one server this hour.", ["pool"], registry=registry)
    for name, share in runtime.scheduler.observer.current_shares(now).items():
        spare.labels(pool=name).set(share.spare.tokens_per_s[hour_of_week(now)])
    _launched(able, alive, now, registry)
    _served(runtime, registry)
    Gauge("batchsched_build_info", "Version.", ["version"], registry=registry).labels(version=batchsched.__version__).set(1)
    families: dict[str, CounterMetricFamily] = {}
    for counter, value in counters.items():
        name, _, kind = counter.partition(":")
        label = {"kind": kind} if kind else {}
        family = CounterMetricFamily(f"batchsched_{name.removesuffix('_total')}", name.replace("_", " "), labels=list(label))
        families.setdefault(name, family).add_metric(list(label.values()), value)

    class Counters:
        def collect(self) -> list[CounterMetricFamily]:
            return list(families.values())

    registry.register(Counters())
    return bytes(generate_latest(registry))


def _launched(able: Sequence[Row], alive: Sequence[Row], now: datetime, registry: CollectorRegistry) -> None:
    """Of each pool that has launchers, or had: what they can start, what they were told to run, what runs, and what fails."""
    from prometheus_client import Gauge

    pools, names = {one["pool"] for one in able} | {worker["pool"] for worker in alive if worker["replica"]}, ["pool"]
    heard = Gauge("batchsched_launchers", "Launchers that were heard of in the last minute.", names, registry=registry)
    startable = Gauge("batchsched_replicas_startable", "Replicas that they can start.", names, registry=registry)
    wanted = Gauge("batchsched_replicas_wanted", "Replicas that they were told to run.", names, registry=registry)
    running = Gauge("batchsched_replicas_running", "Live workers that a launcher started.", names, registry=registry)
    failing = Gauge("batchsched_replicas_failing", "Places where workers die again and again.", names, registry=registry)
    for pool in pools:
        mine = [one for one in able if one["pool"] == pool and one["seen_at"] >= now - launchers.SILENT]
        heard.labels(pool=pool).set(len(mine))
        startable.labels(pool=pool).set(sum(one["replicas"] for one in mine))
        wanted.labels(pool=pool).set(sum(one["share"] for one in mine))
        running.labels(pool=pool).set(sum(worker["pool"] == pool and bool(worker["replica"]) for worker in alive))
        failing.labels(pool=pool).set(sum(one["failing"] for one in mine))


def _served(runtime: Runtime, registry: CollectorRegistry) -> None:
    """Who serves each zone that has sources, how old that is, how far it is trusted, and which sources fail."""
    from prometheus_client import Gauge

    if runtime.chain is None or runtime.feeds is None:
        return
    failing = Gauge("batchsched_forecast_source_failing", "Failures in a row.", ["source"], registry=registry)
    for name, feed in runtime.feeds.feeds.items():
        failing.labels(source=name).set(feed.state.failures)
    names, now = ["zone", "source"], runtime.clock.now()
    age_s = Gauge("batchsched_forecast_age_seconds", "Age of the forecast in force.", names, registry=registry)
    trust = Gauge("batchsched_forecast_trust", "Trust in the forecast in force.", names, registry=registry)
    for zone in runtime.chain.chained():
        try:
            choice = runtime.chain.choose(zone, now, now + timedelta(days=1))
        except ForecastUnavailable:
            continue
        age_s.labels(zone=zone, source=choice.source).set((now - choice.forecast.issued_at).total_seconds())
        trust.labels(zone=zone, source=choice.source).set(choice.trust)
