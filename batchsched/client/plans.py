"""The plan as a whole: typed results, and the calls that fetch them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict
from urllib.parse import quote

import msgspec

from batchsched.client import showing
from batchsched.client.calls import Call, PlotFormat, asked, listed, only_seen, typed, whole
from batchsched.errors import BatchschedError
from batchsched.paths import PREFIX
from batchsched.transport import Transport


class Frozen(msgspec.Struct, frozen=True):
    """Since when nothing is shifted, and until when by itself; None: until somebody unfreezes it."""

    since: datetime
    until: datetime | None = None


class GramsInterval(msgspec.Struct, frozen=True):
    """What a whole plan is expected to emit, and what it stays above and below in 9 of 10 cases each."""

    expected: float
    p10: float
    p90: float


class Plan(msgspec.Struct, frozen=True, dict=True):
    """A plan: what each pool should run when. `late`: requests that are not expected to be done in time, by batch.

    A notebook shows it with its picture, which is fetched when it is shown.
    """

    id: int = 0
    made_at: datetime | None = None
    solver: str | None = None
    status: str | None = None
    frozen: Frozen | None = None
    allotments: tuple[dict[str, Any], ...] = ()
    loads: tuple[dict[str, Any], ...] = ()
    holds: tuple[dict[str, Any], ...] = ()
    """Where engines are kept ready for later with nothing to do."""
    late: dict[str, float] = {}
    grams_expected: dict[str, float | None] = {}
    grams_interval: GramsInterval | None = None
    pools: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    everything: dict[str, Any] = {}
    """The server's answer as it came."""

    def drawn_by(self, draw: Callable[[], bytes]) -> Plan:
        """Itself; `draw` fetches its picture, an SVG. (Beside the fields: it is no part of what the plan says.)"""
        vars(self)["draw"] = draw
        return self

    def _repr_html_(self) -> str:
        draw: Callable[[], bytes] | None = vars(self).get("draw")
        try:
            picture = draw() if draw else None
        except BatchschedError:  # the server is away, or draws none
            picture = None
        return showing.plan_html(self, picture)


class Shifting(msgspec.Struct, frozen=True):
    """How the plan's shifting stands; `frozen` is None where it shifts."""

    frozen: Frozen | None = None


class Closing(msgspec.Struct, frozen=True):
    """When a pool will be cordoned or drained."""

    how: str
    since: datetime
    until: datetime | None = None


class Promise(msgspec.Struct, frozen=True):
    """What a spare pool's online users are promised, in milliseconds, and the percentage of them that keeps it."""

    ttft_ms: float
    tpot_ms: float
    percentile: float = 99.0


class SpareNow(msgspec.Struct, frozen=True):
    """Offline tokens a second that one server of a spare pool is expected to have room for now; what it stays above and below in
    9 of 10 quarters of an hour each; and how many quarters that was learnt from: none, and it is a guess."""

    tokens_per_s: float
    p10: float
    p90: float
    quarters_seen: int = 0


class PoolStatus(msgspec.Struct, frozen=True):
    """A pool. `state`: open, closed by its own windows, or cordoned or drained by an operator, `since` and `until` then; `ahead`:
    what an operator planned."""

    id: str
    site: str
    zone: str
    gpu: str
    state: str
    simulated: bool = False
    share: float = 1.0
    """The part of its replicas that is open."""
    replicas: int = 0
    workers: int = 0
    since: datetime | None = None
    until: datetime | None = None
    ahead: Closing | None = None
    kind: str = "dedicated"
    ceiling: int | None = None
    """Most offline requests in flight at one server; None but on spare pools, as `slo` and `spare`."""
    slo: Promise | None = None
    spare: SpareNow | None = None
    ills: tuple[str, ...] = ()
    """What GPUs of its workers suffer from, in words."""
    failing: tuple[str, ...] = ()
    """Engines of its workers that do not start, since when and why, in words."""
    startable: int = 0
    """Workers that launchers can run at once, those that run included."""
    troubles: tuple[str, ...] = ()
    """Of launchers whose workers die again and again."""
    pardoned: tuple[str, ...] = ()
    """As the answer to its opening: GPUs that go on with memory errors by this word alone, in words."""


def plan() -> Call[Plan]:
    return Call("GET", f"{PREFIX}/plan", whole(Plan))


def fetched(transport: Transport) -> bytes:
    """The picture of the plan in force, by a connection of its own, which is closed again."""
    with transport:
        return transport.request("GET", f"{PREFIX}/plan/plot", params={"format": "svg"}).content


