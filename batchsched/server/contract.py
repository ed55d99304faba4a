"""What our routes take and give, as types: the published document (/openapi.json) is made from them, by openapi.py.

One line a route in CONTRACT; the schemas come from the types by msgspec, those of the workers' messages from wire.py. Paths and
parameters come from the routes themselves.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from batchsched import wire
from batchsched.carbon.books import Posting
from batchsched.carbon.report import Report
from batchsched.carbon.slices import Slice
from batchsched.forecasts.figures import Trained
from batchsched.lines import ENDPOINTS
from batchsched.server.breakdown import PoolEnergy
from batchsched.server.forecast_answers import IMPORT, Backfill, BackfillSpan, Evaluation, Forecast, ForecastFeeds, Imported
from batchsched.server.key_answers import AuditEntry, CreatedKey, Key
from batchsched.server.keys import NewKey
from batchsched.server.options import EXPIRES_S, MAX_METADATA, Change, Options, Retry
from batchsched.server.plan_answers import Close, Freeze, OpenedPool, Plan, Pool, Pools, Replayed, Shifting, WhatIf
from batchsched.server.profile_answers import Profiles
from batchsched.server.schedule_answers import NewSchedule, Releases, Schedule, ScheduleList
from batchsched.server.uploads import PURPOSES
from batchsched.server.window_answers import Extend, NewWindow, Pause, Skip, WindowList, WindowStatus
from batchsched.wire import PREFIX

T = TypeVar("T")
Id = str
Unix = Annotated[int, Meta(description="Unix seconds")]
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=MAX_METADATA)
]
BINARY, LINES = "application/octet-stream", "application/jsonl"


class _Exact(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An object of which every field is named."""


# What is asked.


class ChangeBatch(Change, frozen=True):
    """What may be changed about a batch that has not ended."""

    metadata: Metadata | None = None


class Expiry(msgspec.Struct):
    """When a file expires."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=EXPIRES_S[0], le=EXPIRES_S[1])]


class CreateBatch(msgspec.Struct, kw_only=True):
    """A new batch: OpenAI's fields, and ours under one key."""

    input_file_id: Id
    endpoint: Literal[ENDPOINTS]  # type: ignore[valid-type]
    completion_window: Annotated[str, Meta(description="A duration such as 24h, 90m or 1d12h")]
    metadata: Metadata | None = None
    output_expires_after: Expiry | None = None
    batchsched: Options | None = None


# What is answered.


class ErrorDetail(_Exact):
    """What is wrong, and what to do about it."""

    message: str
    type: str
    param: str | None
    code: str
    hint: str | None


class Error(_Exact):
    """Every answer of 400 and above."""

    error: ErrorDetail


class File(_Exact):
    """A file."""

    id: Id
    object: Literal["file"]
    bytes: int
    created_at: Unix
    expires_at: Unix | None
    filename: str
    purpose: str
    status: Literal["uploaded", "processed", "error"]
    status_details: str | None


class Deleted(_Exact):
    """A file, a batch, a window or a schedule that was deleted."""

    id: Id
    object: Literal["file", "batch", "batchsched.window", "batchsched.schedule"]
    deleted: bool


class BatchError(_Exact):
    """What is wrong with the input; `line` counts from 1."""

    code: str
    message: str
    param: str | None
    line: int | None


class BatchErrors(_Exact):
    """Why a batch failed its validation."""

    object: Literal["list"]
    data: list[BatchError]


class RequestCounts(_Exact):
    """Lines of a batch."""

    total: int
    completed: int
    failed: int


class CachedTokens(_Exact):
    """Input tokens that the engine had computed before."""

    cached_tokens: int


class ReasoningTokens(_Exact):
    """Output tokens that were not shown."""

    reasoning_tokens: int


