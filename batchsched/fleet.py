"""What an operator declares: sites, pools, windows, models; and the GPU types that the project knows.

The structures are the sections of the TOML file as well (settings.py reads them and refuses unknown keys), so a field's
description here is its line in the configuration reference. They travel to workers too, who skip fields that are newer than they.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from batchsched import measures
from batchsched.catalogue import Catalogue, Gpu, builtin
from batchsched.engines import EngineName
from batchsched.errors import InvalidValue
from batchsched.units import parse_duration_s

_PARALLEL_FLAGS = {
    **dict.fromkeys(("--tensor-parallel-size", "-tp"), "tensor"),
    **dict.fromkeys(("--pipeline-parallel-size", "-pp"), "pipeline"),
    **dict.fromkeys(("--data-parallel-size", "-dp"), "data"),
}
WINDOW_NAME = r"[A-Za-z0-9_-]{1,64}"
PoolKind = Literal["dedicated", "spare", "cpu"]
Mode = measures.Mode
_MISSING = {
    "slo": "a spare pool needs to know what its online users are promised: give ttft_ms and tpot_ms",
    "ceiling": "a spare pool needs the most offline requests that may be in flight at one server, however quiet it is",
}


class GpuType(msgspec.Struct, frozen=True):
    """What speed and power priors need of an accelerator, from the catalogue."""

    name: str
    memory_gb: float
    bandwidth_gb_per_s: float
    tdp_w: float
    idle_w: float
    compute_capability: float
    """NVIDIA's number; the higher, the newer. 0 for a CPU."""


IDLE_SHARE_OF_TDP = 0.12
"""Stands in where no idle figure was found: the median of the catalogue's."""


def gpu_types(catalogue: Catalogue) -> dict[str, GpuType]:
    """The accelerators that are known well enough to declare a pool of them."""
    return {gpu.name: kind for gpu in catalogue.gpus.values() if (kind := _type(gpu))}


def _type(gpu: Gpu) -> GpuType | None:
    memory, bandwidth, tdp, newness = gpu.memory_gb, gpu.bandwidth_gb_per_s, gpu.tdp_w, gpu.compute_capability
    if not (memory and bandwidth and tdp and newness):
        return None
    idle_w = gpu.idle_w.value if gpu.idle_w else IDLE_SHARE_OF_TDP * tdp.value
    return GpuType(gpu.name, memory.value, bandwidth.value, tdp.value, idle_w, newness.value)


GPU_TYPES: dict[str, GpuType]
"""Those of our own catalogue, which is read when somebody first asks: a command that only speaks to a server never does."""


@cache
def known_gpus() -> dict[str, GpuType]:
    """`GPU_TYPES`, for this module itself."""
    return gpu_types(builtin())


def __getattr__(name: str) -> dict[str, GpuType]:
    if name == "GPU_TYPES":
        return known_gpus()
    raise AttributeError(f"module 'batchsched.fleet' has no attribute '{name}'")


# Watts of one virtual CPU at idle and at full load, for machines without a meter: Cloud Carbon Footprint's coefficients for
# Cascade Lake (from SPECpower results), as listed in the GreenKube methodology.
VCPU_IDLE_W = 0.64
VCPU_MAX_W = 3.80
VCPU_MODEL = f"CPU time used, {VCPU_IDLE_W:g} W idle to {VCPU_MAX_W:g} W busy for each vCPU (Cloud Carbon Footprint)"


