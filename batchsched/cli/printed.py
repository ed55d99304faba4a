"""What `--json` prints, by command: the one place from which docs/json.md and its schemas are made, and by which tests hold them.

Where a command prints what the server or the library says, its type is named where it is; what commands compose themselves are
the structs here. Nothing is imported until a type is asked for: server types need batchsched's server part.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal, NamedTuple

import msgspec

Level = Literal["ok", "warning", "broken"]


class Finding(msgspec.Struct, frozen=True):
    """What one check of `doctor` found. `next_step`: what to do about it, empty where nothing is to be done."""

    check: str
    level: Level
    text: str
    next_step: str = ""


class Examined(msgspec.Struct, frozen=True):
    """`ok`: nothing is broken; warnings do not count."""

    ok: bool
    checks: tuple[Finding, ...]


class FileError(msgspec.Struct, frozen=True):
    """One error of a file; `line` counts from 1, null where the whole file is meant."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Validated(msgspec.Struct, frozen=True):
    """`errors`: the first hundred of `error_count`; `cannot_run`: why, by pool; `likely_cut`: lines that ask for more than a
    model's context."""

    valid: bool
    endpoint: str | None
    model: str | None
    requests: int
    bytes: int
    error_count: int
    errors: tuple[FileError, ...]
    cannot_run: dict[str, str]
    likely_cut: int


class Submittable(msgspec.Struct, frozen=True):
    """What `submit --dry-run` found."""

    valid: bool
    endpoint: str | None
    model: str | None
    requests: int
    bytes: int
    deadline_at: str
    server: str
    error_count: int
    errors: tuple[FileError, ...]


class Fetched(msgspec.Struct, frozen=True):
    """What `results --out` wrote."""

    batch_id: str
    status: str
    files: tuple[str, ...]


class Removed(msgspec.Struct, frozen=True):
    """`deleted` is false with --dry-run."""

    id: str
    object: str
    deleted: bool


class Ran(msgspec.Struct, frozen=True):
    """How `run` ended; `report` is null where a window closed first."""

    batch: dict[str, Any]
    out: str
    report: dict[str, Any] | None


class WouldRun(msgspec.Struct, frozen=True):
    """What `run --dry-run` found."""

    would: str
    file: str
    requests: int
    endpoint: str
    model: str
    deadline_at: str
    pools: tuple[str, ...]
    zones: tuple[str, ...]
    out: str


class Filled(msgspec.Struct, frozen=True):
    """What one source gave of a span."""

    start: str
    end: str
    source: str
    received: int
    added: int
    problem: str = ""


class Shown(msgspec.Struct, frozen=True):
    """What is known of pools and models, and of answers."""

    profiles: tuple[dict[str, Any], ...]
    answers: tuple[dict[str, Any], ...]


class Compared(msgspec.Struct, frozen=True):
    """One pool beside others: what it takes for the requests on one replica, and at the grid's intensity of this hour."""

    pool: str
    seconds: float
    energy_j: float
    g_per_kwh: float | None
    grams: float | None
    model: str = ""
    mode: str = "standalone"


class Beside(msgspec.Struct, frozen=True):
    """Pools side by side, the best first."""

    model: str
    requests: int
    input_tokens: int
    output_tokens: float
    pools: tuple[Compared, ...]


class Setting(msgspec.Struct, frozen=True):
    """A setting, and who set it."""

    value: Any
    origin: str


ByKey = dict[str, Setting]
"""Settings by their dotted keys."""


class Printed(NamedTuple):
    """`kind`: the type as `module:name` below batchsched; `many`: one object a line, else one. `when`: with what options."""

    kind: str
    many: bool = False
    when: str = ""


def _library(name: str, *, many: bool = False, when: str = "") -> Printed:
    return Printed(f"cli.printed_library:{name}", many, when)


def _own(name: str, *, many: bool = False, when: str = "") -> Printed:
    return Printed(f"cli.printed:{name}", many, when)


_BATCH = (Printed("client.results:Batch"),)
_POOL = (Printed("client.plans:PoolStatus", many=True),)
_SHIFTING = (Printed("client.plans:Shifting"),)
_WINDOW = (Printed("server.window_answers:WindowStatus"),)
_SCHEDULE = (Printed("server.schedule_answers:Schedule"),)
_KEY = Printed("client.results:Key")