def plot(image_format: PlotFormat) -> Call[bytes]:
    """Of the plan in force."""
    return Call("GET", f"{PREFIX}/plan/plot", bytes, {"params": {"format": image_format}})


def freeze(until: str | datetime | None, *, dry_run: bool = False) -> Call[Shifting]:
    return Call("POST", f"{PREFIX}/plan/freeze", typed(Shifting), {"json": asked(until=until), **only_seen(dry_run)})


def unfreeze(*, dry_run: bool = False) -> Call[Shifting]:
    return Call("POST", f"{PREFIX}/plan/unfreeze", typed(Shifting), only_seen(dry_run))


def pools() -> Call[tuple[PoolStatus, ...]]:
    return Call("GET", f"{PREFIX}/pools", listed(PoolStatus))


def close_pool(
    pool: str,
    how: Literal["cordon", "drain"],
    since: str | datetime | None,
    until: str | datetime | None,
    *,
    dry_run: bool = False,
) -> Call[PoolStatus]:
    given = {"json": asked(since=since, until=until), **only_seen(dry_run)}
    return Call("POST", f"{PREFIX}/pools/{quote(pool, safe='')}/{how}", typed(PoolStatus), given)


def open_pool(pool: str, *, dry_run: bool = False) -> Call[PoolStatus]:
    return Call("POST", f"{PREFIX}/pools/{quote(pool, safe='')}/open", typed(PoolStatus), only_seen(dry_run))


class Late(msgspec.Struct, frozen=True):
    """Requests of a batch that are not expected to be done in time, in either plan."""

    batch_id: str
    requests_before: float
    requests_after: float


class WhatIf(msgspec.Struct, frozen=True):
    """Two plans compared: that of the problem in force, and that of the changed one.

    `by_prices_g`: by the linear program's prices the change costs at least so much, or saves at most so much; None where they do
    not tell. `unknown`: batches whose grams are not known; they are in none of the figures.
    """

    changes: tuple[str, ...]
    grams_before: float
    grams_after: float
    difference_g: float
    by_prices_g: float | None = None
    late: tuple[Late, ...] = ()
    unknown: tuple[str, ...] = ()
    solvers: tuple[str, ...] = ()
    gaps: tuple[float | None, ...] = ()
    """How far either plan is above its best at most, as a share of it; None where that is not known."""
    notes: tuple[str, ...] = ()
    everything: dict[str, Any] = {}
    """The server's answer as it came."""


class CameTrue(msgspec.Struct, frozen=True):
    """Of what a plan had placed until now in a zone: grams by its forecast, and at what was measured since."""

    zone: str
    expected_g: float
    true_g: float
    unknown_kwh: float = 0.0


class Replayed(msgspec.Struct, frozen=True):
    """A plan made again from the archive: is it the same, and if not, how does it differ."""

    id: int
    made_at: datetime
    same: bool
    recipe: dict[str, Any] | None = None
    """None: not known."""
    differences: tuple[str, ...] = ()
    objective_before: float = 0.0
    objective_again: float = 0.0
    came_true: tuple[CameTrue, ...] = ()
    notes: tuple[str, ...] = ()
    everything: dict[str, Any] = {}
    """The server's answer as it came."""


class Question(TypedDict, total=False):
    """What is to be another. `deadlines`: by batch, `+2h`, `-30m` or a deadline; `pools`: replicas more or fewer, by name;
    `with_zones`: by pool, the zone in which there were a copy of it."""

    deadlines: Mapping[str, str]
    pools: Mapping[str, int]
    without_sites: Sequence[str]
    with_zones: Mapping[str, str]


def what_if(question: Question) -> Call[WhatIf]:
    params = {
        "deadline": [f"{name}={value}" for name, value in question.get("deadlines", {}).items()],
        "pool": [f"{name}={more:+d}" for name, more in question.get("pools", {}).items()],
        "without_site": list(question.get("without_sites", ())),
        "with_zone": [f"{pool}={zone}" for pool, zone in question.get("with_zones", {}).items()],
    }
    return Call("GET", f"{PREFIX}/plan/what-if", whole(WhatIf), {"params": {name: some for name, some in params.items() if some}})


def replay(at: datetime | str | None, number: int | None) -> Call[Replayed]:
    return Call("GET", f"{PREFIX}/plan/replay", whole(Replayed), {"params": asked(at=at, id=number)})
