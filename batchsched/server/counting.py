"""Counters and histograms that outlive restarts: what is counted when a batch's books are written, and how they are exposed.

In the database each is a row of whole numbers, named `<metric>:<labels>` (exposed.py). Amounts are kept in thousandths, a
histogram as one row a bucket and one for the sum.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from batchsched import exposed
from batchsched.carbon.books import Posting
from batchsched.exposed import BATCH_RUN, BATCH_WAIT, CARBON, CARBON_ADDED, CARBON_AVOIDED, CARBON_REVISED, ENERGY
from batchsched.queue import ledger
from batchsched.server.asked import asked_metrics

if TYPE_CHECKING:
    from prometheus_client import Metric

_BY_NAME = {metric.name: metric for metric in exposed.METRICS}
_SUM, _ABOVE = "sum", "+Inf"


def note_books(connection: Connection, news: Sequence[Posting]) -> None:
    """What entries of the books add. What a revision takes away counts apart, for a counter only grows."""
    joules, grams = Counter[str](), Counter[tuple[str, str]]()
    for entry in news:
        joules[ENERGY.row(entry.pool, entry.energy_source)] += max(0, round(entry.energy_j * ENERGY.per))
        grams[entry.zone, entry.energy_source] += round((entry.grams or 0.0) * CARBON.per)
    ledger.bump_each(connection, {row: mj for row, mj in joules.items() if mj})
    ledger.bump_each(
        connection, {(CARBON if mg > 0 else CARBON_REVISED).row(*labels): abs(mg) for labels, mg in grams.items() if mg}
    )


def note_saving(connection: Connection, saved_g: float) -> None:
    """What a batch saved against being run at once; or what it cost more."""
    counter = CARBON_AVOIDED if saved_g >= 0 else CARBON_ADDED
    ledger.bump(connection, counter, by=round(abs(saved_g) * counter.per))


def note_times(connection: Connection, batch: Mapping[str, Any], work: Iterable[Mapping[str, Any]], ended_at: datetime) -> None:
    """How long a batch waited and ran. Nothing of one without any work."""
    began = min((row["started_at"] for row in work), default=None)
    if began is not None:
        _observe(connection, BATCH_WAIT, (began - batch["created_at"]).total_seconds())
        _observe(connection, BATCH_RUN, (ended_at - began).total_seconds())


def _observe(connection: Connection, histogram: exposed.Metric, seconds: float) -> None:
    seconds = max(0.0, seconds)
    bucket = next((str(most) for most in histogram.bounds if seconds <= most), _ABOVE)
    ledger.bump_each(connection, {f"{histogram.name}:{bucket}": 1, f"{histogram.name}:{_SUM}": math.ceil(seconds)})


def lasting(counters: Mapping[str, int]) -> list[Metric]:
    """All of them for the exposition; one that only another version knows by its name alone."""
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    families: dict[str, CounterMetricFamily] = {}
    for counter, value in counters.items():
        name, _, rest = counter.partition(":")
        metric = _BY_NAME.get(name) or exposed.Metric(name, "counter", name.replace("_", " "), ("kind",) if rest else ())
        if metric.kind != "counter":
            continue
        values = rest.rsplit(":", len(metric.labels) - 1) if rest else []
        family = CounterMetricFamily(metric.full.removesuffix("_total"), metric.help, labels=metric.labels)
        families.setdefault(name, family).add_metric(values, value / metric.per)
    found: list[Metric] = list(families.values())
    for metric in (BATCH_WAIT, BATCH_RUN):
        if (total := counters.get(f"{metric.name}:{_SUM}")) is not None:
            histogram = HistogramMetricFamily(metric.full, metric.help)
            histogram.add_metric([], _cumulative(metric, counters), total)
            found.append(histogram)
    return [*found, *asked_metrics(counters)]


def _cumulative(metric: exposed.Metric, counters: Mapping[str, int]) -> list[tuple[str, float]]:
    buckets = [*map(str, metric.bounds), _ABOVE]
    counts = accumulate(counters.get(f"{metric.name}:{bucket}", 0) for bucket in buckets)
    return [(bucket if bucket == _ABOVE else str(float(bucket)), count) for bucket, count in zip(buckets, counts, strict=True)]