class Window(msgspec.Struct, frozen=True):
    """A recurring opening of a pool; while it is closed nothing new starts there."""

    cron: Annotated[
        str,
        Meta(max_length=500, description="When it opens: five cron fields; weekdays by name or number (0 and 7 are Sunday)"),
    ]
    duration: Annotated[str, Meta(max_length=100, description="How long it stays open, such as `8h`")]
    timezone: Annotated[str, Meta(max_length=100, description="IANA time zone of the cron fields")] = "UTC"

    @property
    def complaint(self) -> tuple[str, str] | None:
        """The field that is wrong, and why; None where all is well. Of the cron line only the form is looked at."""
        import difflib
        import zoneinfo

        try:
            parse_duration_s(self.duration)
        except InvalidValue as problem:
            return "duration", problem.message
        try:
            zoneinfo.ZoneInfo(self.timezone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            near = difflib.get_close_matches(self.timezone[:100], zoneinfo.available_timezones(), n=1) or ["Europe/Berlin"]
            return "timezone", f"'{self.timezone[:100]}' is not an IANA time zone, such as {near[0]}."
        if len(self.cron.split()) != 5:
            return "cron", f"'{self.cron[:100]}' does not have five fields (minute hour day month weekday)."
        return None


class PoolWindow(Window, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A window by a name of its own; a pool may have several, and is open while any of them is."""

    pool: Annotated[str, Meta(description="Name of the pool that it opens")]
    share: Annotated[
        float, Meta(gt=0, le=1, description="Part of the pool's replicas that it opens: whole ones, and at least one")
    ] = 1.0
    max_intensity_g_per_kwh: (
        Annotated[float, Meta(gt=0, le=10_000, description="Shut while the grid's forecast is above so many gCO2e/kWh")] | None
    ) = None
    only_if_below_forecast_percentile: (
        Annotated[float, Meta(gt=0, lt=100, description="Shut while the forecast is above this percentile of its next 24 hours")]
        | None
    ) = None

    @property
    def limited(self) -> bool:
        """Does it hang on the forecast?"""
        return self.max_intensity_g_per_kwh is not None or self.only_if_below_forecast_percentile is not None


class Site(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A place with a grid zone."""

    zone: Annotated[str, Meta(description="Grid zone, named as the forecast source names it, such as `DE`")]
    pue: Annotated[float, Meta(ge=1.0, le=3.0, description="Power usage effectiveness: facility energy over IT energy")] = 1.2
    simulated: Annotated[bool, Meta(description="True where the engine really runs elsewhere; every report then says so")] = False
    market_g_per_kwh: (
        Annotated[float, Meta(ge=0, description="Factor of the site's power contract, reported apart as market-based grams")]
        | None
    ) = None
    electricity_price_per_kwh: Annotated[float, Meta(ge=0, description="Money for a kilowatt-hour, where plans weigh money")] = (
        0.0
    )
    network_gb_per_s: (
        Annotated[float, Meta(gt=0, description="Gigabytes a second between here and the home site; absent: files take no time")]
        | None
    ) = None
    network_price_per_gb: Annotated[
        float, Meta(ge=0, description="Money for a gigabyte between here and the home site, where plans weigh money")
    ] = 0.0


class HostCpu(msgspec.Struct, frozen=True):
    """How an engine on a host's processors keeps out of the way of what the host is for."""

    cores: Annotated[str, Meta(description="Cores that it is bound to, such as `0-3,8`; empty: all")] = ""
    nice: Annotated[int, Meta(ge=0, le=19, description="Its niceness: 0 is as everybody, 19 gives way most")] = 0
    idle: Annotated[bool, Meta(description="Run only where a core has nothing else to do (Linux: SCHED_IDLE)")] = False
    memory_gb: Annotated[float, Meta(gt=0, description="It is ended where it holds more GB (10^9 bytes)")] | None = None
    shared: Annotated[
        bool, Meta(description="The host is on for others anyway: only what the engine adds to its draw counts")
    ] = False


def cores_of(text: str) -> list[int]:
    """The cores that a list as Linux writes it names (`0-3,8`), in order; of an empty one none. Raises ValueError."""
    found: set[int] = set()
    for part in text.split(",") if text.strip() else []:
        first, dash, last = (word.strip() for word in part.partition("-"))
        if not first.isdecimal() or (dash and not (last.isdecimal() and int(first) <= int(last) < int(first) + 4096)):
            raise ValueError(f"'{text}' is not a list of cores such as 0-3,8")
        found.update(range(int(first), int(last or first) + 1))
    return sorted(found)


class Slo(msgspec.Struct, frozen=True):
    """What the online users of a spare pool's servers keep, whatever is done beside them."""

    ttft_ms: Annotated[
        float, Meta(gt=0, description="Time to the first token, in milliseconds, that online requests are to keep")
    ]
    tpot_ms: Annotated[float, Meta(gt=0, description="Time for each token after it, in milliseconds, likewise")]
    percentile: Annotated[
        float, Meta(ge=50, lt=100, description="Of all online requests, this percentage keeps both; 99 for p99")
    ] = 99.0


class Pool(msgspec.Struct, frozen=True):
    """GPUs of one type at one site behind vLLM."""

    site: Annotated[str, Meta(description="Name of a site")] = "home"
    kind: Annotated[
        PoolKind,
        Meta(
            description="`dedicated`: ours alone; `spare`: what online users of running servers leave (docs/spare.md); "
            "`cpu`: a host's processors (docs/host_cpus.md)"
        ),
    ] = "dedicated"
    gpu: Annotated[str, Meta(description="GPU type, or `cpu`")] = "cpu"
    count: Annotated[
        int, Meta(ge=1, le=100_000, description="How many replicas (workers; of a spare pool: servers) it has at once")
    ] = 1
    models: Annotated[list[str], Meta(description="Models it may serve; empty: every declared model")] = []
    max_in_flight: Annotated[int, Meta(ge=1, le=100_000, description="Requests in flight at one engine")] = 256
    max_tokens_in_flight: (
        Annotated[
            int,
            Meta(
                ge=1,
                description="Tokens of KV cache that they may need in all, prompts and expected answers; absent: as many as the "
                "engine says it has",
            ),
        ]
        | None
    ) = None
    power_w: Annotated[float, Meta(gt=0, description="Watts of one busy replica, where no meter can measure it")] | None = None
    power_cap_w: (
        Annotated[float, Meta(gt=0, description="Cap on the power of each of its GPUs while a worker runs (reused_gpus.md)")]
        | None
    ) = None
    clock_mhz: (
        Annotated[int, Meta(ge=100, description="Highest clock of its GPUs' processors while a worker runs (reused_gpus.md)")]
        | None
    ) = None
    price_per_h: Annotated[float, Meta(ge=0, description="Money for an hour of one replica, where plans weigh money")] = 0.0
    window: Annotated[Window | None, Meta(description="When it is open; always where absent")] = None
    engine_args: Annotated[list[str], Meta(description="Further vLLM flags for every model of this pool")] = []
    engine: Annotated[EngineName, Meta(description="What serves there: `vllm`, `llama.cpp` or `llama-cpp-python`")] = "vllm"
    engine_version: Annotated[str, Meta(description="The engine's version, such as `0.9.2`; empty: not known")] = ""
    quirks: Annotated[
        list[str], Meta(description="What is unusual about its engine: `own_build`, `no_priority`, `v0` (reused_gpus.md)")
    ] = []
    host: Annotated[str, Meta(description="Server of the hardware catalogue that its GPUs share; `slot` is any")] = "slot"
    bought_at: Annotated[date | None, Meta(description="Day the hardware was bought, such as 2021-06-01; new where absent")] = (
        None
    )
    second_life_at: Annotated[date | None, Meta(description="Day its second life began, where it is reused hardware")] = None
    second_life_years: Annotated[float, Meta(gt=0, description="How long that second life is planned to be")] | None = None
    slo: Annotated[Slo | None, Meta(description="Needed where `kind` is `spare`: what its online users are promised")] = None
    ceiling: (
        Annotated[
            int,
            Meta(ge=1, le=100_000, description="Needed where `kind` is `spare`: most offline requests in flight at one server"),
        ]
        | None
    ) = None

    cpu: Annotated[HostCpu | None, Meta(description="Where `gpu` is `cpu`: how its engine keeps out of the way")] = None

    @property
    def adds_only(self) -> bool:
        """Are its machines on for others anyway, so that only what it adds to their draw counts?"""
        return self.kind == "spare" or (self.cpu is not None and self.cpu.shared)

    @property
    def most_in_flight(self) -> int:
        """Requests of ours at one engine, whatever else allows more."""
        return self.max_in_flight if self.ceiling is None else min(self.max_in_flight, self.ceiling)

    @property
    def complaint(self) -> tuple[str, str] | None:
        """What does not go with its kind: the key, and what is wrong and what to do; None where all is well."""
        if self.kind == "cpu" and self.gpu != "cpu":
            return (
                "gpu",
                f"a pool of kind 'cpu' computes on its host's processors; take out '{self.gpu}', or say kind = \"dedicated\"",
            )
        if self.cpu is not None:
            if self.gpu != "cpu":
                return "cpu", f"its engine computes on '{self.gpu}', not on its host's processors"
            try:
                cores_of(self.cpu.cores)
            except ValueError as problem:
                return "cpu.cores", str(problem)
        for key, value in (("slo", self.slo), ("ceiling", self.ceiling)):
            if (value is None) == (self.kind == "spare"):
                return key, _MISSING[key] if value is None else f"only pools of kind 'spare' have one; this one is '{self.kind}'"
        return None

    @property
    def gpus(self) -> int:
        """GPUs of one replica, by the pool's own flags; its models' may say more (`replica_gpus`)."""
        return gpus_of(self.engine_args) or 1

    @property
    def power_model(self) -> str:
        """By which figures the energy of a replica is modelled where nothing measures it."""
        if self.power_w is not None:
            return f"the {self.power_w:g} W that the pool declares, idle watts while no request is in flight"
        if self.gpu == "cpu":
            return VCPU_MODEL
        known = known_gpus().get(self.gpu)
        return f"the TDP of {known.name}, {known.tdp_w:g} W, its idle watts while no request is in flight" if known else ""

    def serves(self, model: str) -> bool:
        """May this pool serve the model?"""
        return not self.models or model in self.models


def wrong_window(name: str, window: PoolWindow, pools: Mapping[str, Pool]) -> tuple[str, str] | None:
    """What is wrong with a declared window: the rest of its key, and why; None where all is well."""
    if not re.fullmatch(WINDOW_NAME, name):
        return "", "a name has at most 64 letters, digits, - and _."
    if window.pool not in pools:
        return ".pool", f"there is no pool '{window.pool}' (allowed: {', '.join(pools) or 'none is declared'})."
    if wrong := window.complaint:
        return f".{wrong[0]}", wrong[1]
    return None


def windows_by_key(pools: Mapping[str, Pool], windows: Mapping[str, PoolWindow]) -> dict[str, PoolWindow]:
    """Every window by the key that declares it: `pools.NAME.window` or `windows.NAME`."""
    own = {name: pool.window for name, pool in pools.items() if pool.window}
    found = {f"pools.{name}.window": PoolWindow(pool=name, **msgspec.structs.asdict(window)) for name, window in own.items()}
    return found | {f"windows.{name}": window for name, window in windows.items()}


class Launch(msgspec.Struct, frozen=True):
    """How the launcher on this node starts workers of a pool; never sent to the server."""

    replicas: Annotated[int, Meta(ge=1, le=1000, description="Most workers at once, where `devices` does not say it")] = 1
    devices: Annotated[
        list[str],
        Meta(description="GPUs of each worker, such as `0` or `2,3`: its CUDA_VISIBLE_DEVICES, and `{devices}` in what follows"),
    ] = []
    command: Annotated[
        list[str], Meta(description="What becomes a worker, `{place}` and `{devices}` filled in; empty: this batchsched's own")
    ] = []
    env: Annotated[dict[str, str], Meta(description="Environment of the workers, over the launcher's own")] = {}
    folder: Annotated[str, Meta(description="Where they run; empty: where the launcher does")] = ""
    lead_s: Annotated[float, Meta(ge=0, description="From a start to a worker that is there, its engine not counted")] = 10.0
    grace_s: Annotated[float, Meta(ge=0, description="How long one may take to end before it is ended by force")] = 120.0
    linger_s: Annotated[float, Meta(ge=0, description="How long one that is not wanted stays all the same")] = 60.0
    probation_s: Annotated[
        float,
        Meta(gt=0, description="How long a new one may take to present itself, and one of a changed launch to finish a chunk"),
    ] = 900.0


class Draft(msgspec.Struct, frozen=True):
    """How the drafts are made that a model then checks, in the modes of serving that have such."""

    method: Annotated[
        Literal["ngram", "model", "remote"],
        Meta(description="`ngram`: by what stood there before; `model`: by a smaller model beside it; `remote`: on another pool"),
    ] = "ngram"
    model: Annotated[str, Meta(description="Folder or hub name of the smaller model; none for `ngram`")] = ""
    tokens: Annotated[int, Meta(ge=1, le=64, description="Tokens of one draft")] = 4
    lookup_min: Annotated[int, Meta(ge=1, le=64, description="For `ngram`: fewest tokens that must have stood there before")] = 2
    lookup_max: Annotated[int, Meta(ge=1, le=64, description="For `ngram`: most tokens that are looked for")] = 4


class ServedModel(msgspec.Struct, frozen=True):
    """A model that batches may name."""

    path: Annotated[str, Meta(description="Folder or hub name that vLLM loads; empty: the model's own name")] = ""
    parameters_b: Annotated[float, Meta(gt=0, description="Billions of parameters; read from the folder where absent")] | None = (
        None
    )
    max_model_len: Annotated[int, Meta(ge=16, description="Longest prompt plus answer, in tokens")] | None = None
    engine_args: Annotated[list[str], Meta(description="Further vLLM flags for this model")] = []
    weights: Annotated[
        dict[str, str],
        Meta(description="Its weights in other forms, by vLLM's name of the quantization, for pools that cannot run `path`'s"),
    ] = {}
    adapter_of: Annotated[
        str, Meta(description="Where it is a LoRA adapter: the declared model that it belongs to, which says all but `adapter`")
    ] = ""
    adapter: Annotated[str, Meta(description="The adapter's folder on the workers, or its hub name")] = ""
    variant_of: Annotated[
        str, Meta(description="Where it is another way to serve a declared model (modes.md): that model, which says the rest")
    ] = ""
    mode: Annotated[Mode, Meta(description="The way: what is not `standalone` has `variant_of` too")] = "standalone"
    partner_pool: Annotated[
        str, Meta(description="In a mode of two pools: that whose engines read prompts, or draft; batches go to the other")
    ] = ""
    draft: Annotated[Draft | None, Meta(description="In a mode with drafts: how they are made")] = None


def gpus_of(engine_args: Sequence[str]) -> int | None:
    """GPUs of one replica, as vLLM's flags have it (of one that comes twice the last holds); None where they do not say."""
    pairs = itertools.pairwise(words_of(engine_args))
    sizes = {_PARALLEL_FLAGS[flag]: int(n) for flag, n in pairs if flag in _PARALLEL_FLAGS and n.isdecimal()}
    return math.prod(sizes.values()) if sizes else None


def kv_offload_gib(engine_args: Sequence[str]) -> float | None:
    """Memory that an engine reserves for KV caches moved off its GPUs, as vLLM's flags have it; None where it reserves none."""
    found: float | None = None
    for flag, size in itertools.pairwise(words_of(engine_args)):
        with contextlib.suppress(ValueError):
            found = float(size) if flag == "--kv-offloading-size" else found
    return found


def absolute(path: str) -> str:
    """A folder, for an engine with a working folder of its own; a hub name as it is."""
    return str(Path(path).absolute()) if Path(path).exists() else path


def words_of(engine_args: Iterable[str]) -> list[str]:
    """Flags and their values one by one, in whichever way they are written."""
    return " ".join(engine_args).replace("=", " ").split()


def replica_gpus(pool: Pool, models: Iterable[ServedModel] = ()) -> int:
    """GPUs that one replica holds: as many as the largest of its models takes, by vLLM's flags."""
    flags = [[*pool.engine_args, *model.engine_args] for model in models] or [pool.engine_args]
    return max(gpus_of(each) or 1 for each in flags)


class Fleet(msgspec.Struct, frozen=True, dict=True):
    """Everything declared about places and machines, by name."""

    sites: dict[str, Site]
    pools: dict[str, Pool]
    models: dict[str, ServedModel]
    home_site: str
    gpus: dict[str, GpuType] = msgspec.field(default_factory=known_gpus)
    """The types that are known, the operator's own included."""

    @cached_property
    def replica_gpus(self) -> dict[str, int]:
        """GPUs of one replica of each pool."""
        return {
            name: replica_gpus(pool, [model for key, model in self.models.items() if pool.serves(key)])
            for name, pool in self.pools.items()
        }

    def is_spare(self, pool: str) -> bool:
        """Is it a share of online servers?"""
        return pool in self.pools and self.pools[pool].kind == "spare"

    def adds_only(self, pool: str) -> bool:
        """Are a pool's machines on for others anyway?"""
        return pool in self.pools and self.pools[pool].adds_only

    def added_j(self, pool: str, energy_j: float, busy_s: float) -> float:
        """Of the joules of a pool's work those that are charged to it: on a spare pool what it added to the servers' idle watts,
        by the replica seconds that were its share."""
        if not self.is_spare(pool):
            return energy_j  # of a shared host's processors the meter itself counts no more than what was added
        declared = self.pools[pool]
        gpu = self.gpus.get(declared.gpu)
        idle_w = gpu.idle_w * self.replica_gpus[pool] if gpu else VCPU_IDLE_W / VCPU_MAX_W * (declared.power_w or 0.0)
        return max(0.0, energy_j - idle_w * busy_s)

    def gpu_of(self, pool: str) -> GpuType | None:
        """The GPU type of a pool, drawing no more than the pool lets it; None for a CPU."""
        declared = self.pools[pool]
        known, cap_w = self.gpus.get(declared.gpu), declared.power_cap_w
        return msgspec.structs.replace(known, tdp_w=min(known.tdp_w, cap_w)) if known and cap_w else known

    def newness(self, pool: str) -> tuple[float, float]:
        """Orders pools from old to new hardware: compute capability, then memory bandwidth. A CPU is oldest."""
        gpu = self.gpus.get(self.pools[pool].gpu)
        return (gpu.compute_capability, gpu.bandwidth_gb_per_s) if gpu else (0.0, 0.0)

    def alike(self, one: str, other: str) -> bool:
        """Do replicas of two pools run a model alike: the same hardware, with all settings that shape its speed and its draw?"""
        if one == other or one not in self.pools or other not in self.pools:
            return one == other
        kinds = [
            (
                *(pool.kind, pool.gpu, self.replica_gpus[name], pool.power_w, pool.engine_args, pool.power_cap_w),
                *(pool.most_in_flight, pool.max_tokens_in_flight, pool.clock_mhz, pool.cpu),
            )
            for name in (one, other)
            for pool in [self.pools[name]]
        ]
        return kinds[0] == kinds[1]

    def zone_of(self, pool: str) -> str:
        """The grid zone of a pool."""
        return self.site_of(pool).zone

    def site_of(self, pool: str) -> Site:
        """The site of a pool."""
        return self.sites[self.pools[pool].site]

    def pools_for(self, model: str, sites: list[str] | None = None) -> list[str]:
        """Names of the pools that may run a model, at the given sites where any are named."""
        return [name for name, pool in self.pools.items() if pool.serves(model) and (not sites or pool.site in sites)]
