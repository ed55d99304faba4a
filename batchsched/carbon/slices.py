"""A report's sums in slices: by chunk, batch, tenant, pool, site, or by request; and its SCI score.

SCI: Software Carbon Intensity, ISO/IEC 21031: (operational + embodied) over a functional unit, here a request and 1,000 tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from batchsched.carbon.hardware import Range
from batchsched.carbon.parts import Part, Parts
from batchsched.carbon.provenance import listed
from batchsched.carbon.report import Factor, Report, Row


class Sci(msgspec.Struct, frozen=True):
    """Grams of operational and embodied carbon over a unit: by the low, mid and high figures of the hardware."""

    g_per_request: Range | None
    g_per_1000_tokens: Range | None


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What some work took. Each figure has its `how` beside it: who says so, several with their shares. Unknown is never zero.

    The PUE is weighted by energy; the intensity, which is what came true, by energy and PUE: where nothing is missing, the
    operational grams are the three multiplied. `loading` is in the sums, the other parts stand apart.
    """

    models: list[str]
    """That served it."""
    energy_j: float
    energy_how: str
    energy_by_source: dict[str, float]
    pue: float | None
    pue_how: str
    intensity_g_per_kwh: float | None
    intensity_how: str
    signal: str | None
    operational_g: float | None
    unknown_energy_j: float
    unmeasured_s: float
    embodied_g: Range | None
    embodied_unknown_s: float
    embodied_how: str
    loading: Part | None
    idle: Part | None
    network: Part | None
    storage: Part | None
    waste: Part | None


class Slice(Cost, frozen=True, kw_only=True):
    """One part of what a report sums up. The parts' joules add up to the whole's, their grams too."""

    name: str
    requests: int
    input_tokens: int
    output_tokens: int
    busy_s: float
    sci: Sci | None
    provenance: list[Factor]


class RequestShare(Cost, frozen=True, kw_only=True):
    """A request's share of its chunk, by the tokens that were computed for it. `custom_id` as in the input file."""

    custom_id: str
    chunk_id: str
    input_tokens: int
    output_tokens: int


class Answered(NamedTuple):
    """A request that came back, and what was computed for it."""

    custom_id: str
    input_tokens: int
    cached_tokens: int
    output_tokens: int


SUMS = ("energy_j", "energy_by_source", "operational_g", "unknown_energy_j", "unmeasured_s", "embodied_g", "embodied_unknown_s")


def sci(report: Report, answered: int | None = None) -> Sci | None:
    """The score; None where part of the energy, the grid or the hardware is unknown.

    `answered`: how many requests have a good answer by now, where that is known: of one that failed and was retried work was
    charged for each answer, and it is one request all the same. The work of a part of the time may be for fewer of them.
    """
    whole = not (report.unknown_energy_j or report.unmeasured_s or report.embodied_unknown_s)
    if not whole or report.operational_g is None or report.embodied_g is None:
        return None
    grams = report.embodied_g + Range(report.operational_g, report.operational_g, report.operational_g)
    tokens = report.input_tokens + report.output_tokens
    requests = report.requests if answered is None else min(report.requests, answered)
    return Sci(
        grams.scaled(1 / requests) if requests else None,
        grams.scaled(1000 / tokens) if tokens else None,
    )


_NO_PARTS = Parts()


def sliced(name: str, report: Report, parts: Parts = _NO_PARTS, answered: int | None = None) -> Slice:
    """The slice that this report is of. `answered` is as with `sci`."""
    metered = [row for row in report.rows if row.energy_source != "unmeasured"]
    known = [row for row in metered if row.pue is not None]
    places = {f"{row.site} {row.pue:g}": 0.0 for row in report.rows if row.pue is not None}
    made = "; ".join(f"{each.factor} {each.value} kg" for each in report.provenance if each.unit == "kgCO2e")
    return Slice(
        name=name,
        requests=report.requests,
        input_tokens=report.input_tokens,
        output_tokens=report.output_tokens,
        busy_s=report.busy_s,
        sci=sci(report, answered),
        provenance=report.provenance,
        models=sorted({row.model for row in report.rows} - {""}),
        energy_how=listed(_joules_by(report.rows, "energy_how")),
        pue=_mean([(row.pue, row.energy_j) for row in known if row.pue is not None]),
        pue_how=f"configuration: {listed(places)}" if places else "no pool of it is declared any more",
        intensity_g_per_kwh=_intensity(known),
        intensity_how=listed(_joules_by(report.rows, "intensity")),
        signal=report.signal,
        embodied_how=f"{report.policy}, over {report.lifetime_years:g} years; low / mid / high: {made}",
        **{field: getattr(report, field) for field in SUMS},
        **parts._asdict(),
    )


def _joules_by(rows: Sequence[Row], field: str) -> dict[str, float]:
    sums: dict[str, float] = {}
    for row in rows:
        said = row.intensity.source if field == "intensity" else row.energy_how
        sums[said] = sums.get(said, 0.0) + row.energy_j
    return sums


def _intensity(rows: Iterable[Row]) -> float | None:
    grids = ((row.intensity.mean_g_per_kwh, row.energy_j * (row.pue or 0.0)) for row in rows)
    return _mean([(mean, weight) for mean, weight in grids if mean is not None])


def _mean(weighed: Sequence[tuple[float, float]]) -> float | None:
    """Of values with weights; without any weight the one value of all."""
    if total := math.fsum(weight for _, weight in weighed):
        return math.fsum(value * weight for value, weight in weighed) / total
    values = {value for value, _ in weighed}
    return values.pop() if len(values) == 1 else None


def shared(chunk: Slice, answered: Iterable[Answered]) -> list[RequestShare]:
    """What each request of a chunk cost. The shares add up to the chunk's slice; where no token was counted they are equal."""
    requests = list(answered)
    weights = [float(max(0, each.input_tokens - each.cached_tokens) + each.output_tokens) for each in requests]
    weights = weights if sum(weights) else [1.0] * len(requests)
    total = sum(weights)
    amounts = {field: getattr(chunk, field) for field in (*SUMS, *Parts._fields)}
    same = {field: getattr(chunk, field) for field in Cost.__struct_fields__ if field not in amounts}
    return [
        RequestShare(
            custom_id=each.custom_id,
            chunk_id=chunk.name,
            input_tokens=each.input_tokens,
            output_tokens=each.output_tokens,
            **same,
            **{field: _scaled(amount, weight / total) for field, amount in amounts.items()},
        )
        for each, weight in zip(requests, weights, strict=True)
    ]


def _scaled(amount: Any, share: float) -> Any:
    if amount is None:
        return None
    if isinstance(amount, dict):
        return {name: value * share for name, value in amount.items()}
    return amount * share if isinstance(amount, float | int) else amount.scaled(share)
