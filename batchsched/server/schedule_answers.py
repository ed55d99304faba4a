"""What the routes about recurring jobs give and take, as types."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from batchsched.fleet import WINDOW_NAME
from batchsched.lines import ENDPOINTS
from batchsched.server.options import Options

Missed = Literal["once", "all", "skip"]


class _Exact(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An object of which every field is named."""


class NewSchedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A job that is to recur. `file`: a path below the server's folder of inputs, in which `{date}` and `{time}` stand for when
    it is due; or with wildcards, or a folder: then what is new in it. `batchsched`: as a batch has it, with a
    duration as deadline. `missed`: what is done about times that nobody was there for. `overlap`: begin although the batch of an
    earlier time is not done."""

    name: Annotated[str, Meta(pattern=f"^{WINDOW_NAME}$")]
    cron: Annotated[str, Meta(max_length=500)]
    timezone: Annotated[str, Meta(max_length=100)] = "UTC"
    file: Annotated[str, Meta(max_length=500)]
    endpoint: Literal[ENDPOINTS] = "/v1/chat/completions"  # type: ignore[valid-type]
    batchsched: Options
    missed: Missed = "once"
    overlap: bool = False


class Schedule(_Exact):
    """A job that recurs, and when it is due next, in UTC and on its own clock; null while it is paused. `made_by`: the key that
    made it or resumed it last, `local` or `static` where that was none. `trouble`: why nothing comes of it as things stand, if
    so."""

    object: Literal["batchsched.schedule"]
    id: str
    cron: str
    timezone: str
    file: str
    endpoint: str
    batchsched: dict[str, Any]
    missed: Missed
    overlap: bool
    created_at: datetime
    made_by: str | None
    paused_at: datetime | None
    next_at: datetime | None
    next_local: str | None
    trouble: str | None


class ScheduleList(_Exact):
    """All of them."""

    object: Literal["list"]
    data: list[Schedule]


class Release(_Exact):
    """What came of a time that a job was due, or of one file of it, and how the batch stands; grams are null where they are not
    known."""

    object: Literal["batchsched.release"]
    due_at: datetime
    at: datetime
    state: Literal["submitted", "skipped", "failed"]
    file: str | None
    batch_id: str | None
    batch_status: str | None
    requests_completed: int | None
    requests_failed: int | None
    grams: float | None
    note: str | None


class Releases(_Exact):
    """The newest first."""

    object: Literal["list"]
    data: list[Release]