class Usage(_Exact):
    """Tokens of a batch so far."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class Option(_Exact):
    """One thing that would make the deadline hold, and how probably; what its kind does not need is null."""

    kind: Literal["deadline", "sites", "zones", "model", "pool"]
    probability: float
    deadline_at: datetime | None
    sites: list[str] | None
    model: str | None
    pool: str | None
    replicas: int | None
    zones: list[str] | None = None


class Verdict(_Exact):
    """Can the deadline be kept, and at what carbon; where it cannot, what would make it so."""

    feasible: bool
    probability: float
    expected_finish_at: datetime | None
    expected_grams: float | None
    expected_grams_run_now: float | None
    reason: str
    options: list[Option]


class Risk(_Exact):
    """Since when and how far a promised deadline is in doubt, as it was judged then, and what would mend it."""

    since: datetime
    probability: float
    deadline_at: datetime
    expected_finish_at: datetime | None
    reason: str
    options: list[Option]


class Started(_Exact):
    """Told to start now: since when, and when by the plan of that moment it would have started; null where it had none."""

    since: datetime
    planned_at: datetime | None


class Progress(_Exact):
    """How far a batch is, and what it waits for."""

    requests_done: int
    requests_total: int
    input_tokens: int
    output_tokens: int
    tokens_per_s: float | None
    state: Literal["done", "running", "paused", "waiting"]
    waiting_for: str | None
    waiting_until: datetime | None
    stalled: bool
    running_on: list[str]
    latest_safe_start_at: datetime | None
    expected_finish_at: datetime | None


class Band(_Exact):
    """Low, middle and high of a figure on which sources differ."""

    low: float
    mid: float
    high: float


class Carbon(_Exact):
    """Energy, and grams of CO2e, so far; null where unknown. `grams` are without `unknown_energy_j`, whose intensity nobody knows
    yet, and without `unmeasured_s` of work that nothing measured."""

    energy_j: float
    energy_sources: dict[str, float]
    grams: float | None
    grams_run_now: float | None
    unknown_energy_j: float
    unmeasured_s: float
    embodied_g: Band | None
    simulated: bool


class Additions(_Exact):
    """What batchsched adds to OpenAI's batch."""

    confidence: float | None
    models: list[str] | None
    sites: list[str] | None
    zones: list[str] | None
    on_deadline: Literal["expire", "finish"]
    require_feasible: bool
    uniform: bool
    priority: int
    deadline_at: datetime
    paused_at: datetime | None
    started: Started | None
    erased_at: datetime | None
    round: int
    verdict: Verdict | None
    risk: Risk | None
    progress: Progress
    carbon: Carbon | None


class Batch(_Exact):
    """A batch: OpenAI's object, with our additions under one key."""

    id: Id
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: Id
    completion_window: str
    status: Literal["validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"]
    output_file_id: Id | None
    error_file_id: Id | None
    created_at: Unix
    expires_at: Unix
    in_progress_at: Unix | None
    finalizing_at: Unix | None
    completed_at: Unix | None
    failed_at: Unix | None
    expired_at: Unix | None
    cancelling_at: Unix | None
    cancelled_at: Unix | None
    request_counts: RequestCounts
    usage: Usage
    metadata: dict[str, str]
    batchsched: Additions


class Model(_Exact):
    """A model that batches may name."""

    id: Id
    object: Literal["model"]
    created: Unix
    owned_by: str


class Models(_Exact):
    """All of them."""

    object: Literal["list"]
    data: list[Model]


class Page(_Exact, Generic[T]):
    """A part of a list; the next begins after `last_id`."""

    object: Literal["list"]
    data: list[T]
    first_id: str | int | None
    last_id: str | int | None
    has_more: bool


class Explanation(_Exact):
    """Why a batch runs when and where it does."""

    batch_id: Id
    sentences: list[str]


class BatchReport(Report, frozen=True, kw_only=True):
    """What a batch cost; `batch_id` is null in a total."""

    batch_id: Id | None


class BookEntry(Posting, frozen=True, kw_only=True):
    """One entry, and when it was made."""

    posted_at: datetime


class Books(_Exact):
    """The books of a batch, and what they add up to; `grams` are without `unknown_energy_j`."""

    batch_id: Id
    energy_j: float
    grams: float | None
    unknown_energy_j: float
    entries: list[BookEntry]


class Slices(_Exact):
    """Slices of what work cost."""

    object: Literal["list"]
    by: Literal["batch", "tenant", "pool", "site", "chunk"]
    data: list[Slice]
    notes: list[str]


class Meters(_Exact):
    """What the meters of each pool saw."""

    object: Literal["list"]
    data: list[PoolEnergy]


class Health(_Exact):
    """The server answers."""

    status: Literal["ok"]


class Version(_Exact):
    """Which batchsched this is."""

    version: str


class Nothing(_Exact):
    """Done."""


