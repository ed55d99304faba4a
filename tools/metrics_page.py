"""docs/metrics.md: what `GET /metrics` shows, from the declarations in batchsched/exposed.py and batchsched/operations.py."""

from __future__ import annotations

from collections.abc import Sequence

from batchsched.exposed import BUCKETS_S, CONVENTIONS, OURS, Metric
from batchsched.operations import ATTRIBUTES, HISTOGRAMS, Histogram

_TIMES = {2: "twice", 4: "four times"}
_FIRST = """`GET /metrics` answers in Prometheus' text format. Counters are kept in the database, so a restart loses none; one
that has never counted anything is not shown. [Watch it](deploy/watch.md) has a board and alert rules. No metric has a label
for a batch or a tenant.

Energy and grams count when the books of an ended batch are written, and again when a grid's figures come or are revised. What
a revision takes away counts in `carbon_revised_grams_total`, to be subtracted, for a counter only grows.
"""
_OF_ENGINES = """## Of the engines' requests

Two histograms, by the names and buckets of OpenTelemetry's semantic conventions. One operation is one request to an engine,
with its answer or its error; a line that is asked again is two. What the worker itself broke off, to make room for online
users or at the close of a window, is none.

Workers are not scraped: they tell the server with their heartbeats, each request once, and `GET /metrics` has all of them, of
all pools, as sums that outlive restarts. What a worker that was killed had not told yet is missing, and so, during an upgrade,
are requests of workers of a version that does not tell. The names there are those that OpenTelemetry's rules for Prometheus
make of the conventions' (a dot becomes an underscore); the engine's address is left out.
"""
_OF_OTLP = """With `metrics.endpoint` set ([watch it](deploy/watch.md#metrics-of-the-engines-requests)) each worker sends the
same to a collector by OTLP as well:
"""


def page(note: str) -> str:
    """The page."""
    ours = [[_named(each), each.kind, each.meaning] for each in OURS]
    conventions = [[f"`{each.full}`", each.kind, each.meaning] for each in CONVENTIONS]
    attributes = [[f"`{name}`", meaning] for name, meaning in ATTRIBUTES.items()]
    parts = [
        "# Metrics\n",
        note,
        _FIRST,
        _table(["metric", "kind", "what it says"], ours),
        f"The histograms' buckets end at {', '.join(map(str, BUCKETS_S[:-1]))} and {BUCKETS_S[-1]} seconds.\n",
        _OF_ENGINES,
        _table(["metric", "kind", "what it says"], conventions),
        _labels(),
        _OF_OTLP,
        _table(["metric", "unit", "what it says", "buckets"], [_told(each) for each in HISTOGRAMS]),
        _table(["attribute", "what it says"], attributes),
    ]
    return "\n".join(parts)


def _labels() -> str:
    """Those that all of the conventions' have."""
    pool, *others = (f"`{each}`" for each in CONVENTIONS[0].labels if all(each in one.labels for one in CONVENTIONS))
    named = f"{', '.join(others[:-1])} and {others[-1]}"
    return f"Both have the worker's pool as {pool}, and these labels, which say what the attributes below do:\n{named}.\n"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "".join(f"| {' | '.join(row)} |\n" for row in [headings, ["---"] * len(headings), *rows])


def _named(metric: Metric) -> str:
    """Its name with its labels."""
    return f"`{metric.full}{{{','.join(metric.labels)}}}`" if metric.labels else f"`{metric.full}`"


def _told(histogram: Histogram) -> list[str]:
    """One histogram of OTLP as a row."""
    first, second, *_, last = histogram.bounds
    times = _TIMES[round(second / first)]
    buckets = f"{first}, {second}, and so on to {last}, each {times} the one before"
    return [f"`{histogram.name}`", histogram.unit, histogram.meaning, buckets]
