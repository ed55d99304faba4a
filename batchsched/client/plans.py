"""The plan as a whole: typed results, and the calls that fetch them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from batchsched.client.calls import Call, PlotFormat, whole
from batchsched.wire import PREFIX


class Plan(msgspec.Struct, frozen=True):
    """A plan: what each pool should run when. `late`: requests that are not expected to be done in time, by batch."""

    id: int = 0
    made_at: datetime | None = None
    solver: str | None = None
    status: str | None = None
    allotments: tuple[dict[str, Any], ...] = ()
    loads: tuple[dict[str, Any], ...] = ()
    late: dict[str, float] = {}
    grams_expected: dict[str, float | None] = {}
    pools: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    everything: dict[str, Any] = {}
    """The server's answer as it came."""


def plan() -> Call[Plan]:
    return Call("GET", f"{PREFIX}/plan", whole(Plan))


def plot(image_format: PlotFormat) -> Call[bytes]:
    """Of the plan in force."""
    return Call("GET", f"{PREFIX}/plan/plot", bytes, {"params": {"format": image_format}})