_UPLOAD = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "contentMediaType": BINARY},
        "purpose": {"type": "string", "enum": list(PURPOSES)},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": EXPIRES_S[0], "maximum": EXPIRES_S[1]},
    },
}


class Route(NamedTuple):
    """What one route gives (a type, or media types), what it takes (a type, or a form), and how else it may answer."""

    answer: Any
    body: Any = None
    errors: tuple[int, ...] = ()
    headers: tuple[str, ...] = ()
    """What stands in the head of a good answer beside the usual."""


_CHANGES = (404, 409, 507)
"""Answers that say when to try again."""
CONTRACT: dict[str, Route] = {
    "GET /livez": Route(Health),
    "GET /readyz": Route(Health, None, (503,)),
    "GET /version": Route(Version),
    "GET /metrics": Route(("text/plain",)),
    "GET /v1/models": Route(Models),
    "GET /v1/models/{name:path}": Route(Model, None, (404,)),
    "POST /v1/files": Route(File, _UPLOAD, (413, 415, 429, 507)),
    "GET /v1/files": Route(Page[File], None, (404,)),
    "GET /v1/files/{file_id}": Route(File, None, (404,)),
    "DELETE /v1/files/{file_id}": Route(Deleted, None, _CHANGES),
    "GET /v1/files/{file_id}/content": Route((BINARY,), None, (404,)),
    "POST /v1/batches": Route(Batch, CreateBatch, (409, 429, 507)),
    "GET /v1/batches": Route(Page[Batch], None, (404,)),
    "GET /v1/batches/{batch_id}": Route(Batch, None, (404,)),
    "POST /v1/batches/{batch_id}/cancel": Route(Batch, None, _CHANGES),
    f"POST {PREFIX}/batches/{{batch_id}}": Route(Batch, ChangeBatch, (*_CHANGES, 429)),
    f"DELETE {PREFIX}/batches/{{batch_id}}": Route(Deleted, None, _CHANGES),
    f"POST {PREFIX}/batches/{{batch_id}}/pause": Route(Batch, None, _CHANGES),
    f"POST {PREFIX}/batches/{{batch_id}}/resume": Route(Batch, None, _CHANGES),
    f"POST {PREFIX}/batches/{{batch_id}}/start": Route(Batch, None, _CHANGES),
    f"POST {PREFIX}/batches/{{batch_id}}/retry": Route(Batch, Retry | None, (*_CHANGES, 429)),
    f"GET {PREFIX}/batches/{{batch_id}}/results": Route((LINES,), None, (404,), (wire.CURSOR_HEADER, wire.STATUS_HEADER)),
    f"GET {PREFIX}/batches/{{batch_id}}/explain": Route(Explanation, None, (404,)),
    f"GET {PREFIX}/batches/{{batch_id}}/report": Route(BatchReport, None, (404,)),
    f"GET {PREFIX}/batches/{{batch_id}}/books": Route(Books, None, (404,)),
    f"GET {PREFIX}/batches/{{batch_id}}/plot": Route(("image/svg+xml", "image/png"), None, (404,)),
    f"GET {PREFIX}/batches/{{batch_id}}/report/requests": Route((LINES,), None, (404, 409)),
    f"GET {PREFIX}/report": Route(BatchReport, None, (404,)),
    f"GET {PREFIX}/report/slices": Route(Slices, None, (404,)),
    f"GET {PREFIX}/report/meters": Route(Meters),
    f"GET {PREFIX}/plan": Route(Plan, None, (404,)),
    f"GET {PREFIX}/plan/plot": Route(("image/svg+xml", "image/png"), None, (404,)),
    f"GET {PREFIX}/plan/what-if": Route(WhatIf, None, (404, 409)),
    f"GET {PREFIX}/plan/replay": Route(Replayed, None, (404, 409)),
    f"POST {PREFIX}/plan/freeze": Route(Shifting, Freeze | None, (507,)),
    f"POST {PREFIX}/plan/unfreeze": Route(Shifting, None, (507,)),
    f"GET {PREFIX}/pools": Route(Pools),
    f"POST {PREFIX}/pools/{{pool}}/cordon": Route(Pool, Close | None, (404, 507)),
    f"POST {PREFIX}/pools/{{pool}}/drain": Route(Pool, Close | None, (404, 507)),
    f"POST {PREFIX}/pools/{{pool}}/open": Route(OpenedPool, None, (404, 507)),
    f"GET {PREFIX}/windows": Route(WindowList),
    f"POST {PREFIX}/windows": Route(WindowStatus, NewWindow, _CHANGES),
    f"GET {PREFIX}/windows/{{window}}": Route(WindowStatus, None, (404,)),
    f"DELETE {PREFIX}/windows/{{window}}": Route(Deleted, None, _CHANGES),
    f"POST {PREFIX}/windows/{{window}}/pause": Route(WindowStatus, Pause | None, (404, 507)),
    f"POST {PREFIX}/windows/{{window}}/resume": Route(WindowStatus, None, (404, 507)),
    f"POST {PREFIX}/windows/{{window}}/skip": Route(WindowStatus, Skip | None, _CHANGES),
    f"POST {PREFIX}/windows/{{window}}/extend": Route(WindowStatus, Extend, _CHANGES),
    f"GET {PREFIX}/schedules": Route(ScheduleList),
    f"POST {PREFIX}/schedules": Route(Schedule, NewSchedule, _CHANGES),
    f"GET {PREFIX}/schedules/{{schedule}}": Route(Schedule, None, (404,)),
    f"DELETE {PREFIX}/schedules/{{schedule}}": Route(Deleted, None, _CHANGES),
    f"POST {PREFIX}/schedules/{{schedule}}/pause": Route(Schedule, None, (404, 507)),
    f"POST {PREFIX}/schedules/{{schedule}}/resume": Route(Schedule, None, (404, 507)),
    f"GET {PREFIX}/schedules/{{schedule}}/history": Route(Releases, None, (404,)),
    f"GET {PREFIX}/profiles": Route(Profiles),
    f"GET {PREFIX}/forecasts": Route(ForecastFeeds),
    f"POST {PREFIX}/forecasts/import": Route(Imported, IMPORT, (413, 507)),
    f"GET {PREFIX}/forecasts/{{zone}}": Route(Forecast, None, (404, 409)),
    f"GET {PREFIX}/forecasts/{{zone}}/plot": Route(("image/svg+xml", "image/png"), None, (404, 409)),
    f"POST {PREFIX}/forecasts/{{zone}}/backfill": Route(Backfill, BackfillSpan, _CHANGES),
    f"POST {PREFIX}/forecasts/{{zone}}/train": Route(Trained, None, (404, 507)),
    f"GET {PREFIX}/forecasts/{{zone}}/evaluation": Route(Evaluation, None, (404, 409)),
    f"GET {PREFIX}/forecasts/{{zone}}/evaluation/plot": Route(("image/svg+xml", "image/png"), None, (404, 409)),
    f"POST {PREFIX}/keys": Route(CreatedKey, NewKey, (409, 507)),
    f"GET {PREFIX}/keys": Route(Page[Key], None, (404,)),
    f"POST {PREFIX}/keys/{{key_id}}/revoke": Route(Key, None, _CHANGES),
    f"GET {PREFIX}/audit": Route(Page[AuditEntry]),
    f"POST {PREFIX}/workers": Route(wire.Registered, wire.Register, (404, 507)),
    f"POST {PREFIX}/workers/{{worker_id}}/heartbeat": Route(wire.HeartbeatAnswer, wire.Heartbeat, _CHANGES),
    f"POST {PREFIX}/workers/{{worker_id}}/bye": Route(Nothing, wire.Bye, _CHANGES),
    f"POST {PREFIX}/launchers": Route(wire.Launched, wire.Launching, (404, 507)),
    f"POST {PREFIX}/trials": Route(wire.Acknowledged, wire.Trials, (404, 507)),
    f"GET {PREFIX}/trials": Route(wire.Trials),
    f"POST {PREFIX}/leases": Route(wire.Claimed, wire.Claim, _CHANGES),
    f"GET {PREFIX}/chunks/{{chunk_id}}/input": Route((BINARY,), None, (404, 409)),
    f"POST {PREFIX}/leases/{{chunk_id}}/results": Route(wire.Acknowledged, wire.Results, _CHANGES),
    f"POST {PREFIX}/leases/{{chunk_id}}/finish": Route(Nothing, wire.Finish, _CHANGES),
    f"POST {PREFIX}/leases/{{chunk_id}}/release": Route(Nothing, wire.Release, _CHANGES),
    f"POST {PREFIX}/leases/{{chunk_id}}/fail": Route(Nothing, wire.Fail, _CHANGES),
}
