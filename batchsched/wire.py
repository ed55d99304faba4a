"""What servers and workers say to each other, as typed messages (JSON over HTTP).

Every write about a chunk carries the fencing `token` of the lease it was given. A write with a stale token is answered 409
`stale_lease` and changes nothing.

A protocol and the one before it work together; what lies further apart is refused at registration. What 2 brought: `protocol` in
`Registered`, `version` in `Register`, the reason `paused`. Fields may be added at any time: both skip what they do not know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from batchsched.fleet import Mode, Pool, ServedModel
from batchsched.measures import EnergyMark as EnergyMark
from batchsched.measures import EnergySource as EnergySource
from batchsched.measures import PartnerUse as PartnerUse
from batchsched.measures import Probe as Probe
from batchsched.measures import Trial as Trial
from batchsched.measures import Trials as Trials
from batchsched.paths import CURSOR_HEADER as CURSOR_HEADER
from batchsched.paths import PREFIX as PREFIX
from batchsched.paths import STATUS_HEADER as STATUS_HEADER

PROTOCOL = 2
MIN_PROTOCOL = PROTOCOL - 1

ReleaseReason = Literal["window_closed", "shutdown", "preempted", "cancelled", "paused"]
SpentKind = Literal["metered", "idle", "waste", "others"]


class Register(msgspec.Struct):
    """A worker presents itself: POST /workers."""

    pool: str
    host: str
    pid: int
    protocol: int = PROTOCOL
    version: str = ""
    shares: bool = False
    """It knows how to work beside online users; of spare pools, others are refused."""
    replica: Annotated[str, Meta(max_length=200)] = ""
    """The name by which a launcher started it; empty: nobody did."""
    adapters: bool = False
    """It starts engines with adapters. Others are not told of such models: their engines would answer with the base."""
    modes: list[Mode] = []
    """Ways to serve that it can start engines for, beside the plain one. Of variants in others it is not told."""
    was: str = ""
    """The id that it had before, where it registers anew: it goes on with what it holds, loads and has said."""


class Registered(msgspec.Struct):
    """The pool's settings, which a worker takes from the server."""

    worker_id: str
    pool_name: str
    pool: Pool
    models: dict[str, ServedModel]
    lease_s: float
    heartbeat_s: float
    protocol: int = 1
    """What both speak from now on. Servers of protocol 1 do not say it."""


POOL_OF_PROTOCOL_1 = ("site", "kind", "gpu", "count", "models", "max_in_flight", "power_w", "window", "engine_args")
MODEL_OF_PROTOCOL_1 = ("path", "parameters_b", "max_model_len", "engine_args")


def known_settings(registered: Registered) -> dict[str, Any]:
    """What a worker of its protocol can read: those of protocol 1 refuse a pool or a model with fields that they do not know."""
    plain: dict[str, Any] = msgspec.to_builtins(registered)
    if registered.protocol < 2:
        plain["pool"] = {field: plain["pool"][field] for field in POOL_OF_PROTOCOL_1}
        plain["models"] = {
            name: {field: model[field] for field in MODEL_OF_PROTOCOL_1} for name, model in plain["models"].items()
        }
    return plain


class Sharing(msgspec.Struct):
    """Which shared server a worker is at. `server`: names it alike for every worker on it; `desk`: workers that say the same keep
    one budget there already; `wants`: has it work for it?"""

    server: str
    desk: str
    wants: bool = True


class Claim(msgspec.Struct):
    """A worker asks for work: POST /leases. `ready_models`: what its engine serves right now.

    `renames`: it can serve a lease with another model than the requests name. Workers that do not say so get no such lease.
    `lacking`: models that it was asked to get ready and that its engine turned out not to have.
    `sharing`: of a spare pool's worker.
    """

    worker_id: str
    max_chunks: int = 1
    ready_models: list[str] = []
    renames: bool = False
    lacking: list[str] = []
    sharing: Sharing | None = None


