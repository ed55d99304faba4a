"""The plan as a whole: typed results, and the calls that fetch them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from batchsched.client.calls import Call, PlotFormat, asked, listed, typed, whole
from batchsched.wire import PREFIX


class Frozen(msgspec.Struct, frozen=True):
    """Since when nothing is shifted, and until when by itself; None: until somebody unfreezes it."""

    since: datetime
    until: datetime | None = None


class GramsInterval(msgspec.Struct, frozen=True):
    """What a whole plan is expected to emit, and what it stays above and below in 9 of 10 cases each."""

    expected: float
    p10: float
    p90: float


class Plan(msgspec.Struct, frozen=True):
    """A plan: what each pool should run when. `late`: requests that are not expected to be done in time, by batch."""

    id: int = 0
    made_at: datetime | None = None
    solver: str | None = None
    status: str | None = None
    frozen: Frozen | None = None
    allotments: tuple[dict[str, Any], ...] = ()
    loads: tuple[dict[str, Any], ...] = ()
    late: dict[str, float] = {}
    grams_expected: dict[str, float | None] = {}
    grams_interval: GramsInterval | None = None
    pools: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    everything: dict[str, Any] = {}
    """The server's answer as it came."""


class Shifting(msgspec.Struct, frozen=True):
    """How the plan's shifting stands; `frozen` is None where it shifts."""

    frozen: Frozen | None = None


class PoolStatus(msgspec.Struct, frozen=True):
    """A pool. `state`: open, closed by its own window, or cordoned or drained by an operator, `since` then."""

    id: str
    site: str
    zone: str
    gpu: str
    state: str
    simulated: bool = False
    replicas: int = 0
    workers: int = 0
    since: datetime | None = None


def plan() -> Call[Plan]:
    return Call("GET", f"{PREFIX}/plan", whole(Plan))


def plot(image_format: PlotFormat) -> Call[bytes]:
    """Of the plan in force."""
    return Call("GET", f"{PREFIX}/plan/plot", bytes, {"params": {"format": image_format}})


def freeze(until: str | datetime | None) -> Call[Shifting]:
    return Call("POST", f"{PREFIX}/plan/freeze", typed(Shifting), {"json": asked(until=until)})


def unfreeze() -> Call[Shifting]:
    return Call("POST", f"{PREFIX}/plan/unfreeze", typed(Shifting))


def pools() -> Call[tuple[PoolStatus, ...]]:
    return Call("GET", f"{PREFIX}/pools", listed(PoolStatus))


def set_pool(pool: str, how: Literal["cordon", "drain", "open"]) -> Call[PoolStatus]:
    return Call("POST", f"{PREFIX}/pools/{quote(pool, safe='')}/{how}", typed(PoolStatus))