PRINTED: dict[str, tuple[Printed, ...]] = {
    "run": (_own("Ran"), _own("WouldRun", when="--dry-run")),
    "doctor": (_own("Examined"),),
    "validate": (_own("Validated"),),
    "config show": (Printed("settings:Settings"), _own("ByKey", when="--origin")),
    "top": (Printed("cli.glance:Glance"),),
    "submit": (*_BATCH, _own("Submittable", when="--dry-run")),
    "list": (Printed("client.results:Batch", many=True),),
    **dict.fromkeys(("show", "wait", "cancel", "retry", "pause", "resume", "start", "update"), _BATCH),
    "results": (Printed("client.answers:OutputLine", many=True), _own("Fetched", when="--out")),
    "explain": (Printed("client.results:Explanation"),),
    "report": (
        Printed("server.contract:BatchReport"),
        Printed("client.results:Slice", many=True, when="--by"),
        Printed("client.results:RequestShare", many=True, when="--by request"),
        Printed("client.results:BookEntry", many=True, when="--books"),
        Printed("client.results:PoolEnergy", many=True, when="--meters"),
    ),
    "plan show": (Printed("server.plan_answers:Plan"),),
    "plan what-if": (Printed("server.plan_answers:WhatIf"),),
    "plan replay": (Printed("server.plan_answers:Replayed"),),
    "plan freeze": _SHIFTING,
    "plan unfreeze": _SHIFTING,
    "window list": (Printed("client.windows:Window", many=True),),
    **dict.fromkeys((f"window {verb}" for verb in ("add", "show", "pause", "resume", "skip", "extend")), _WINDOW),
    "window remove": (_own("Removed"),),
    "schedule list": (Printed("client.schedules:Schedule", many=True),),
    **dict.fromkeys((f"schedule {verb}" for verb in ("add", "show", "pause", "resume")), _SCHEDULE),
    "schedule remove": (_own("Removed"),),
    "schedule history": (Printed("client.schedules:Release", many=True),),
    **dict.fromkeys((f"pool {verb}" for verb in ("list", "cordon", "drain", "open")), _POOL),
    "profile show": (_own("Shown"),),
    "profile compare": (
        _own("Beside"),
        Printed("cli.profile_choice:AtRates", when="--at-rates"),
        _library("Ways", when="--modes"),
    ),
    "profile run": (_library("Measured"),),
    "forecast show": (Printed("client.forecasts:Forecast"),),
    "forecast zones": (Printed("client.forecasts:ForecastFeed", many=True),),
    "forecast import": (Printed("client.forecasts:Imported"),),
    "forecast backfill": (_own("Filled", many=True),),
    "forecast train": (Printed("client.forecasts:Trained", many=True),),
    "forecast evaluate": (Printed("client.forecasts:Skill", many=True),),
    "carbon hardware": (
        _library("Hardware"),
        _library("Listed", many=True, when="without a NAME"),
        Printed("catalogue:Host", many=True, when="--parts, a server"),
        Printed("catalogue:Part", many=True, when="--parts, a part of one"),
    ),
    "carbon compare": (_library("Column", many=True),),
    "carbon crossover": (_library("Crossing"),),
    "carbon what-if": (_library("Supposed", many=True), _library("AsPaper", many=True, when="--preset")),
    "carbon reproduce greenllm": (Printed("carbon.reproduce_greenllm:Reproduction"),),
    "carbon reproduce ecoserve": (Printed("carbon.reproduce_ecoserve:Reproduction"),),
    "simulate": (
        Printed("cli.printed_simulated:Simulated"),
        Printed("cli.printed_simulated:SimulatedPast", when="--from-archive"),
    ),
    "simulate compare": (Printed("simulate.comparing:Comparison"),),
    "audit": (Printed("client.audit:Entry", many=True),),
    "key create": (_KEY,),
    "key list": (_KEY._replace(many=True),),
    "key revoke": (_KEY,),
}
"""Every command that has `--json`. A kind that is empty is told by its `when` alone."""


def type_of(printed: Printed) -> Any:
    """The type itself."""
    module, _, name = printed.kind.partition(":")
    return getattr(import_module(f"batchsched.{module}"), name)