class Lease(msgspec.Struct):
    """A right to one chunk: its lines `first_line` .. `first_line + lines - 1`, 1-based in the batch's file.

    `done`: line numbers already recorded, not to run again. `suspects`: lines that were in flight when an engine died, to be
    tried in this order before all others, and behind them the `erring`: those that met errors only, of an engine that lived.
    `rename`: the requests name another model than `model`, which takes its place. `traceparent`: the span of the batch, under
    which the worker tells of this chunk; empty where the server tells of nothing.
    """

    chunk_id: str
    batch_id: str
    token: int
    endpoint: str
    model: str
    first_line: int
    lines: int
    done: list[int]
    suspects: list[int]
    attempt: int
    rename: bool = False
    erring: list[int] = []
    traceparent: str = ""

    @property
    def about(self) -> dict[str, str]:
        """For the log."""
        return {"batch_id": self.batch_id, "chunk_id": self.chunk_id}


class Claimed(msgspec.Struct):
    """Leases; or the model to get ready (`prepare`), or when to ask again. `keep`: the engine that is ready stays so, however
    long it idles, for the plan counts on it. `ceiling`: as in HeartbeatAnswer, with leases only; None: as before."""

    leases: list[Lease]
    prepare: str | None = None
    next_at: datetime | None = None
    poll_s: float = 1.0
    keep: bool = False
    ceiling: int | None = None


def known_reason(reason: ReleaseReason, protocol: int) -> ReleaseReason:
    """The reason in words that a worker of this protocol knows."""
    return "preempted" if reason == "paused" and protocol < 2 else reason


class HeldLease(msgspec.Struct):
    """One lease that a worker believes it holds."""

    chunk_id: str
    token: int


class SpentPart(msgspec.Struct):
    """Joules of one kind that a worker's meter saw, from `started_at` on.

    `metered`: all of them. Of these no chunk is charged for `idle`: nothing was worked on; `waste`: work whose results nobody
    took, of the batch named; `others`: an engine's other users.
    """

    kind: SpentKind
    batch_id: str
    started_at: datetime
    seconds: float
    energy_j: float
    energy_source: EnergySource
    beside_pool: str = ""
    """In a mode of two pools: of which other one a replica was there meanwhile, for `beside_s` seconds."""
    beside_s: float = 0.0


class AskedPart(msgspec.Struct):
    """Requests to an engine that are over (operations.py), those alike in one: `problem` is empty where they were answered.

    `took`, `read` and `written` are how many fell into each bucket of seconds and of tokens, the last above all bounds; beside
    them stand the sums.
    """

    name: str
    provider: str
    model: str
    problem: str
    took: list[int]
    took_s: float
    read: list[int]
    read_tokens: int
    written: list[int]
    written_tokens: int


class Spent(msgspec.Struct):
    """What a worker's meter saw, and what its engine was asked, since it last said so. `number` grows, so that a message that
    comes twice counts once."""

    number: int
    parts: list[SpentPart]
    asked: list[AskedPart] = []


class IdlePower(msgspec.Struct):
    """What a replica draws while it does nothing, host included, as measured before a model was loaded."""

    power_w: float
    source: EnergySource


class SpareSeen(msgspec.Struct):
    """What a shared server had for offline work, over some seconds that end now.

    `server`: names it alike for every worker on it. `tokens_per_s`: tokens of offline prompts and answers a second that the whole
    server takes while its users keep what they were promised: what was let in, or, where there was too little to do, what would
    have been.
    """

    server: str
    seconds: float
    tokens_per_s: float


ThrottleReason = Literal["heat", "hardware", "power_cap", "power_brake"]


