"""What engines were asked, as workers tell it: histograms of OpenTelemetry's conventions (operations.py), kept as counters.

A counter's name is the histogram's (exposed.py), then the labels' values, each quoted, then the bucket.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from sqlalchemy import Connection

from batchsched.exposed import CONVENTIONS, OPERATION_DURATION, TOKEN_USAGE, Metric
from batchsched.queue import ledger
from batchsched.wire import Spent

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

_BY_NAME = {metric.name: metric for metric in CONVENTIONS}
_SUM = "sum"


def note_asked(connection: Connection, news: Iterable[tuple[str, Spent]]) -> None:
    """Count what workers tell for the first time, by their pools."""
    more = Counter[str]()
    for pool, spent in news:
        for part in spent.asked:
            about = pool, part.name, part.provider, part.model, part.problem
            _count(more, OPERATION_DURATION, about, part.took, part.took_s)
            _count(more, TOKEN_USAGE, (*about, "input"), part.read, part.read_tokens)
            _count(more, TOKEN_USAGE, (*about, "output"), part.written, part.written_tokens)
    ledger.bump_each(connection, more)


def _count(more: Counter[str], metric: Metric, about: Sequence[str], counts: Sequence[int], total: float) -> None:
    """Nothing of a worker whose buckets are others."""
    if len(counts) != len(metric.bounds) + 1 or not any(count > 0 for count in counts):
        return
    key = metric.row(*(quote(value, safe="") for value in about))
    for bucket, count in enumerate(counts):
        if count > 0:
            more[f"{key}:{bucket}"] += count
    more[f"{key}:{_SUM}"] += round(max(0.0, total) * metric.per)


def asked_metrics(counters: Mapping[str, int]) -> list[Family]:
    """The two histograms for the exposition; none that has never counted anything."""
    from prometheus_client.core import HistogramMetricFamily

    found: defaultdict[tuple[str, ...], dict[str, int]] = defaultdict(dict)
    for counter, value in counters.items():
        if counter.partition(":")[0] in _BY_NAME:
            *key, bucket = counter.split(":")
            found[tuple(key)][bucket] = value
    families = {
        name: HistogramMetricFamily(metric.full, metric.help, labels=metric.labels)
        for name, metric in _BY_NAME.items()
        if any(key[0] == name for key in found)
    }
    for (name, *about), buckets in sorted(found.items()):
        bounds = [*map(float, _BY_NAME[name].bounds), math.inf]
        counts = accumulate(buckets.get(str(bucket), 0) for bucket in range(len(bounds)))
        cumulative = [("+Inf" if most == math.inf else str(most), count) for most, count in zip(bounds, counts, strict=True)]
        families[name].add_metric([unquote(value) for value in about], cumulative, buckets.get(_SUM, 0) / _BY_NAME[name].per)
    return list(families.values())
