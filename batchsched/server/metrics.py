"""What `GET /metrics` answers. Everything is read from the database when asked: a restart loses no count."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import batchsched
from batchsched.errors import ForecastUnavailable
from batchsched.queue import batches, chunks, deliveries, launchers, ledger, overrides, risks, workers
from batchsched.queue.rows import Row
from batchsched.queue.spare import hour_of_week
from batchsched.queue.states import OPEN
from batchsched.server.counting import lasting
from batchsched.server.runtime import Runtime

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric


def exposition(runtime: Runtime) -> bytes:
    """Everything is read from the database when asked: a restart loses no count."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

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
        unfinished = batches.in_state(connection, sorted(OPEN))
        left = chunks.summary(connection)
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
    _queued(runtime, unfinished, left, registry)
    _working(runtime, alive, registry)
    _grids(runtime, registry)

    class Lasting:
        def collect(self) -> list[Metric]:
            return lasting(counters)

    registry.register(Lasting())
    return bytes(generate_latest(registry))


def _queued(runtime: Runtime, unfinished: Sequence[Row], left: Sequence[Row], registry: CollectorRegistry) -> None:
    """What is open, how old, how near to its deadline; and how old the plan is."""
    from prometheus_client import Gauge

    now = runtime.clock.now()
    depth = Gauge("batchsched_queue_requests", "Requests of batches in progress without a result.", ["state"], registry=registry)
    for state in ("pending", "leased"):
        depth.labels(state=state).set(sum(row["requests"] for row in left if row["state"] == state))
    oldest_s = Gauge("batchsched_oldest_batch_seconds", "Age of the oldest batch that is not over.", registry=registry)
    oldest_s.set(max(((now - batch["created_at"]).total_seconds() for batch in unfinished), default=0.0))
    late = Gauge("batchsched_batches_overdue", "Batches that are not over though their deadline is.", registry=registry)
    late.set(sum(batch["deadline_at"] < now for batch in unfinished))
    leads = Gauge("batchsched_leader", "1 for the server that leads.", registry=registry)
    leads.set(int(runtime.leadership.leading()))
    if published := runtime.scheduler.published:
        age_s = Gauge("batchsched_plan_age_seconds", "Age of the plan in force.", registry=registry)
        age_s.set((now - published.made_at).total_seconds())


def _working(runtime: Runtime, alive: Sequence[Row], registry: CollectorRegistry) -> None:
    """Of each declared pool: live workers, and those whose GPUs are ill."""
    from prometheus_client import Gauge

    live = Gauge("batchsched_workers", "Workers that gave a sign of life.", ["pool"], registry=registry)
    ill = Gauge("batchsched_workers_ill", "Of these, those with ill GPUs.", ["pool"], registry=registry)
    for pool in runtime.fleet.pools:
        mine = [worker for worker in alive if worker["pool"] == pool]
        live.labels(pool=pool).set(len(mine))
        ill.labels(pool=pool).set(sum(bool(worker["ills"]) for worker in mine))


def _grids(runtime: Runtime, registry: CollectorRegistry) -> None:
    """The carbon intensity that plans count on now, zone by zone."""
    from prometheus_client import Gauge

    now, names = runtime.clock.now(), ["zone", "kind"]
    grid = Gauge("batchsched_carbon_intensity_grams_per_kwh", "Carbon intensity of this hour.", names, registry=registry)
    for zone in sorted({site.zone for site in runtime.fleet.sites.values()}):
        with suppress(ForecastUnavailable):
            forecast = runtime.provider.forecast(zone, now, now + timedelta(hours=1))
            if (mean := forecast.mean_over(now, now + timedelta(minutes=5))) is not None:
                grid.labels(zone=zone, kind="forecast").set(mean)


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