class Card(msgspec.Struct):
    """How one GPU of a replica is. None: it does not tell.

    `throttled`: why its clocks are held down now. Errors are those of its memory since the driver was loaded: the corrected do no
    harm, each uncorrected one ended what ran. `usual_cap_w`: the cap it has where nobody sets one.
    """

    uuid: str
    name: str = ""
    throttled: list[ThrottleReason] = []
    uncorrected_errors: int | None = None
    corrected_errors: int | None = None
    temperature_c: int | None = None
    power_cap_w: float | None = None
    usual_cap_w: float | None = None
    clock_mhz: int | None = None
    top_clock_mhz: int | None = None
    lost: bool = False
    """It answers no more, as one does that has fallen off the bus."""

    @property
    def broken(self) -> bool:
        """Should nothing be begun on it? Before Ampere the driver itself starts nothing there until the card was reset."""
        return self.lost or bool(self.uncorrected_errors)

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.name} {self.uuid}".strip()

    def trouble(self) -> str:
        """What an operator should look at, in words; empty where it is well. A cap that somebody set is none."""
        said = ["answers no more"] if self.lost else []
        if self.uncorrected_errors:
            said.append(f"{self.uncorrected_errors} memory errors that could not be corrected")
        if "heat" in self.throttled:
            said.append("slowed by heat" + (f" at {self.temperature_c} C" if self.temperature_c is not None else ""))
        if {"hardware", "power_brake"} & set(self.throttled):
            said.append("slowed by its hardware, as for want of power")
        return ", ".join(said)


class Failing(msgspec.Struct):
    """A worker's engine could not be had: so many times in a row since it was last ready, and why the last time, in words."""

    times: int
    reason: str


class Heartbeat(msgspec.Struct):
    """A worker is alive and holds these: POST /workers/{id}/heartbeat. Extends every lease that is still its own."""

    leases: list[HeldLease]
    spent: Spent | None = None
    idle: IdlePower | None = None
    logs_bytes: int | None = None
    """Of the logs in its folder; None where it does not know."""
    spare: SpareSeen | None = None
    """Of a spare pool's worker, since it last said so; None where it could not tell."""
    cards: list[Card] | None = None
    """The GPUs of its replica; None where it sees none."""
    sharing: Sharing | None = None
    """Of a spare pool's worker."""
    ready_models: list[str] | None = None
    """What its engine serves right now: it may have died while nobody asked for work. None: it does not tell."""
    failing: Failing | None = None
    """None: nothing is known against its engine."""


class Bye(msgspec.Struct):
    """A worker stops: POST /workers/{id}/bye. An empty body stands for an empty list."""

    spent: list[Spent] = []


class HeartbeatAnswer(msgspec.Struct):
    """Chunks to let go: `stale` ones at once (they are somebody else's), `stop` ones after sending what is done."""

    stale: list[str]
    stop: dict[str, ReleaseReason]
    ceiling: int | None = None
    """Of a spare pool's ceiling what the worker's desk may use of it; None: all."""


class Meter(msgspec.Struct):
    """What a chunk took on its engine since the last message about it.

    `busy_s`: wall seconds of the engine charged to this chunk (an engine shared by two chunks is split by tokens);
    `energy_j`: joules of the GPUs, or of the processors where the engine runs on those, split the same way.
    """

    started_at: datetime
    ended_at: datetime
    busy_s: float
    energy_j: float
    energy_source: EnergySource
    startup_s: float = 0.0
    """Above 0: this is the start of an engine for this chunk, which took so long, and no work was done meanwhile."""
    host_j: float = 0.0
    """Joules of the host beside the GPUs, not in `energy_j`."""
    host_source: EnergySource = "unmeasured"
    mark: EnergyMark = ""
    drafts: float = 0.0
    """Made in a mode that has such, split by tokens too; of `draft_tokens` in all, of which `accepted_tokens` stayed."""
    draft_tokens: float = 0.0
    accepted_tokens: float = 0.0
    beside_s: float = 0.0
    """For how long a replica of another pool was there for this chunk, waiting included; split by tokens too."""
    beside_pool: str | None = None
    """Whose that is; empty: none was there. None: it is not told, and counts as there while a mode of two pools was served."""


