"""What the routes about the plan give and take, as types."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec


class _Exact(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An object of which every field is named."""


class Freeze(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For how long nothing is shifted: a duration, or an instant; until somebody unfreezes it where it is left out."""

    until: str | None = None


class Close(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a pool is closed: durations or instants; from now on, and until it is opened, where they are left out."""

    since: str | None = None
    until: str | None = None


class Closing(_Exact):
    """When a pool will be closed, and until when by itself."""

    how: Literal["cordoned", "drained"]
    since: datetime
    until: datetime | None


class Frozen(_Exact):
    """Since when nothing is shifted, and until when by itself."""

    since: datetime
    until: datetime | None


class Shifting(_Exact):
    """How the plan's shifting stands; `frozen` is null where it shifts."""

    id: Literal["plan"]
    frozen: Frozen | None


class Slo(_Exact):
    """What a spare pool's online users are promised, in milliseconds, and the percentage of them that keeps it."""

    ttft_ms: float
    tpot_ms: float
    percentile: float


class SpareNow(_Exact):
    """Offline tokens a second that one server of a spare pool is expected to have room for now; what it stays above and below in
    9 of 10 quarters of an hour each; and how many quarters that was learnt from: none, and it is a guess."""

    tokens_per_s: float
    p10: float
    p90: float
    quarters_seen: int


class Pool(_Exact):
    """A pool, and how it stands: `closed` by its own windows, `cordoned` or `drained` by an operator, `since` and `until` then;
    `share`: the part of its replicas that is open; `ahead` is what an operator planned; `startable`: workers that launchers can
    run, `troubles`: why some cannot; `ills`: what GPUs of its workers suffer from, `failing`: which of
    their engines do not start, since when and why, in words. Only spare pools have `ceiling` (offline requests in flight at one
    server), `slo` and `spare`."""

    object: Literal["batchsched.pool"]
    id: str
    site: str
    zone: str
    simulated: bool
    kind: Literal["dedicated", "spare", "cpu"]
    gpu: str
    replicas: int
    workers: int
    startable: int
    troubles: list[str]
    ceiling: int | None
    slo: Slo | None
    spare: SpareNow | None
    state: Literal["open", "closed", "cordoned", "drained"]
    share: float
    since: datetime | None
    until: datetime | None
    ahead: Closing | None
    ills: list[str]
    failing: list[str]


class OpenedPool(Pool):
    """A pool that was opened. `pardoned`: its GPUs that go on with memory errors by this word alone, in words."""

    pardoned: list[str]


class Pools(_Exact):
    """All of them."""

    object: Literal["list"]
    data: list[Pool]


class Allotment(_Exact):
    """Work of a batch on a pool, over a slot; `seconds` are those of replicas at work."""

    batch_id: str
    pool: str
    start_at: datetime
    end_at: datetime
    requests: float
    seconds: float


class EngineStart(_Exact):
    """Replica-seconds that starting engines takes in a slot, on the account of the first batch that uses them."""

    batch_id: str
    model: str
    pool: str
    start_at: datetime
    end_at: datetime
    seconds: float


class PlannedPool(_Exact):
    """A pool as the plan sees it; `capacity` (replicas that are open) and intensity have one entry a slot."""

    name: str
    site: str
    zone: str
    simulated: bool
    gpu: str
    connected: bool
    open: bool
    replicas: int
    capacity: list[float]
    intensity_g_per_kwh: list[float | None]


class GramsInterval(_Exact):
    """What a whole plan is expected to emit, and what it stays above and below in 9 of 10 cases each. The making of hardware
    counts where plans weigh it."""

    expected: float
    p10: float
    p90: float


class Late(_Exact):
    """Requests of a batch that are not expected to be done in time, in either plan."""

    batch_id: str
    requests_before: float
    requests_after: float


class BatchGrams(_Exact):
    """Expected grams of a batch in either plan; null where unknown."""

    batch_id: str
    grams_before: float | None
    grams_after: float | None


class WhatIf(_Exact):
    """Two plans compared: that of the problem in force, and that of the changed one. Grams are those of batches whose grams are
    known; `by_prices_g`: by the prices of the linear program the change costs at least so much, or saves at most so much;
    `gaps`: how far either plan is above its best at most, as a share; null where that is not known."""

    id: int
    made_at: datetime
    changes: list[str]
    grams_before: float
    grams_after: float
    difference_g: float
    by_prices_g: float | None
    late: list[Late]
    batches: list[BatchGrams]
    unknown: list[str]
    solvers: list[str]
    gaps: list[float | None]
    notes: list[str]


class Recipe(_Exact):
    """What a plan was made with."""

    solver: str
    work_s: float
    seed: int
    versions: dict[str, str]


class EngineHold(EngineStart):
    """An engine that is kept ready in a slot with nothing to do for so many replica-seconds, for what comes later."""

    power_w: float


class CameTrue(_Exact):
    """Of what a plan had placed until now in a zone: grams by its forecast, grams at what was measured since, and the energy for
    which that is not known."""

    zone: str
    expected_g: float
    true_g: float
    unknown_kwh: float


class Replayed(_Exact):
    """A plan made again from the archive: is it the same, and if not, how does it differ."""

    id: int
    made_at: datetime
    same: bool
    recipe: Recipe | None
    differences: list[str]
    objective_before: float
    objective_again: float
    came_true: list[CameTrue]
    notes: list[str]


class Plan(_Exact):
    """A plan; `slots` begin at these instants, and the last one ends at `end_at`."""

    id: int
    made_at: datetime
    solver: str
    status: str
    frozen: Frozen | None
    slots: list[datetime]
    end_at: datetime
    allotments: list[Allotment]
    loads: list[EngineStart]
    holds: list[EngineHold]
    pools: list[PlannedPool]
    latest_safe_start_at: dict[str, datetime | None]
    late: dict[str, float]
    grams_expected: dict[str, float | None]
    grams_interval: GramsInterval | None
    notes: list[str]
