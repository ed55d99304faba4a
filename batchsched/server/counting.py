"""Counters and histograms that outlive restarts: what is counted when a batch's books are written, and how they are exposed.

In the database each is a row of whole numbers, named `<metric>:<labels>`. Amounts are kept in thousandths, a histogram as one row
a bucket and one for the sum.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from batchsched.carbon.books import Posting
from batchsched.queue import ledger
from batchsched.server.asked import asked_metrics, is_asked

if TYPE_CHECKING:
    from prometheus_client import Metric

LABELS = {
    "batches_ended_total": ("state",),
    "energy_joules_total": ("pool", "method"),
    "carbon_grams_total": ("zone", "method"),
    "carbon_revised_grams_total": ("zone", "method"),
}
"""Of counters with other labels than `kind`."""
THOUSANDTHS = frozenset(
    {
        "energy_joules_total",
        "carbon_grams_total",
        "carbon_revised_grams_total",
        "carbon_avoided_grams_total",
        "carbon_added_grams_total",
    }
)
BUCKETS_S = (60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 24 * 3600, 48 * 3600, 96 * 3600)
HISTOGRAMS = {
    "batch_wait_seconds": "From a batch's creation to its first work.",
    "batch_run_seconds": "From a batch's first work to its end.",
}


def note_books(connection: Connection, news: Sequence[Posting]) -> None:
    """What entries of the books add. What a revision takes away counts apart, for a counter only grows."""
    joules, grams = Counter[str](), Counter[str]()
    for entry in news:
        joules[f"{entry.pool}:{entry.energy_source}"] += max(0, round(entry.energy_j * 1000))
        grams[f"{entry.zone}:{entry.energy_source}"] += round((entry.grams or 0.0) * 1000)
    for key, mj in sorted(joules.items()):
        if mj:
            ledger.bump(connection, f"energy_joules_total:{key}", mj)
    for key, mg in sorted(grams.items()):
        if mg > 0:
            ledger.bump(connection, f"carbon_grams_total:{key}", mg)
        elif mg < 0:
            ledger.bump(connection, f"carbon_revised_grams_total:{key}", -mg)


def note_saving(connection: Connection, saved_g: float) -> None:
    """What a batch saved against being run at once; or what it cost more."""
    mg = round(abs(saved_g) * 1000)
    if saved_g >= 0:
        ledger.bump(connection, "carbon_avoided_grams_total", mg)
    else:
        ledger.bump(connection, "carbon_added_grams_total", mg)


def note_times(connection: Connection, batch: Mapping[str, Any], work: Iterable[Mapping[str, Any]], ended_at: datetime) -> None:
    """How long a batch waited and ran. Nothing of one without any work."""
    began = min((row["started_at"] for row in work), default=None)
    if began is not None:
        _observe(connection, "batch_wait_seconds", (began - batch["created_at"]).total_seconds())
        _observe(connection, "batch_run_seconds", (ended_at - began).total_seconds())


def _observe(connection: Connection, name: str, seconds: float) -> None:
    seconds = max(0.0, seconds)
    bucket = next((str(most) for most in BUCKETS_S if seconds <= most), "+Inf")
    ledger.bump(connection, f"{name}:{bucket}")
    ledger.bump(connection, f"{name}:sum", math.ceil(seconds))


def lasting(counters: Mapping[str, int]) -> list[Metric]:
    """All of them for the exposition."""
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    families: dict[str, CounterMetricFamily] = {}
    for counter, value in counters.items():
        name, _, rest = counter.partition(":")
        if name in HISTOGRAMS or is_asked(counter):
            continue
        labels = LABELS.get(name, ("kind",)) if rest else ()
        values = rest.rsplit(":", len(labels) - 1) if rest else []
        family = CounterMetricFamily(f"batchsched_{name.removesuffix('_total')}", name.replace("_", " "), labels=labels)
        families.setdefault(name, family).add_metric(values, value / 1000 if name in THOUSANDTHS else value)
    found: list[Metric] = list(families.values())
    for name, text in HISTOGRAMS.items():
        if f"{name}:sum" in counters:
            histogram = HistogramMetricFamily(f"batchsched_{name}", text)
            histogram.add_metric([], _cumulative(name, counters), counters[f"{name}:sum"])
            found.append(histogram)
    return [*found, *asked_metrics(counters)]


def _cumulative(name: str, counters: Mapping[str, int]) -> list[tuple[str, float]]:
    total, found = 0, list[tuple[str, float]]()
    for most in [*map(str, BUCKETS_S), "+Inf"]:
        total += counters.get(f"{name}:{most}", 0)
        found.append((f"{float(most)}" if most != "+Inf" else most, total))
    return found
