"""The report's arithmetic: what a batch cost, and what running it at once would have cost.

What is not known stays apart: energy without an intensity, hardware without a published figure, and work that no meter saw are
reported as such and never counted as zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TypeVar

import msgspec

from batchsched.carbon.embodied import Policy
from batchsched.carbon.hardware import Range
from batchsched.carbon.models import Hardware
from batchsched.carbon.operational import operational_g
from batchsched.carbon.provenance import METERS, factors, how_known, in_all, remarks, unique
from batchsched.carbon.report import Attributed, Baseline, Entry, Intensity, Report, Reserved, Row, RunNow, Saving, Truth
from batchsched.carbon.savings import with_embodied_g
from batchsched.errors import SignalMismatch
from batchsched.units import iso
from batchsched.wire import EnergySource

_Summed = TypeVar("_Summed", float, Range, Saving, Attributed)

__all__ = ["Baseline", "Entry", "Intensity", "Report", "Row", "RunNow", "Truth", "account", "total"]

_PUBLISHED = Hardware()


def account(
    entries: Sequence[Entry],
    truth: Truth,
    baseline: Baseline | None,
    policy: Policy = "sunk",
    lifetime_years: float = 5.0,
    hardware: Hardware = _PUBLISHED,
    models_accepted: Sequence[str] = (),
) -> Report:
    """The report of one batch, which several models may serve where they are given.

    Raises SignalMismatch where intensities of different signals would be added or compared.
    """
    rows = _merged(_row(entry, truth) for entry in entries)
    run_now = _run_now(baseline, truth, policy, lifetime_years, hardware) if baseline else None
    metered = [row for row in rows if row.energy_source != "unmeasured"]
    used = [(row.intensity, row.zone) for row in rows] + ([(run_now.intensity, run_now.terms.zone)] if run_now else [])
    report = Report(
        requests=sum(entry.requests for entry in entries),
        input_tokens=sum(entry.input_tokens for entry in entries),
        output_tokens=sum(entry.output_tokens for entry in entries),
        busy_s=sum(entry.busy_s for entry in entries),
        energy_j=sum(row.energy_j for row in metered),
        energy_by_source=_by_source((row.energy_source, row.energy_j) for row in metered),
        operational_g=_known_sum(row.operational_g for row in metered),
        unknown_energy_j=sum(row.energy_j for row in metered if row.operational_g is None),
        unmeasured_s=sum(row.busy_s for row in rows if row.energy_source == "unmeasured"),
        embodied_g=_embodied((one for e in entries for one in e.reserved), policy, lifetime_years, hardware),
        embodied_unknown_s=sum(
            seconds for e in entries for gpu, held, seconds in e.reserved if hardware.replica_kg(gpu, held) is None
        ),
        policy=policy,
        lifetime_years=lifetime_years,
        signal=_one_signal((intensity.signal, zone) for intensity, zone in used if intensity.mean_g_per_kwh is not None),
        simulated=any(entry.simulated for entry in entries),
        baseline=run_now,
        baseline_g=run_now.operational_g if run_now else None,
        saved_g=None,
        saved_fraction=None,
        models_accepted=list(models_accepted),
        saving=None,
        saved_with_embodied_g=None,
        market_g=_by_contract(entries),
        attributed=_attributed(entries, truth, policy, lifetime_years, hardware),
        beside=[],
        rows=rows,
        provenance=factors(entries, rows, run_now, policy, lifetime_years, hardware),
        notes=remarks(entries, rows, run_now, policy, hardware),
    )
    return _with_embodied(_balanced(report))


_ADDED = (
    "requests", "input_tokens", "output_tokens", "busy_s", "energy_j", "unknown_energy_j", "unmeasured_s", "embodied_unknown_s",
)  # fmt: skip


def total(reports: Sequence[Report]) -> Report:
    """Several reports as one. Savings are of the sums, and None where any part's baseline or grams are unknown.

    Raises SignalMismatch as `account` does, and ValueError for none at all or for different policies.
    """
    if len({(report.policy, report.lifetime_years) for report in reports}) != 1:
        raise ValueError("A total is of one or more reports under one embodied policy and lifetime.")
    rows = _merged(row for report in reports for row in report.rows)
    return _balanced(
        msgspec.structs.replace(
            reports[0],
            **{name: sum(getattr(report, name) for report in reports) for name in _ADDED},
            energy_by_source=_by_source(item for report in reports for item in report.energy_by_source.items()),
            operational_g=_known_sum(report.operational_g for report in reports),
            embodied_g=_known_sum(report.embodied_g for report in reports),
            signal=_one_signal((report.signal, "one batch") for report in reports if report.signal),
            simulated=any(report.simulated for report in reports),
            baseline=None,
            baseline_g=_sum_of_all([report.baseline_g for report in reports]),
            models_accepted=sorted({model for report in reports for model in report.models_accepted}),
            saving=_sum_of_all([report.saving for report in reports]),
            saved_with_embodied_g=_sum_of_all([report.saved_with_embodied_g for report in reports]),
            market_g=_sum_of_all([report.market_g for report in reports]),
            attributed=_all_attributed(reports),
            beside=[],
            rows=rows,
            provenance=in_all(reports, rows),
            notes=unique(note for report in reports for note in report.notes),
        )
    )


def _row(entry: Entry, truth: Truth) -> Row:
    intensity = truth(entry.zone, entry.started_at, entry.ended_at)
    return Row(
        pool=entry.pool,
        model=entry.model,
        site=entry.site,
        zone=entry.zone,
        started_at=entry.started_at,
        ended_at=entry.ended_at,
        busy_s=entry.busy_s,
        requests=entry.requests,
        energy_j=entry.energy_j,
        energy_source=entry.energy_source,
        energy_how=how_known(entry),
        pue=None if entry.site == "unknown" else entry.pue,
        intensity=intensity,
        operational_g=_grams(entry.energy_j, entry.energy_source, entry.pue, intensity),
    )


def _merged(rows: Iterable[Row]) -> list[Row]:
    """Rows of one pool, model and meter in time order, neighbours that share their intensity as one."""
    merged: list[Row] = []
    for row in sorted(rows, key=lambda row: (*_meter(row), row.started_at)):
        last = merged[-1] if merged else None
        if last and _meter(last) == _meter(row) and _same(last.intensity, row.intensity):
            merged[-1] = msgspec.structs.replace(
                last,
                ended_at=max(last.ended_at, row.ended_at),
                busy_s=last.busy_s + row.busy_s,
                requests=last.requests + row.requests,
                energy_j=last.energy_j + row.energy_j,
                operational_g=_known_sum([last.operational_g, row.operational_g]),
            )
        else:
            merged.append(row)
    return merged


def _meter(row: Row) -> tuple[str, str, str, str]:
    return row.pool, row.model, row.energy_source, row.energy_how


def _same(one: Intensity, other: Intensity) -> bool:
    """Equal but for the last bits, which time-weighted means of one slot's parts may differ in."""
    a, b = one.mean_g_per_kwh, other.mean_g_per_kwh
    equal = a == b if a is None or b is None else math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
    return equal and (one.source, one.signal) == (other.source, other.signal)


