"""What the server answers, as frozen types. Fields that a newer server adds are ignored; times are aware UTC.

Grams and joules are None where they are not known: unknown is never zero.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from batchsched.client import showing
from batchsched.client.verdicts import Risk, Verdict

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
TERMINAL: frozenset[str] = frozenset({"failed", "completed", "expired", "cancelled"})


class File(msgspec.Struct, frozen=True):
    """A file on the server. `status`: uploaded, processed or error (then `status_details` says why)."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: str = "processed"
    expires_at: int | None = None
    status_details: str | None = None


class Model(msgspec.Struct, frozen=True):
    """A model that batches may name."""

    id: str


class Key(msgspec.Struct, frozen=True):
    """An API key: whose it is and what it may do. `key` is the key itself, in the answer to its creation and nowhere else."""

    id: str
    tenant: str
    scopes: tuple[str, ...]
    created_at: int
    name: str = ""
    key: str | None = None
    expires_at: int | None = None
    last_used_at: int | None = None
    revoked_at: int | None = None

    @property
    def expires(self) -> datetime | None:
        """When it ends by itself."""
        return datetime.fromtimestamp(self.expires_at, UTC) if self.expires_at else None

    @property
    def last_used(self) -> datetime | None:
        """When it was last used, to the minute."""
        return datetime.fromtimestamp(self.last_used_at, UTC) if self.last_used_at else None

    @property
    def state(self) -> str:
        """`active`, `revoked` or `expired`."""
        if self.revoked_at:
            return "revoked"
        return "expired" if self.expires and self.expires <= datetime.now(UTC) else "active"


class BatchError(msgspec.Struct, frozen=True):
    """What was wrong with the input; `line` is 1-based, None where the whole file is meant."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class BatchErrors(msgspec.Struct, frozen=True):
    """The errors of a batch that failed its validation."""

    data: tuple[BatchError, ...] = ()


class RequestCounts(msgspec.Struct, frozen=True):
    """Lines of a batch: all, answered, failed."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Progress(msgspec.Struct, frozen=True):
    """How far a batch is, and what it waits for."""

    requests_done: int = 0
    requests_total: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    tokens_per_s: float | None = None
    state: str = "waiting"
    waiting_for: str | None = None
    waiting_until: datetime | None = None
    stalled: bool = False
    """Nothing that is planned ends the waiting: somebody has to do something, such as start a worker."""
    running_on: tuple[str, ...] = ()
    latest_safe_start_at: datetime | None = None
    expected_finish_at: datetime | None = None
    """By the plan in force; by the verdict before there is one."""


class Band(msgspec.Struct, frozen=True):
    """Low, middle and high of a figure on which sources differ, in grams."""

    low: float | None = None
    mid: float | None = None
    high: float | None = None


class Carbon(msgspec.Struct, frozen=True):
    """Energy and grams of CO2e so far. `grams`: operational, paid at the intensity that came true where it is known.

    They are without `unknown_energy_j`, whose intensity nobody knows yet, and `unmeasured_s` of work that nothing measured.
    """

    energy_j: float | None = None
    energy_sources: dict[str, float] = {}
    grams: float | None = None
    grams_run_now: float | None = None
    unknown_energy_j: float = 0.0
    unmeasured_s: float = 0.0
    embodied_g: Band | None = None
    simulated: bool = False


class Started(msgspec.Struct, frozen=True):
    """Told to start now: since when, and when by the plan of that moment it would have started."""

    since: datetime
    planned_at: datetime | None = None


class Scheduling(msgspec.Struct, frozen=True):
    """What batchsched adds to OpenAI's batch object, under the key `batchsched`."""

    deadline_at: datetime | None = None
    confidence: float | None = None
    models: tuple[str, ...] | None = None
    sites: tuple[str, ...] | None = None
    zones: tuple[str, ...] | None = None
    on_deadline: str = "expire"
    require_feasible: bool = False
    uniform: bool = False
    priority: int = 0
    paused_at: datetime | None = None
    started: Started | None = None
    erased_at: datetime | None = None
    round: int = 0
    """How often it was retried."""
    verdict: Verdict | None = None
    risk: Risk | None = None
    """None while the deadline is not in doubt."""
    progress: Progress = Progress()
    carbon: Carbon | None = None


