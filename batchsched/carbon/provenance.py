"""Where each number of a report comes from, and what its reader must know, in words."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from batchsched.carbon.embodied import Policy
from batchsched.carbon.hardware import Estimate
from batchsched.carbon.models import Hardware
from batchsched.carbon.report import Entry, Factor, Intensity, Report, Row, RunNow
from batchsched.units import format_duration
from batchsched.wire import EnergySource

METERS: dict[EnergySource, str] = {
    "nvml_counter": "measured by the GPU's energy counter (NVML)",
    "nvml_power": "measured as GPU power, sampled and integrated (NVML)",
    "rapl": "measured by the host's energy counters (RAPL)",
    "modelled": "modelled, not measured: published or declared watts, busy ones for work and idle ones for the rest",
    "unmeasured": "not measured",
}
MARKS: dict[str, str] = {
    "mig": "ran on a slice of a GPU (MIG): the meter counts the whole board, of which a part by the slice's size is charged here",
    "shared": "ran on a GPU that computed for others at the same time: all that the board drew is charged here",
}
_WEIGHED = {
    True: "configuration; reported, not weighed in decisions",
    False: "configuration; plans weigh it, the middle figure, beside what running emits",
}
_T = TypeVar("_T", bound=Hashable)


def factors(
    entries: Sequence[Entry],
    rows: Sequence[Row],
    run_now: RunNow | None,
    policy: Policy,
    lifetime_years: float,
    hardware: Hardware,
) -> list[Factor]:
    """Every number that entered the result, once each."""
    pues = {(entry.site, entry.pue) for entry in entries}
    reserved = [one for entry in entries for one in entry.reserved]
    gpus = {gpu for gpu, _, _ in reserved}
    hosts = {held.host for _, held, _ in reserved} or {"slot"}
    if run_now:
        pues.add((run_now.terms.site, run_now.terms.pue))
        gpus.add(run_now.terms.gpu)
        hosts.add(run_now.terms.held.host)
    served = sorted({entry.model for entry in entries} - {""})
    named = run_now.terms.model if run_now else ""
    return [
        *measured(rows),
        *(Factor("model that served", model, "", "ledger") for model in served),
        *(Factor(f"PUE of site {site}", pue, "", "configuration") for site, pue in sorted(pues)),
        *([Factor("model of the baseline", named, "", "named by the requests")] if named else []),
        *baseline(run_now),
        *(_embodied(f"embodied carbon of one {gpu}", hardware.gpu(gpu)) for gpu in sorted(gpus - {"cpu"})),
        *(_embodied(_slot_of(host), hardware.host_share(host)) for host in sorted(hosts)),
        Factor("service life", lifetime_years, "years", "configuration"),
        Factor("embodied policy", policy, "", _WEIGHED[policy == "sunk"]),
    ]


def measured(rows: Sequence[Row]) -> list[Factor]:
    """Energy by its meter, and the energy-weighted mean of each grid by its source."""
    joules = [Factor(f"energy, {source}", joules, "J", how) for (source, how), joules in _energy(rows).items()]
    used = [(row.zone, row.intensity, row.energy_j) for row in rows if row.energy_source != "unmeasured"]
    return joules + _intensities(used)


def baseline(run_now: RunNow | None) -> list[Factor]:
    """Its energy and its grid."""
    if not run_now:
        return []
    terms, grid = run_now.terms, run_now.intensity
    return [
        Factor("energy of the baseline", terms.energy_j, "J", METERS[terms.energy_source]),
        Factor(f"intensity of {terms.zone}, baseline", grid.mean_g_per_kwh, "g/kWh", f"{grid.source}; {grid.signal}"),
    ]


def in_all(reports: Sequence[Report], rows: Sequence[Row]) -> list[Factor]:
    """Every number that entered a total: what holds for all its parts once, what was measured of each as a sum or a mean."""
    own = {factor for report in reports for factor in (*measured(report.rows), *baseline(report.baseline))}
    shared = unique(factor for report in reports for factor in report.provenance if factor not in own)
    at_once = [report.baseline for report in reports if report.baseline]
    joules: dict[EnergySource, float] = {}
    for each in at_once:
        joules[each.terms.energy_source] = joules.get(each.terms.energy_source, 0.0) + each.terms.energy_j
    return [
        *measured(rows),
        *shared,
        *(Factor("energy of the baselines", total_j, "J", METERS[source]) for source, total_j in joules.items()),
        *_intensities([(f"{each.terms.zone}, baselines", each.intensity, each.terms.energy_j) for each in at_once]),
    ]


def remarks(
    entries: Sequence[Entry], rows: Sequence[Row], run_now: RunNow | None, policy: Policy, hardware: Hardware
) -> list[str]:
    """What a reader must know before quoting the report."""
    notes = [
        f"The place is simulated: work of site {site} (zone {zone}) really ran elsewhere."
        for site, zone in sorted({(entry.site, entry.zone) for entry in entries if entry.simulated})
    ]
    if run_now and run_now.terms.simulated:
        notes.append(f"The baseline's place, site {run_now.terms.site}, is simulated.")
    if run_now and run_now.terms.borrowed:
        notes.append(
            f"The baseline is on pool {run_now.terms.pool}, for no pool of its own serves the model, and bears its full share of "
            "those machines. Run there at once the work would have added less: what the saving owes to spare capacity is against "
            "machines of one's own."
        )
    notes += [f"Work of pool {pool} {MARKS[mark]}." for pool, mark in sorted({(e.pool, e.mark) for e in entries if e.mark})]
    notes += [
        f"Work of pool {pool} ran in spare capacity, on machines that are on for others anyway: it is charged what it added."
        for pool in sorted({entry.pool for entry in entries if entry.attributed_j is not None})
    ]
    if any(row.energy_source == "modelled" for row in rows):
        notes.append("Energy is modelled, not measured, where no meter was found.")
    if run_now and run_now.terms.energy_source == "modelled":
        notes.append("The baseline's energy is modelled: that run was not made.")
    if unmeasured_s := sum(row.busy_s for row in rows if row.energy_source == "unmeasured"):
        notes.append(f"{format_duration(unmeasured_s)} of work was not measured; its energy and its grams are missing here.")
    if unknown := sorted({row.zone for row in rows if row.intensity.mean_g_per_kwh is None}):
        notes.append(
            f"The carbon intensity of {', '.join(unknown)} is unknown for part of the time; those grams are missing here."
        )
    if expected := sorted({row.zone for row in rows if _is_expected(row)}):
        notes.append(f"Grams of {', '.join(expected)} rest on expected, not on measured intensities, for part of the time.")
    if unpublished := sorted({gpu for entry in entries for gpu, _, _ in entry.reserved if hardware.gpu(gpu).kg is None}):
        notes.append(f"No embodied carbon is published for {', '.join(unpublished)}; it is missing here, the host's share too.")
    if policy in {"remaining", "cut_off"} and not any(
        held.second_life_years for entry in entries for _, held, _ in entry.reserved
    ):
        notes.append(f"No pool declares a second life, so {policy} charges what whole_life does.")
    return notes


def how_known(entry: Entry) -> str:
    """How the energy of an entry is known: by which meter, or by which model."""
    modelled = entry.energy_source == "modelled" and entry.power_model
    return f"modelled by {entry.power_model}" if modelled else METERS[entry.energy_source]


def listed(weights: Mapping[str, float], most: int = 4) -> str:
    """What is one kind of thing in words, by itself; of several the heaviest, each with its share."""
    total = sum(weights.values())
    if len(weights) < 2 or not total:
        return "; ".join(weights)
    ordered = sorted(weights, key=lambda words: -weights[words])
    said = [f"{weights[words] / total:.0%} {words}" for words in ordered[:most]]
    return "; ".join([*said, f"and {len(ordered) - most} more"] if len(ordered) > most else said)


def known_by(rows: Iterable[Row]) -> dict[str, float]:
    """Who says what the energy was, and what the grid was, by joules."""
    sums: dict[str, float] = {}
    for row in rows:
        said = f"energy {row.energy_how}, grid {row.intensity.source}"
        sums[said] = sums.get(said, 0.0) + row.energy_j
    return sums


def unique(items: Iterable[_T]) -> list[_T]:
    """Each item once, in the order of its first mention."""
    return list(dict.fromkeys(items))


def _slot_of(host: str) -> str:
    return "embodied carbon of the host's share" + ("" if host == "slot" else f", {host}")


def _is_expected(row: Row) -> bool:
    return row.intensity.mean_g_per_kwh is not None and not row.intensity.source.startswith("realised")


def _energy(rows: Iterable[Row]) -> dict[tuple[str, str], float]:
    sums: dict[tuple[str, str], float] = {}
    for row in rows:
        key = row.energy_source, row.energy_how
        sums[key] = sums.get(key, 0.0) + row.energy_j
    return sums


def _intensities(used: Iterable[tuple[str, Intensity, float]]) -> list[Factor]:
    """The energy-weighted mean of each zone, by source; `used`: zone, intensity and joules."""
    sums: dict[tuple[str, str, str], tuple[float, float]] = {}
    for zone, grid, energy_j in used:
        if grid.mean_g_per_kwh is not None:
            key = (zone, grid.source, grid.signal)
            grams, joules = sums.get(key, (0.0, 0.0))
            sums[key] = (grams + grid.mean_g_per_kwh * energy_j, joules + energy_j)
    return [
        Factor(f"intensity of {zone}", grams / joules, "g/kWh", f"{source}; {signal}")
        for (zone, source, signal), (grams, joules) in sums.items()
        if joules
    ]


def _embodied(factor: str, embodied: Estimate) -> Factor:
    kg = embodied.kg
    return Factor(factor, f"{kg.low:g} / {kg.mid:g} / {kg.high:g}" if kg else None, "kgCO2e", embodied.source)
