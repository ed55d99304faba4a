"""Recurring jobs: typed results, and the calls that make and change them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict
from urllib.parse import quote

import msgspec

from batchsched.client.calls import Call, OnDeadline, asked, listed, only_seen, whole
from batchsched.paths import PREFIX

_ROUTE = f"{PREFIX}/schedules"
_OWN = ("timezone", "endpoint", "missed", "overlap")


class Schedule(msgspec.Struct, frozen=True):
    """A job that recurs. `next_at`: when it is due next, None while it is paused; `next_local`: on its own clock. `made_by`: the
    key that made it or resumed it last. `trouble`: why nothing comes of it as things stand, if so."""

    id: str
    cron: str
    timezone: str
    file: str
    endpoint: str
    missed: str
    overlap: bool = False
    batchsched: dict[str, Any] = {}
    """What its batches ask for: the deadline and more."""
    paused_at: datetime | None = None
    next_at: datetime | None = None
    next_local: str | None = None
    made_by: str | None = None
    trouble: str | None = None
    everything: dict[str, Any] = {}
    """The server's answer as it came."""


class Release(msgspec.Struct, frozen=True):
    """What came of a time that a job was due, or of one file of it. `state`: submitted, skipped or failed, `note` says why."""

    due_at: datetime
    at: datetime
    state: str
    file: str | None = None
    batch_id: str | None = None
    batch_status: str | None = None
    requests_completed: int | None = None
    requests_failed: int | None = None
    grams: float | None = None
    """None where they are not known."""
    note: str | None = None


class ScheduleOptions(TypedDict, total=False):
    """What may be said about a recurring job beside its cron line and file; all but the deadline optional.

    `deadline`: a duration such as `10h`, from the moment that the batch is made. `missed`: what is done about times that nobody
    was there for: `once` for all of them (the default), `all`, or `skip`. `overlap`: begin although the batch of an earlier time
    is not done. The others are as with batches.
    """

    deadline: str
    timezone: str | None
    endpoint: str | None
    missed: Literal["once", "all", "skip"] | None
    overlap: bool | None
    confidence: float | None
    models: Sequence[str] | None
    sites: Sequence[str] | None
    zones: Sequence[str] | None
    on_deadline: OnDeadline | None
    uniform: bool | None
    priority: int | None


def every() -> Call[tuple[Schedule, ...]]:
    return Call("GET", _ROUTE, listed(Schedule))


def one(name: str) -> Call[Schedule]:
    return Call("GET", _path(name), whole(Schedule))


def add(name: str, cron: str, file: str, options: ScheduleOptions, *, dry_run: bool) -> Call[Schedule]:
    given = asked(**options)
    own = {key: given.pop(key) for key in _OWN if key in given}
    body = {"name": name, "cron": cron, "file": file, **own, "batchsched": msgspec.to_builtins(given)}
    return Call("POST", _ROUTE, whole(Schedule), {"json": body, **only_seen(dry_run)})


def remove(name: str, *, dry_run: bool) -> Call[None]:
    return Call("DELETE", _path(name), lambda _: None, only_seen(dry_run))


def change(name: str, how: Literal["pause", "resume"], *, dry_run: bool) -> Call[Schedule]:
    return Call("POST", f"{_path(name)}/{how}", whole(Schedule), only_seen(dry_run))


def history(name: str, limit: int) -> Call[tuple[Release, ...]]:
    return Call("GET", f"{_path(name)}/history", listed(Release), {"params": {"limit": str(limit)}})


def _path(name: str) -> str:
    return f"{_ROUTE}/{quote(name, safe='')}"