class Result(msgspec.Struct):
    """One finished request; `output` is its OpenAI output line as it will stand in the file."""

    line: int
    ok: bool
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    output: msgspec.Raw
    cut: bool = False
    """Did the answer end because the model's context was full?"""


class Results(msgspec.Struct):
    """A group of finished requests: POST /leases/{chunk_id}/results. Acknowledged means it survives any crash."""

    token: int
    results: list[Result]
    meter: Meter | None = None


class Acknowledged(msgspec.Struct):
    """How many of a group were new; the rest had been recorded before."""

    recorded: int
    duplicates: int


class Finish(msgspec.Struct):
    """Every line of the chunk is recorded: POST /leases/{chunk_id}/finish."""

    token: int
    meter: Meter | None = None


class Release(msgspec.Struct):
    """The rest of the chunk goes back; no attempt is spent: POST /leases/{chunk_id}/release."""

    token: int
    reason: ReleaseReason
    meter: Meter | None = None
    plain: bool = False
    """A request of it cannot be served in the way that was asked for, only in the plain one."""


class Fail(msgspec.Struct):
    """The engine failed under the chunk: POST /leases/{chunk_id}/fail.

    `suspects`: the lines that it may have failed for, in the order in which they are to be tried; the `erring` among them met
    errors only, of an engine that lived. An attempt is spent, unless the search for the line that ends engines went on: those
    that were in flight at a death are fewer than those of the lease and all of them, or `set_aside` lines were found.
    """

    token: int
    message: str
    suspects: list[int]
    meter: Meter | None = None
    set_aside: int = 0
    erring: list[int] = []


def in_flight_at_death(suspects: Sequence[int], erring: Sequence[int]) -> list[int]:
    """Of suspects those that an engine may have died of, in the order in which they are to be tried."""
    return [line for line in suspects if line not in erring]


def replica_title(launcher: str, replica: str) -> str:
    """By which the server knows a replica: launchers on machines that are configured alike give the same names."""
    return f"{launcher_mark(launcher)}#{replica}"


def launcher_mark(launcher: str) -> str:
    """What the titles of a launcher's replicas begin with, before the `#`."""
    return hashlib.sha256(launcher.encode()).hexdigest()[:8]


class Able(msgspec.Struct):
    """What a launcher can run of a pool at once. `trouble`: why it is less than it might be, or nothing; `failing`: places where
    workers die again and again."""

    replicas: Annotated[int, Meta(ge=0, le=100_000)]
    trouble: Annotated[str, Meta(max_length=2000)] = ""
    failing: Annotated[int, Meta(ge=0, le=100_000)] = 0


class Launching(msgspec.Struct):
    """A launcher says what it can run, and asks what is wanted of it: POST /launchers, every few seconds.

    `name`: its own, the same after a restart. `lead_s`: from a start to a worker that is there, its engine not counted.
    """

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    pools: dict[str, Able]
    lead_s: Annotated[float, Meta(ge=0, le=86_400)] = 0.0


class LaunchedWorker(msgspec.Struct):
    """A live worker that a launcher started. `finished`: chunks that it finished with an answer in them; `failed`: chunks under
    which its engine failed; `leases`: chunks that it holds."""

    worker_id: str
    replica: str
    registered_at: datetime
    ready_models: list[str]
    leases: int
    finished: int
    failed: int


class Wanted(msgspec.Struct):
    """What a launcher should run of a pool now: so many replicas, of those that run rather the ones with these models ready.

    `workers`: the live ones of the pool that any launcher started. `next_at`: when the plan next begins something there.
    """

    replicas: int
    keep: list[str]
    workers: list[LaunchedWorker]
    next_at: datetime | None = None


class Launched(msgspec.Struct):
    """The answer, by pool, and when to ask again."""

    pools: dict[str, Wanted]
    poll_s: float = 2.0
