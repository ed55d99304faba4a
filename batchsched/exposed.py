"""Every metric of `GET /metrics`, declared once: servers expose these, and docs/metrics.md is written from them.

`meaning` is Markdown and begins small; the help text of the exposition is the same words without the links.
"""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

from batchsched.operations import DURATION_BOUNDS_S, TOKEN_BOUNDS
from batchsched.wire import ReleaseReason

PREFIX = "batchsched_"
_SEE = re.compile(r" \(\[[^\]]+\]\([^)]*\)\)")
_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")


class Metric(Struct, frozen=True):
    """One metric. What is counted lies in the database under its name, as whole numbers: `per` of them are one unit.

    `bounds`: of a histogram, the upper bounds of its buckets but the last.
    """

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()
    per: int = 1
    bounds: tuple[float, ...] = ()

    @property
    def conventional(self) -> bool:
        """Is it one of OpenTelemetry's conventions, and so without our prefix?"""
        return self.name.startswith("gen_ai_")

    @property
    def full(self) -> str:
        """Its name at /metrics."""
        return self.name if self.conventional else f"{PREFIX}{self.name}"

    @property
    def help(self) -> str:
        """What /metrics says of it."""
        plain = _LINK.sub(r"\1", _SEE.sub("", self.meaning)).replace("`", "")
        return f"{plain[0].upper()}{plain[1:]}."

    def row(self, *values: str) -> str:
        """The name in the database of what is counted for these labels. Raises ValueError where a label has no value."""
        if len(values) != len(self.labels):
            raise ValueError(f"{self.full} has the labels {self.labels}, not {len(values)}.")
        return ":".join([self.name, *values])


_DECLARED: list[Metric] = []


def _declared(metric: Metric) -> Metric:
    _DECLARED.append(metric)
    return metric


def _gauge(name: str, meaning: str, *labels: str) -> Metric:
    return _declared(Metric(name, "gauge", meaning, labels))


def _counter(name: str, meaning: str, *labels: str, per: int = 1) -> Metric:
    return _declared(Metric(f"{name}_total", "counter", meaning, labels, per))


def _histogram(name: str, meaning: str, bounds: tuple[float, ...], *labels: str, per: int = 1) -> Metric:
    return _declared(Metric(name, "histogram", meaning, labels, per, bounds))


# What is so now.

BATCHES = _gauge("batches", "batches in each state", "state")
BATCHES_AT_RISK = _gauge(
    "batches_at_risk", "batches in progress whose promised deadlines are in doubt ([batches.md](batches.md#at-risk))"
)
BATCHES_OVERDUE = _gauge("batches_overdue", "batches that are not over though their deadline is")
OLDEST_BATCH = _gauge("oldest_batch_seconds", "age of the oldest batch that is not over")
QUEUE_REQUESTS = _gauge(
    "queue_requests", "requests of batches in progress without a result: `pending`, or `leased` to a worker", "state"
)
LEADER = _gauge("leader", "1 for the server that leads")
PLAN_AGE = _gauge("plan_age_seconds", "age of the plan in force; nothing before the first")
WORKERS = _gauge("workers", "workers of a declared pool that gave a sign of life", "pool")
WORKERS_ILL = _gauge("workers_ill", "of these workers, those with [ill GPUs](reused_gpus.md#the-health-of-cards)", "pool")
WORKERS_FAILING = _gauge(
    "workers_failing", "of these workers, those whose [engines do not start](executors.md#an-engine-that-does-not-start)", "pool"
)
CARBON_INTENSITY = _gauge(
    "carbon_intensity_grams_per_kwh", "the carbon intensity of this hour; `forecast`: as plans have it", "zone", "kind"
)
WEBHOOKS_PENDING = _gauge("webhooks_pending", "events that webhooks are still to be told")
PLAN_FROZEN = _gauge("plan_frozen", "1 while nothing is shifted (`plan freeze`), else 0")
POOL_CLOSED = _gauge("pool_closed", "1 for each pool that an operator `cordoned` or `drained`", "pool", "how")
WINDOW_OPEN = _gauge(
    "window_open",
    "1 while a [window](windows.md) is open, 0 while it is closed, paused, or shut for the forecast's sake",
    "window",
    "pool",
)
LAUNCHERS = _gauge(
    "launchers",
    "launchers that were heard of in the last minute ([fleet.md](fleet.md)); a pool whose launchers fell silent shows 0 "
    "for a week",
    "pool",
)
REPLICAS_STARTABLE = _gauge("replicas_startable", "workers that launchers can start at once", "pool")
REPLICAS_WANTED = _gauge("replicas_wanted", "workers that launchers were told to run", "pool")
REPLICAS_RUNNING = _gauge("replicas_running", "live workers that a launcher started", "pool")
REPLICAS_FAILING = _gauge("replicas_failing", "places in which workers died three times in a row or more", "pool")
SPARE_TOKENS = _gauge(
    "spare_tokens_per_second",
    "offline tokens a second that one server of a spare pool is expected to have room for now",
    "pool",
)
SOURCE_FAILING = _gauge("forecast_source_failing", "failures of a source in a row, told by the server that asks it", "source")
FORECAST_AGE = _gauge("forecast_age_seconds", "age of the forecast in force, of zones with sources", "zone", "source")
FORECAST_TRUST = _gauge(
    "forecast_trust",
    "how far the forecast in force is trusted: 1 without a fault, less where its spread was widened, 0 where it only stands in",
    "zone",
    "source",
)
BUILD_INFO = _gauge("build_info", "always 1; the version of the server", "version")

