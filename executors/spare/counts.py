"""What a vLLM server says of itself under /metrics, as far as a governor needs it.

The page has some 500 lines (51 kB on 0.32); only those that matter are looked at. Names that changed between versions stand
side by side, the newest first. Servers with several engines or models say each figure once a label set: added up here, save
for the share of KV space, of which the fullest counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from batchsched.executors.spare.histogram import Histogram

_NAMES: dict[str, tuple[str, ...]] = {
    "running": ("vllm:num_requests_running",),
    "waiting": ("vllm:num_requests_waiting",),
    "preemptions": ("vllm:num_preemptions_total",),
    "prompt_tokens": ("vllm:prompt_tokens_total",),
    "cached_tokens": ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
    "written_tokens": ("vllm:generation_tokens_total",),
    "finished": ("vllm:request_success_total",),
    "steps": ("vllm:iteration_tokens_total_count",),
}
_KV_USED = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
_FIRST_TOKEN = "vllm:time_to_first_token_seconds"  # noqa: S105 - no password
_SEVERAL = 10
_EACH_TOKEN = ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds")


class Counts(msgspec.Struct, frozen=True):
    """One reading. Of counters, what they stood at: differences of two readings are what happened between."""

    at_s: float
    """When it was asked for, on the reader's monotonic clock."""
    running: float = 0.0
    waiting: float = 0.0
    kv_used: float = 0.0
    """Share of the KV space, 0 to 1."""
    preemptions: float = 0.0
    prompt_tokens: float = 0.0
    """Those out of the prefix cache included."""
    cached_tokens: float = 0.0
    written_tokens: float = 0.0
    finished: float = 0.0
    steps: float | None = None
    """Of the engine's loop; None where it does not count them."""
    first_token: Histogram = Histogram()
    """Seconds from a request's arrival to its first token."""
    each_token: Histogram = Histogram()
    """Seconds from one token of a request to its next."""

    @property
    def only_reads(self) -> bool:
        """Has it answered several requests and never written a further token, as servers of embeddings do? vLLM counts the answer
        to one of those as its first token (0.32)."""
        answered = self.first_token.count
        return answered >= _SEVERAL and self.each_token.count == 0 and self.written_tokens <= answered

    def follows(self, earlier: Counts) -> bool:
        """Is it of the same life of the server? Counters only grow; one that fell is that of a server that began anew."""
        return (
            self.written_tokens >= earlier.written_tokens
            and self.prompt_tokens >= earlier.prompt_tokens
            and self.finished >= earlier.finished
            and self.first_token.count >= earlier.first_token.count
        )


def read_counts(page: str, at_s: float) -> Counts | None:
    """What a page says; None where it is no vLLM's, or is cut off so early that nothing of it can be believed."""
    figures: dict[str, float] = {}
    buckets: dict[str, dict[float, float]] = {}
    kv_used = 0.0
    for name, labels, value in _samples(page):
        if name in _KV_USED:
            kv_used = max(kv_used, value)
        elif name.endswith("_bucket"):
            bound = _bound(labels)
            if bound is not None:
                each = buckets.setdefault(name.removesuffix("_bucket"), {})
                each[bound] = each.get(bound, 0.0) + value
        else:
            figures[name] = figures.get(name, 0.0) + value
    told = {field: found for field, names in _NAMES.items() if (found := _first(figures, names)) is not None}
    if "running" not in told or "written_tokens" not in told:
        return None
    return Counts(
        at_s,
        kv_used=kv_used,
        first_token=_histogram(buckets, figures, (_FIRST_TOKEN,)),
        each_token=_histogram(buckets, figures, _EACH_TOKEN),
        **told,
    )


_WANTED = tuple(
    {
        *(name for names in _NAMES.values() for name in names),
        *_KV_USED,
        *(f"{name}_{part}" for name in (_FIRST_TOKEN, *_EACH_TOKEN) for part in ("bucket", "sum", "count")),
    }
)


def _samples(page: str) -> Iterable[tuple[str, str, float]]:
    for line in page.splitlines():
        if not line.startswith(_WANTED):
            continue
        head, _, value = line.rpartition(" ")
        name, _, labels = head.partition("{")
        try:
            yield name, labels, float(value)
        except ValueError:
            continue  # a line that was cut off


def _bound(labels: str) -> float | None:
    _, found, rest = labels.partition('le="')
    try:
        bound = float(rest.partition('"')[0]) if found else math.inf
    except ValueError:
        return None
    return bound if math.isfinite(bound) else None


def _first(figures: dict[str, float], names: Iterable[str]) -> float | None:
    return next((figures[name] for name in names if name in figures), None)


def _histogram(buckets: dict[str, dict[float, float]], figures: dict[str, float], names: tuple[str, ...]) -> Histogram:
    for name in names:
        if f"{name}_count" in figures:
            bounds = tuple(sorted(buckets.get(name, {})))
            at_most = tuple(buckets[name][bound] for bound in bounds)
            return Histogram(bounds, at_most, figures[f"{name}_count"], figures.get(f"{name}_sum", 0.0))
    return Histogram()
