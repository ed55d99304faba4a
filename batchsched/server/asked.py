"""What engines were asked, as workers tell it: histograms of OpenTelemetry's conventions (operations.py), kept as counters.

Their names here are those that OpenTelemetry's rules for Prometheus make of them: dots become underscores, the unit is appended
where it is one, and `{token}` is none. A counter's name is the histogram's, then the labels' values, each quoted, then the
bucket.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from sqlalchemy import Connection

from batchsched.operations import DURATION_BOUNDS_S, TOKEN_BOUNDS
from batchsched.queue import ledger
from batchsched.wire import Spent

if TYPE_CHECKING:
    from prometheus_client import Metric

DURATION = "gen_ai_client_operation_duration_seconds"
TOKENS = "gen_ai_client_token_usage"
_ABOUT = ("batchsched_pool", "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "error_type")
_LABELS = {DURATION: _ABOUT, TOKENS: (*_ABOUT, "gen_ai_token_type")}
_BOUNDS: dict[str, Sequence[float]] = {DURATION: DURATION_BOUNDS_S, TOKENS: TOKEN_BOUNDS}
_TEXTS = {
    DURATION: "From sending a request to an engine to the end of its answer.",
    TOKENS: "Tokens of a request that an engine answered.",
}
_SUM = "sum"
_SUM_IN = {DURATION: 1000, TOKENS: 1}
"""Counters are whole numbers: seconds are kept in thousandths."""


def note_asked(connection: Connection, news: Iterable[tuple[str, Spent]]) -> None:
    """Count what workers tell for the first time, by their pools."""
    more = Counter[str]()
    for pool, spent in news:
        for part in spent.asked:
            about = pool, part.name, part.provider, part.model, part.problem
            _count(more, DURATION, about, part.took, part.took_s)
            _count(more, TOKENS, (*about, "input"), part.read, part.read_tokens)
            _count(more, TOKENS, (*about, "output"), part.written, part.written_tokens)
    ledger.bump_each(connection, more)


def _count(more: Counter[str], name: str, about: Sequence[str], counts: Sequence[int], total: float) -> None:
    """Nothing of a worker whose buckets are others."""
    if len(counts) != len(_BOUNDS[name]) + 1 or not any(count > 0 for count in counts):
        return
    key = ":".join([name, *(quote(value, safe="") for value in about)])
    for bucket, count in enumerate(counts):
        if count > 0:
            more[f"{key}:{bucket}"] += count
    more[f"{key}:{_SUM}"] += round(max(0.0, total) * _SUM_IN[name])


def is_asked(counter: str) -> bool:
    """Is a lasting counter one of these?"""
    return counter.partition(":")[0] in _LABELS


def asked_metrics(counters: Mapping[str, int]) -> list[Metric]:
    """The two histograms for the exposition; none that has never counted anything."""
    from prometheus_client.core import HistogramMetricFamily

    found: defaultdict[tuple[str, ...], dict[str, int]] = defaultdict(dict)
    for counter, value in counters.items():
        if is_asked(counter):
            *key, bucket = counter.split(":")
            found[tuple(key)][bucket] = value
    families = {
        name: HistogramMetricFamily(name, _TEXTS[name], labels=_LABELS[name]) for name in sorted({key[0] for key in found})
    }
    for (name, *about), buckets in sorted(found.items()):
        bounds = [*map(float, _BOUNDS[name]), math.inf]
        counts = accumulate(buckets.get(str(bucket), 0) for bucket in range(len(bounds)))
        cumulative = [("+Inf" if most == math.inf else str(most), count) for most, count in zip(bounds, counts, strict=True)]
        families[name].add_metric([unquote(value) for value in about], cumulative, buckets.get(_SUM, 0) / _SUM_IN[name])
    return list(families.values())