class Batch(msgspec.Struct, frozen=True):
    """A batch: OpenAI's fields (times in unix seconds) and, under `batchsched`, ours."""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    status: Status
    created_at: int
    model: str | None = None
    errors: BatchErrors | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    expires_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = RequestCounts()
    usage: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    batchsched: Scheduling = Scheduling()

    @property
    def done(self) -> bool:
        """Has it reached a status that it never leaves?"""
        return self.status in TERMINAL

    @property
    def paused(self) -> bool:
        """Does it wait to be resumed?"""
        return self.batchsched.paused_at is not None and not self.done

    @property
    def created(self) -> datetime:
        """When it was submitted."""
        return datetime.fromtimestamp(self.created_at, UTC)

    @property
    def deadline_at(self) -> datetime | None:
        """When it must be finished."""
        return self.batchsched.deadline_at

    @property
    def verdict(self) -> Verdict | None:
        """The answer at submission, or since the deadline was last changed; None until it is given."""
        return self.batchsched.verdict

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self.batchsched.progress

    @property
    def carbon(self) -> Carbon | None:
        """Energy and grams so far; None before anything ran."""
        return self.batchsched.carbon

    def _repr_html_(self) -> str:
        return showing.batch_html(self)


class Explanation(msgspec.Struct, frozen=True):
    """Why a batch runs when and where it does, in sentences."""

    batch_id: str
    sentences: tuple[str, ...]


class Intensity(msgspec.Struct, frozen=True):
    """The grid over a span: grams per kWh, None where unknown; who says so; which signal it is."""

    mean_g_per_kwh: float | None = None
    source: str = ""
    signal: str = ""


class Row(msgspec.Struct, frozen=True):
    """Work of one model on one pool at one intensity. `energy_source`: measured how, or modelled."""

    pool: str
    site: str
    zone: str
    started_at: datetime
    ended_at: datetime
    energy_j: float | None = None
    energy_source: str = ""
    energy_how: str = ""
    pue: float | None = None
    requests: int = 0
    model: str = ""
    intensity: Intensity = Intensity()
    operational_g: float | None = None


class RunNow(msgspec.Struct, frozen=True):
    """The baseline: everything at once at submission. `description` names its terms."""

    description: str = ""
    operational_g: float | None = None
    intensity: Intensity = Intensity()
    ends_at: datetime | None = None


class Factor(msgspec.Struct, frozen=True):
    """A number that entered the report, and who says so."""

    factor: str
    value: float | str | None = None
    unit: str = ""
    source: str = ""


class Saving(msgspec.Struct, frozen=True):
    """Where a saving comes from, in grams: another time, another place, other GPUs with the model that served
    there, an online service's spare capacity."""

    time_g: float = 0.0
    place_g: float = 0.0
    gpu_g: float = 0.0
    spare_g: float = 0.0


class Beside(msgspec.Struct, frozen=True):
    """What a batch caused beside its work: `waste`, `idle`, `network`, `storage`, apart from the sums; `loading`, in them."""

    part: str
    energy_j: float = 0.0
    operational_g: float | None = None
    embodied_g: Band | None = None
    how: str = ""
    source: str = ""


class Attributed(msgspec.Struct, frozen=True):
    """With the full share of the servers whose spare capacity was used: their idle watts, and what it took to make them."""

    energy_j: float
    operational_g: float | None = None
    embodied_g: Band | None = None


class Report(msgspec.Struct, frozen=True):
    """Energy, grams and savings with their provenance. `unknown_energy_j`: energy that no grams could be given for.

    `saved_g`: the baseline's operational grams less these; None unless both are known whole. `requests`: the answers that work
    was charged for; of a request that was answered again (a retry after it had failed) each answer counts.
    """

    requests: int = 0
    energy_j: float | None = None
    energy_by_source: dict[str, float] = {}
    operational_g: float | None = None
    unknown_energy_j: float = 0.0
    unmeasured_s: float = 0.0
    embodied_g: Band | None = None
    policy: str = ""
    simulated: bool = False
    baseline: RunNow | None = None
    baseline_g: float | None = None
    saved_g: float | None = None
    saved_fraction: float | None = None
    models_accepted: tuple[str, ...] = ()
    """Where batches let others than the model that their requests name serve them."""
    saving: Saving | None = None
    saved_with_embodied_g: Band | None = None
    market_g: float | None = None
    attributed: Attributed | None = None
    beside: tuple[Beside, ...] = ()
    rows: tuple[Row, ...] = ()
    provenance: tuple[Factor, ...] = ()
    notes: tuple[str, ...] = ()
    everything: dict[str, Any] = {}
    """The server's answer as it came, fields of newer servers included."""

    @property
    def grams_run_now(self) -> float | None:
        """Operational grams of the baseline."""
        return self.baseline_g

    def _repr_html_(self) -> str:
        return showing.report_html(self)


