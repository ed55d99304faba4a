"""What `GET /metrics` answers. Everything is read from the database when asked: a restart loses no count."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import batchsched
from batchsched import exposed
from batchsched.errors import ForecastUnavailable
from batchsched.queue import batches, chunks, deliveries, launchers, ledger, overrides, risks, workers
from batchsched.queue.rows import Row
from batchsched.queue.states import OPEN
from batchsched.server.counting import lasting
from batchsched.server.runtime import Runtime

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Gauge, Metric


def gauge(metric: exposed.Metric, registry: CollectorRegistry) -> Gauge:
    """A metric's gauge, by its declaration."""
    from prometheus_client import Gauge

    return Gauge(metric.full, metric.help, metric.labels, registry=registry)


def exposition(runtime: Runtime) -> bytes:
    """Everything is read from the database when asked: a restart loses no count."""
    from prometheus_client import CollectorRegistry, generate_latest

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
    batched = gauge(exposed.BATCHES, registry)
    for state, count in by_state.items():
        batched.labels(state=state).set(count)
    risky = gauge(exposed.BATCHES_AT_RISK, registry)
    risky.set(at_risk)
    pending = gauge(exposed.WEBHOOKS_PENDING, registry)
    pending.set(sum(waiting.values()))
    frozen = gauge(exposed.PLAN_FROZEN, registry)
    frozen.set(int(ruled.frozen is not None))
    closed = gauge(exposed.POOL_CLOSED, registry)
    for name, one in ruled.pools.items():
        closed.labels(pool=name, how=one.how).set(1)
    by_window = gauge(exposed.WINDOW_OPEN, registry)
    for name, window in opened.standing.items():
        by_window.labels(window=name, pool=window.window.pool).set(int(opened.has_open(name, now)))
    spare = gauge(exposed.SPARE_TOKENS, registry)
    for name, share in runtime.scheduler.observer.current_shares(now).items():
        spare.labels(pool=name).set(share.expected(now))
    _launched(able, alive, now, registry)
    _served(runtime, registry)
    gauge(exposed.BUILD_INFO, registry).labels(version=batchsched.__version__).set(1)
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
    now = runtime.clock.now()
    depth = gauge(exposed.QUEUE_REQUESTS, registry)
    for state in ("pending", "leased"):
        depth.labels(state=state).set(sum(row["requests"] for row in left if row["state"] == state))
    oldest_s = gauge(exposed.OLDEST_BATCH, registry)
    oldest_s.set(max(((now - batch["created_at"]).total_seconds() for batch in unfinished), default=0.0))
    late = gauge(exposed.BATCHES_OVERDUE, registry)
    late.set(sum(batch["deadline_at"] < now for batch in unfinished))
    leads = gauge(exposed.LEADER, registry)
    leads.set(int(runtime.leadership.leading()))
    if published := runtime.scheduler.published:
        age_s = gauge(exposed.PLAN_AGE, registry)
        age_s.set((now - published.made_at).total_seconds())


def _working(runtime: Runtime, alive: Sequence[Row], registry: CollectorRegistry) -> None:
    """Of each declared pool: live workers, those whose GPUs are ill, and those whose engines do not start."""
    live = gauge(exposed.WORKERS, registry)
    ill = gauge(exposed.WORKERS_ILL, registry)
    failing = gauge(exposed.WORKERS_FAILING, registry)
    for pool in runtime.fleet.pools:
        mine = [worker for worker in alive if worker["pool"] == pool]
        live.labels(pool=pool).set(len(mine))
        ill.labels(pool=pool).set(sum(bool(worker["ills"]) for worker in mine))
        failing.labels(pool=pool).set(sum(worker["failing_since"] is not None for worker in mine))


def _grids(runtime: Runtime, registry: CollectorRegistry) -> None:
    """The carbon intensity that plans count on now, zone by zone."""
    now = runtime.clock.now()
    grid = gauge(exposed.CARBON_INTENSITY, registry)
    for zone in sorted({site.zone for site in runtime.fleet.sites.values()}):
        with suppress(ForecastUnavailable):
            forecast = runtime.provider.forecast(zone, now, now + timedelta(hours=1))
            if (mean := forecast.mean_over(now, now + timedelta(minutes=5))) is not None:
                grid.labels(zone=zone, kind="forecast").set(mean)


def _launched(able: Sequence[Row], alive: Sequence[Row], now: datetime, registry: CollectorRegistry) -> None:
    """Of each pool that has launchers, or had: what they can start, what they were told to run, what runs, and what fails."""
    pools = {one["pool"] for one in able} | {worker["pool"] for worker in alive if worker["replica"]}
    heard = gauge(exposed.LAUNCHERS, registry)
    startable = gauge(exposed.REPLICAS_STARTABLE, registry)
    wanted = gauge(exposed.REPLICAS_WANTED, registry)
    running = gauge(exposed.REPLICAS_RUNNING, registry)
    failing = gauge(exposed.REPLICAS_FAILING, registry)
    for pool in pools:
        mine = [one for one in able if one["pool"] == pool and one["seen_at"] >= now - launchers.SILENT]
        heard.labels(pool=pool).set(len(mine))
        startable.labels(pool=pool).set(sum(one["replicas"] for one in mine))
        wanted.labels(pool=pool).set(sum(one["share"] for one in mine))
        running.labels(pool=pool).set(sum(worker["pool"] == pool and bool(worker["replica"]) for worker in alive))
        failing.labels(pool=pool).set(sum(one["failing"] for one in mine))


def _served(runtime: Runtime, registry: CollectorRegistry) -> None:
    """Who serves each zone that has sources, how old that is, how far it is trusted, and which sources fail."""
    if runtime.chain is None or runtime.feeds is None:
        return
    failing = gauge(exposed.SOURCE_FAILING, registry)
    for name, feed in runtime.feeds.feeds.items():
        failing.labels(source=name).set(feed.state.failures)
    now = runtime.clock.now()
    age_s = gauge(exposed.FORECAST_AGE, registry)
    trust = gauge(exposed.FORECAST_TRUST, registry)
    for zone in runtime.chain.chained():
        try:
            choice = runtime.chain.choose(zone, now, now + timedelta(days=1))
        except ForecastUnavailable:
            continue
        age_s.labels(zone=zone, source=choice.source).set((now - choice.forecast.issued_at).total_seconds())
        trust.labels(zone=zone, source=choice.source).set(choice.trust)