def _run_now(terms: Baseline, truth: Truth, policy: Policy, lifetime_years: float, hardware: Hardware) -> RunNow:
    duration_s = terms.busy_s if terms.duration_s is None else terms.duration_s
    ends_at = terms.start + timedelta(seconds=duration_s)
    intensity = truth(terms.zone, terms.start, ends_at)
    ran = f"{terms.model} on" if terms.model else "on"
    as_if = ", as if its machines were not on for others" if terms.borrowed else ""
    return RunNow(
        terms=terms,
        ends_at=ends_at,
        intensity=intensity,
        operational_g=_grams(terms.energy_j, terms.energy_source, terms.pue, intensity),
        embodied_g=_embodied([(terms.gpu, terms.held, terms.busy_s)], policy, lifetime_years, hardware),
        description=(
            f"run at once at submission, {iso(terms.start)} to {iso(ends_at)}, {ran} {terms.gpu} in pool {terms.pool} at site "
            f"{terms.site} (zone {terms.zone}){as_if}, energy {METERS[terms.energy_source]}, grid: {intensity.source}"
        ),
    )


def _grams(energy_j: float, source: EnergySource, pue: float, intensity: Intensity) -> float | None:
    if source == "unmeasured" or intensity.mean_g_per_kwh is None:
        return None
    return operational_g(energy_j, pue, intensity.mean_g_per_kwh)