class Sci(msgspec.Struct, frozen=True):
    """Grams, operational and embodied, for a request and for 1,000 tokens: the Software Carbon Intensity. Of a batch, for
    a request that has a good answer; of other slices, for each answer that work was charged for."""

    g_per_request: Band | None = None
    g_per_1000_tokens: Band | None = None


class Part(msgspec.Struct, frozen=True):
    """Joules and operational grams (`g`) of what is known of a part; `complete`: that is all. `how`: by what rule and figures."""

    energy_j: float | None = None
    g: float | None = None
    embodied_g: Band | None = None
    complete: bool = False
    how: str = ""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What some work took, and beside each figure how it is known. A part is None where it is not known at that level.

    The PUE is weighted by energy, the intensity, which is what came true, by energy and PUE. `loading` (engine starts) is in the
    sums; the other parts stand apart.
    """

    models: tuple[str, ...] = ()
    """That served it."""
    energy_j: float = 0.0
    energy_how: str = ""
    energy_by_source: dict[str, float] = {}
    pue: float | None = None
    pue_how: str = ""
    intensity_g_per_kwh: float | None = None
    intensity_how: str = ""
    signal: str | None = None
    operational_g: float | None = None
    unknown_energy_j: float = 0.0
    unmeasured_s: float = 0.0
    embodied_g: Band | None = None
    embodied_unknown_s: float = 0.0
    embodied_how: str = ""
    loading: Part | None = None
    idle: Part | None = None
    network: Part | None = None
    storage: Part | None = None
    waste: Part | None = None


class Slice(Cost, frozen=True):
    """What one chunk, batch, tenant, pool or site took of the whole."""

    name: str
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    busy_s: float = 0.0
    sci: Sci | None = None
    provenance: tuple[Factor, ...] = ()


class RequestShare(Cost, frozen=True):
    """What one request took of its chunk, by its tokens."""

    custom_id: str
    chunk_id: str = ""
    input_tokens: int = 0
    output_tokens: int = 0


class PoolEnergy(msgspec.Struct, frozen=True):
    """What a pool drew, and where it went: the sum of the rest is `metered_j` and `modelled_j` (by `power_model`, where there is
    no meter) together. For `unmeasured_s` seconds nothing is known."""

    pool: str
    metered_j: float = 0.0
    modelled_j: float = 0.0
    unmeasured_s: float = 0.0
    power_model: str = ""
    charged_j: float = 0.0
    idle_j: float = 0.0
    waste_j: float = 0.0
    others_j: float = 0.0
    forgotten_j: float = 0.0
    """What batches took that are no longer kept."""
    unaccounted_j: float = 0.0
    idle_g: float | None = None
    waste_g: float | None = None
    forgotten_g: float | None = None


class BookEntry(msgspec.Struct, frozen=True):
    """An entry in the books of a batch: joules and grams that were added to an hour of a pool, when, and why.

    `kind`: `work`, or `waste` (nobody took the results). `grams` is None where they were not known, or did not change.
    """

    posted_at: datetime
    kind: str
    pool: str
    hour: datetime
    energy_j: float
    why: str
    grams: float | None = None
    site: str = ""
    zone: str = ""
    energy_source: str = ""
    pue: float = 1.0
    intensity_g_per_kwh: float | None = None
    intensity_source: str = ""
    signal: str = ""


class Books(msgspec.Struct, frozen=True):
    """The books of a batch that ended, oldest entry first, and what they add up to. Entries are only ever added.

    `grams` are without those of `unknown_energy_j`, which nobody knows yet.
    """

    energy_j: float
    grams: float | None = None
    unknown_energy_j: float = 0.0
    entries: tuple[BookEntry, ...] = ()


class Page(msgspec.Struct, frozen=True):
    """One page of a listing; `data` is decoded by whoever asked."""

    data: tuple[msgspec.Raw, ...]
    has_more: bool = False
    last_id: str | None = None