# What was counted.

STALE_COMPLETIONS = _counter("stale_completions", "writes and heartbeats refused because their lease was over")
DUPLICATE_RESULTS = _counter("duplicate_results", "results that came although they were recorded already")
ANSWERS_CUT = _counter(
    "answers_cut",
    "answers that ended because prompt and answer filled the model's context ([batches.md](batches.md#output-lines))",
)
LEASES_EXPIRED = _counter("lease_expired", "leases taken back because no heartbeat came in time")
CHUNK_FAILURES = _counter("chunk_failures", "chunks given back because an engine failed")
BATCHES_WORSENED = _counter("batches_worsened", "times that a promised deadline came into doubt")
SOLVER_FAILURES = _counter(
    "solver_failures",
    "plans that the solver did not give: `died`, `timeout`, `memory`, `error`, `nonsense` (its answer cannot be read) or "
    "`unsafe` (the verifier refused its plan)",
    "kind",
)
REPLANS_ASKED = _counter("replans_asked", "new plans that a server asked of the one that leads")
_WHY: dict[ReleaseReason, str] = {
    "window_closed": "because a window or the plan's share closed",
    "shutdown": "by a worker that was stopped",
    "preempted": "for other work, because their engine died, or to be done in time elsewhere",
    "paused": "because their batch was paused",
    "cancelled": "because their batch was cancelled",
}
RELEASED = {reason: _counter(f"released_{reason}", f"chunks given back {why}") for reason, why in _WHY.items()}
WEBHOOKS_DELIVERED = _counter("webhooks_delivered", "events that a webhook took")
WEBHOOK_FAILURES = _counter("webhook_failures", "tries to deliver an event that failed and are repeated")
WEBHOOKS_GIVEN_UP = _counter("webhooks_given_up", "events that no try could deliver")
SOURCE_FAILURES = _counter(
    "forecast_source_failures", "times that a source of carbon intensity could not be asked, or gave nothing"
)
FORECAST_SWITCHES = _counter("forecast_switches", "times that a zone went over from one source to another")
BATCHES_ENDED = _counter("batches_ended", "batches that came to an end: `completed`, `failed`, `expired`, `cancelled`", "state")
ENERGY = _counter(
    "energy_joules", "energy of ended batches, waste included, as it was metered or modelled", "pool", "method", per=1000
)
CARBON = _counter("carbon_grams", "operational grams of ended batches", "zone", "method", per=1000)
CARBON_REVISED = _counter(
    "carbon_revised_grams", "grams that later figures of the grid took away again", "zone", "method", per=1000
)
CARBON_AVOIDED = _counter(
    "carbon_avoided_grams",
    "grams saved by batches, against being run at once; each counts once all of its grams are known",
    per=1000,
)
CARBON_ADDED = _counter("carbon_added_grams", "grams that batches cost more than they would have if run at once", per=1000)

_MINUTE, _HOUR = 60, 3600
BUCKETS_S = (*(_MINUTE * each for each in (1, 5, 15)), *(_HOUR * each for each in (1, 3, 6, 12, 24, 48, 96)))
BATCH_WAIT = _histogram("batch_wait_seconds", "from a batch's creation to its first work", BUCKETS_S)
BATCH_RUN = _histogram("batch_run_seconds", "from a batch's first work to its end", BUCKETS_S)

# What engines were asked (operations.py), by the names that OpenTelemetry's rules for Prometheus make of the conventions': dots
# become underscores, the unit is appended where it is one, and `{token}` is none.

_ABOUT = ("batchsched_pool", "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "error_type")
OPERATION_DURATION = _histogram(
    "gen_ai_client_operation_duration_seconds",
    "from sending a request to an engine to the end of its answer",
    DURATION_BOUNDS_S,
    *_ABOUT,
    per=1000,
)
TOKEN_USAGE = _histogram(
    "gen_ai_client_token_usage",
    "tokens of a request that an engine answered; `gen_ai_token_type` is `input` or `output`",
    TOKEN_BOUNDS,
    *_ABOUT,
    "gen_ai_token_type",
)

METRICS = tuple(_DECLARED)
"""All of them, in the page's order."""
OURS, CONVENTIONS = (tuple(each for each in METRICS if each.conventional is of) for of in (False, True))
