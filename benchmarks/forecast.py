"""How good the forecasts of carbon intensity are, on half-years that no model was trained on. The last line is JSON.

`python -m benchmarks.forecast [--cache FOLDER] [--trial NAME]`. Every forecaster issues a forecast each hour from what was known
by then. Tables by zone and day are of the issues at 00 UTC: error, and loss, coverage and width of the quantiles that our
calibrator makes of its points, learning from outcomes as they come. The captured share is of 6 h jobs, one every 3 h in every
zone, replanned each hour on the newest forecast; grams are summed over zones. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from batchsched.forecasts.calibration import Knobs
from batchsched.forecasts.evaluation import DAY_H, Array, Score, band_of, planned_once, replanned, score, total
from benchmarks import forecast_ours
from benchmarks import forecast_trials as trials
from benchmarks.forecast_bands import calibrated, print_sums
from benchmarks.forecast_trials import Forecaster, Trial

WINDOWS_H = (24, 48, 96)
TRIALS = {"us-2022h2": trials.us_2022h2, "weather-2021h2": trials.weather_2021h2, "europe-2021h2": trials.europe_2021h2}
NAIVE, CLIMATOLOGY, CARBONCAST, ALONE, BLENDED = "naive", "climatology", "CarbonCast", "ours alone", "ours blended"


def forecasters() -> dict[str, Forecaster]:
    """Everyone who competes."""
    return {
        NAIVE: trials.naive,
        CLIMATOLOGY: trials.climatology,
        CARBONCAST: trials.carboncast,
        ALONE: forecast_ours.alone,
        BLENDED: forecast_ours.blended,
    }


@dataclass
class Found:
    """What one forecaster reached in one trial.

    `days`: scores by zone and day. `bands`: coverage and width by zone, `band` over all. `months`: the worst coverage of 30 days,
    with and without the detection of regime changes. The rest: captured shares by window.
    """

    days: dict[str, list[Score]] = field(default_factory=dict)
    bands: dict[str, tuple[float, float]] = field(default_factory=dict)
    band: tuple[float, float] = (float("nan"), float("nan"))
    months: dict[str, float] = field(default_factory=dict)
    months_without: dict[str, float] = field(default_factory=dict)
    replanned: dict[int, float] = field(default_factory=dict)
    once: dict[int, float] = field(default_factory=dict)
    contiguous: dict[int, float] = field(default_factory=dict)

    def mape(self, *days: int) -> float:
        """The mean over zones of the mean over these days (1 to 4)."""
        return float(np.mean([self.zone_mape(zone, *days) for zone in self.days]))

    def zone_mape(self, zone: str, *days: int) -> float:
        """The mean over these days (1 to 4)."""
        return float(np.mean([self.days[zone][day - 1].mape for day in days]))


def main() -> None:
    """Run the trials, print the tables, and the figures last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, help="keep and use again what models forecast; delete it after a change of models")
    parser.add_argument("--trial", action="append", choices=TRIALS, help="only this one (may be repeated)")
    asked = parser.parse_args()
    folder = Path(os.environ.get("BATCHSCHED_DATA", "../shared/data"))
    trials.need_data(folder)
    print(f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores, data in {folder}")
    results: dict[str, dict[str, Found]] = {}
    for name in asked.trial or TRIALS:
        trial = TRIALS[name](folder)
        print(f"\n# {name}: {len(trial.zones)} zones, {trial.issues} issues from {trial.instant(trial.first):%Y-%m-%d}")
        results[name] = {who: run(trial, who, forecaster, asked.cache) for who, forecaster in forecasters().items()}
        print_captured(results[name])
    print(json.dumps(figures(results)))


def run(trial: Trial, who: str, forecaster: Forecaster, cache: Path | None) -> Found:
    """One forecaster over one trial, its table printed."""
    began = time.perf_counter()
    rows = cached(trial, who, forecaster, cache)
    made_s = time.perf_counter() - began
    found = Found()
    bands = {zone: calibrated(trial, zone, rows[zone][::DAY_H], Knobs()) for zone in trial.zones}
    for zone, quantiles in bands.items():
        issued, actual = rows[zone][trial.first - trial.start :: DAY_H], trial.actual(zone)
        found.days[zone] = score(actual, issued, quantiles)
        found.bands[zone] = band_of(quantiles, actual)
        found.months[zone] = worst_month(quantiles, actual)
        found.months_without[zone] = worst_month(calibrated(trial, zone, rows[zone][::DAY_H], Knobs(surge=0.0)), actual)
    found.band = band_of(np.stack(list(bands.values())), np.stack([trial.actual(zone) for zone in bands]))
    capture(trial, rows, found)
    print_scores(who, found, made_s)
    if who in (CARBONCAST, BLENDED):
        print_sums(trial, rows)
    return found


def worst_month(quantiles: Array, actual: Array) -> float:
    """The least coverage of the 90 % band over 30 days of issues in a row."""
    return min(band_of(quantiles[day : day + 30], actual[day : day + 30])[0] for day in range(0, len(actual) - 29, 5))


def cached(trial: Trial, who: str, forecaster: Forecaster, cache: Path | None) -> dict[str, Array]:
    """The forecaster's rows, from the cache where they lie there."""
    if cache is None:
        return forecaster(trial)
    path = cache / f"{trial.name}-{who.replace(' ', '-').lower()}.npz"
    if not path.is_file():
        forecast_ours.saved(path, forecaster(trial))
    with np.load(path) as kept:
        return {zone: kept[zone] for zone in trial.zones}


def capture(trial: Trial, rows: dict[str, Array], found: Found) -> None:
    """The shares of the perfect-foresight saving, by window."""
    for window_h in WINDOWS_H:
        every, once, contiguous = [], [], []
        for zone in trial.zones:
            issued, actual = rows[zone][trial.first - trial.start :], trial.values[zone][trial.first :]
            every.append(replanned(issued, actual, window_h))
            once.append(planned_once(issued, actual, window_h))
            contiguous.append(planned_once(issued, actual, window_h, contiguous=True))
        found.replanned[window_h] = total(every).captured
        found.once[window_h] = total(once).captured
        found.contiguous[window_h] = total(contiguous).captured


def print_scores(who: str, found: Found, made_s: float) -> None:
    """A row a zone, four days of each measure."""
    print(f"\n## {who} (made in {made_s:.0f} s)")
    print(f"{'':8}{'MAPE, %':^28}{'pinball loss, g/kWh':^28}{'90 % coverage, %':^28}{'90 % width, % of value':^28}")
    print(f"{'zone':8}" + "".join(f"{f'day {day}':>7}" for _ in range(4) for day in range(1, 5)))
    for zone, days in found.days.items():
        print(f"{zone:8}" + cells(*([getattr(day, name) * scale for day in days] for name, scale in MEASURES)))
    means = [
        [np.mean([getattr(days[day], name) for days in found.days.values()]) * k for day in range(4)] for name, k in MEASURES
    ]
    print(f"{'mean':8}" + cells(*means))
    shares = [coverage for coverage, _ in found.bands.values()]
    print(f"90 % band: coverage {found.band[0]:.3f}, by zone {min(shares):.3f} to {max(shares):.3f}, width {found.band[1]:.3f}")
    worst, without = (
        min(found.months, key=found.months.__getitem__),
        min(found.months_without, key=found.months_without.__getitem__),
    )
    print(f"worst 30 days: coverage {found.months[worst]:.3f} ({worst}); without the detection of regime changes", end=" ")
    print(f"{found.months_without[without]:.3f} ({without})")


MEASURES = (("mape", 100), ("pinball_g", 1), ("coverage90", 100), ("width90", 100))


def cells(*groups: Iterable[float]) -> str:
    """Numbers under each other, a dash where there is none."""
    return "".join(f"{value:7.2f}" if np.isfinite(value) else f"{'-':>7}" for group in groups for value in group)


def print_captured(results: dict[str, Found]) -> None:
    """The captured shares of all forecasters."""
    print("\n## captured, % of the saving of perfect foresight")
    print(f"{'':14}{'replanned hourly':^21}{'planned once':^21}{'in one run':^21}")
    print(f"{'window':14}" + "".join(f"{f'{window} h':>7}" for _ in range(3) for window in WINDOWS_H))
    for who, found in results.items():
        shares = (found.replanned, found.once, found.contiguous)
        print(f"{who:14}" + cells(*([100 * share[window] for window in WINDOWS_H] for share in shares)))


def figures(results: dict[str, dict[str, Found]]) -> dict[str, float | int | None]:
    """The figures of the last line; None for what did not run."""
    us, weather = results.get("us-2022h2", {}), results.get("weather-2021h2", {})
    blended, naive, provider = us.get(BLENDED), us.get(NAIVE), us.get(CARBONCAST)
    given: dict[str, float | int | None] = dict.fromkeys(KEYS)
    if provider:
        given["carboncast_captured_96h"] = provider.replanned[96]
    if naive and (alone := us.get(ALONE)):
        given["own_day1_vs_naive"] = alone.mape(1) / naive.mape(1)
    if blended and naive and provider:
        zones = list(blended.days)
        given["day1_vs_naive"] = blended.mape(1) / naive.mape(1)
        given["day2_vs_naive"] = blended.mape(2) / naive.mape(2)
        given["worst_zone_vs_naive"] = max(blended.zone_mape(z, d) / naive.zone_mape(z, d) for z in zones for d in (1, 2))
        given["zones_below_carboncast"] = sum(blended.zone_mape(z, 1, 2) < provider.zone_mape(z, 1, 2) for z in zones)
        given["captured_24h"], given["captured_96h"] = blended.replanned[24], blended.replanned[96]
        shares = [coverage for coverage, _ in blended.bands.values()]
        if shares:
            given |= {"coverage90": blended.band[0], "coverage90_min": min(shares), "coverage90_max": max(shares)}
    if best := weather.get(BLENDED):
        given["captured_24h_weather"], given["captured_96h_weather"] = best.replanned[24], best.replanned[96]
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in given.items()}


KEYS = (
    "day1_vs_naive",
    "day2_vs_naive",
    "worst_zone_vs_naive",
    "zones_below_carboncast",
    "coverage90",
    "coverage90_min",
    "coverage90_max",
    "captured_24h",
    "captured_96h",
    "carboncast_captured_96h",
    "own_day1_vs_naive",
    "captured_24h_weather",
    "captured_96h_weather",
)


if __name__ == "__main__":
    main()
