"""Calibrated bands and scenarios of the trials' forecasters, issue by issue. See benchmarks/forecast.py."""

from __future__ import annotations

import numpy as np

from batchsched.forecasts import baselines
from batchsched.forecasts.calibration import Calibrator, Knobs, walk
from batchsched.forecasts.evaluation import DAY_H, Array
from batchsched.forecasts.scenarios import at_ranks, past_errors, shuffled
from benchmarks.forecast_trials import LEADS_H, WARM_DAYS, Trial

SCENARIOS = 100


def calibrated(trial: Trial, zone: str, issued: Array, knobs: Knobs) -> Array:
    """Quantiles of the issues from `trial.first` on, learnt from outcomes known by each."""
    return walk(Calibrator(knobs), warmed(trial, zone, issued), trial.values[zone], trial.start)[WARM_DAYS:]


def warmed(trial: Trial, zone: str, issued: Array) -> Array:
    """Daily issues, naive's where there is none before `trial.first`, so that the calibrator has something to begin with."""
    before = baselines.naive(trial.values[zone], trial.start, trial.rows)[::DAY_H]
    return np.where(np.isnan(issued[:, :1]), before, issued)


def print_sums(trial: Trial, rows: dict[str, Array]) -> None:
    """How often the sum over a day, and over all zones, lay within 90 % of the scenarios; and of hours drawn independently."""
    calibrators = {zone: Calibrator() for zone in trial.zones}
    points = {zone: warmed(trial, zone, rows[zone][::DAY_H]) for zone in trial.zones}
    hits: dict[str, list[bool]] = {}
    rng = np.random.default_rng(1)
    for number in range(WARM_DAYS + trial.issues):
        hour = trial.start + number * DAY_H
        bands = {}
        for zone, calibrator in calibrators.items():
            calibrator.learn(hour - DAY_H, trial.values[zone][hour - DAY_H : hour])
            bands[zone] = calibrator.issue(hour, points[zone][number])
        if number < WARM_DAYS or number % 3:
            continue
        together = shuffled(past_errors(calibrators), SCENARIOS, rng)
        apart = {zone: rng.random((SCENARIOS, LEADS_H)) for zone in trial.zones}
        truth = {zone: day_sums(trial.actual(zone)[number - WARM_DAYS][None])[0] for zone in trial.zones}
        for kind, ranks in (("", together), (" apart", apart)):
            sums = {zone: day_sums(at_ranks(bands[zone], ranks[zone])) for zone in trial.zones}
            hits.setdefault("zone" + kind, []).extend(hit for zone in trial.zones for hit in within(sums[zone], truth[zone]))
            hits.setdefault("all" + kind, []).extend(within(sum(sums.values(), np.zeros(4)), sum(truth.values(), np.zeros(4))))
    share = {kind: np.mean(found) for kind, found in hits.items()}
    print(f"scenarios: the middle 90 % hold a zone's day in {share['zone']:.3f} of cases, that of all zones together in", end=" ")
    print(f"{share['all']:.3f}; with hours drawn independently {share['zone apart']:.3f} and {share['all apart']:.3f}")


def day_sums(values: Array) -> Array:
    """[n, leads] to [n, 4]."""
    sums: Array = values.reshape(len(values), -1, DAY_H).sum(axis=2)
    return sums


def within(drawn: Array, truth: Array) -> list[bool]:
    """Whether each day of what came true lies within the middle 90 % of what was drawn; days unknown in part are left out."""
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    known = np.isfinite(truth) & np.isfinite(low)
    inside: list[bool] = ((truth >= low) & (truth <= high))[known].tolist()
    return inside