def _by_contract(entries: Iterable[Entry]) -> float | None:
    """Never mixed with the grid's own: a site without a contract has no such figure, and then there is no sum."""
    grams: list[float] = []
    for entry in entries:
        if entry.market_g_per_kwh is None or entry.energy_source == "unmeasured":
            return None
        grams.append(operational_g(entry.energy_j, entry.pue, entry.market_g_per_kwh))
    return math.fsum(grams) if grams else None


def _embodied(reserved: Iterable[Reserved], policy: Policy, lifetime_years: float, hardware: Hardware) -> Range | None:
    """Replica seconds by GPU type to grams, over the types with a published figure."""
    return _known_sum(
        kg.scaled(held.charge_g(1.0, busy_s, lifetime_years, policy))
        for gpu, held, busy_s in reserved
        if (kg := hardware.replica_kg(gpu, held)) is not None
    )


def _attributed(
    entries: Sequence[Entry], truth: Truth, policy: Policy, lifetime_years: float, hardware: Hardware
) -> Attributed | None:
    if not any(entry.lent for entry in entries):
        return None
    whole = [(e, e.energy_j if e.attributed_j is None else e.attributed_j) for e in entries if e.energy_source != "unmeasured"]
    grams = (_grams(j, e.energy_source, e.pue, truth(e.zone, e.started_at, e.ended_at)) for e, j in whole)
    made = _embodied((one for e in entries for one in [(e.gpu, e.held, e.busy_s), *e.beside]), policy, lifetime_years, hardware)
    return Attributed(math.fsum(j for _, j in whole), _known_sum(grams), made)


def _all_attributed(reports: Sequence[Report]) -> Attributed | None:
    """Of a total: where one report has it, those of the others are what they say."""
    if all(report.attributed is None for report in reports):
        return None
    return _known_sum(r.attributed or Attributed(r.energy_j, r.operational_g, r.embodied_g) for r in reports)


def _balanced(report: Report) -> Report:
    """The report with its saving, where both sides are known whole."""
    whole = not report.unknown_energy_j and not report.unmeasured_s
    saved_g = fraction = None
    if whole and report.baseline_g is not None and report.operational_g is not None:
        saved_g = report.baseline_g - report.operational_g
        fraction = saved_g / report.baseline_g if report.baseline_g else None
    return msgspec.structs.replace(report, saved_g=saved_g, saved_fraction=fraction)


def _with_embodied(report: Report) -> Report:
    before = report.baseline.embodied_g if report.baseline else None
    if report.saved_g is None or before is None or report.embodied_g is None or report.embodied_unknown_s:
        return report
    return msgspec.structs.replace(report, saved_with_embodied_g=with_embodied_g(report.saved_g, before, report.embodied_g))


def _one_signal(named: Iterable[tuple[str, str]]) -> str | None:
    """The one signal of all; `named` pairs each with where it was used."""
    used = dict(named)
    if len(used) > 1:
        listed = ", ".join(f"{signal} ({where})" for signal, where in used.items())
        raise SignalMismatch(f"Intensities of different signals cannot be added or compared: {listed}.")
    return next(iter(used), None)


def _by_source(joules: Iterable[tuple[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for source, energy_j in joules:
        sums[source] = sums.get(source, 0.0) + energy_j
    return sums


def _sum_of_all(parts: Sequence[_Summed | None]) -> _Summed | None:
    """None where a part is unknown."""
    return None if None in parts else _known_sum(parts)


def _known_sum(values: Iterable[_Summed | None]) -> _Summed | None:
    """Of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known[1:], known[0]) if known else None
