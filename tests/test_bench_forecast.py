"""The forecast benchmark on a small made-up half-year: every forecaster, every table, and exactly the promised figures."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from batchsched.forecasts.evaluation import DAY_H, Array
from benchmarks import forecast as bench
from benchmarks import forecast_ours
from benchmarks import forecast_trials as trials
from benchmarks.forecast_trials import LEADS_H, WARM_DAYS, Forecaster, Trial

ISSUES = 32
FIRST = (WARM_DAYS + 370) * DAY_H  # climatology needs a year before the first row


def made_up(name: str) -> Trial:
    """Two zones with a daily cycle and noise; the provider's forecast is the truth, 5 % too high."""
    hours = FIRST + (ISSUES + 4) * DAY_H
    rng = np.random.default_rng(1)
    values = {
        zone: (300 + 100 * np.sin(np.arange(hours) * np.pi / 12 + turn)) * np.exp(rng.normal(0, 0.1, hours))
        for zone, turn in (("A", 0.0), ("B", 2.0))
    }
    days = FIRST + np.arange(ISSUES) * DAY_H
    provider = {zone: 1.05 * own[days[:, None] + np.arange(LEADS_H)] for zone, own in values.items()}
    return Trial(name, Path(), datetime(2021, 3, 1, tzinfo=UTC), FIRST, ISSUES, values, provider)


def perfect(trial: Trial) -> dict[str, Array]:
    at = np.arange(trial.rows)[:, None] + trial.start + np.arange(LEADS_H)
    return {zone: np.append(own, np.full(LEADS_H, own[-1]))[at] for zone, own in trial.values.items()}


@pytest.mark.slow
def test_figures_and_tables(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trial = made_up("us-2022h2")
    forecasters: dict[str, Forecaster] = {bench.NAIVE: trials.naive, bench.CARBONCAST: trials.carboncast}
    forecasters |= {bench.ALONE: trials.naive, bench.BLENDED: perfect}
    results = {"us-2022h2": {who: bench.run(trial, who, make, tmp_path) for who, make in forecasters.items()}}
    bench.print_captured(results["us-2022h2"])
    figures = bench.figures(results)
    assert tuple(figures) == bench.KEYS
    assert figures["day1_vs_naive"] == figures["worst_zone_vs_naive"] == 0
    assert figures["own_day1_vs_naive"] == 1
    assert figures["zones_below_carboncast"] == 2
    assert figures["captured_24h"] == figures["captured_96h"] == pytest.approx(1)
    assert figures["carboncast_captured_96h"] == pytest.approx(1, abs=0.05)
    assert figures["captured_96h_weather"] is None
    shown = capsys.readouterr().out
    for words in ("## ours blended", "worst 30 days", "scenarios: the middle", "planned once"):
        assert words in shown
    assert "CarbonCast" in shown[shown.index("## captured") :]


def test_forecasts_are_kept_and_used_again(tmp_path: Path) -> None:
    trial, calls = made_up("again"), []

    def counted(trial: Trial) -> dict[str, Array]:
        calls.append(trial.name)
        return trials.naive(trial)

    first, second = (bench.cached(trial, "mine", counted, tmp_path) for _ in range(2))
    assert calls == ["again"]
    assert np.array_equal(first["A"], second["A"])


@pytest.mark.long
def test_members_are_learnt_in_processes_and_a_stopped_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial = made_up("learnt")
    kept = forecast_ours.Learnt(2, tmp_path)
    found = kept.of(trial)
    assert list(found) == ["A", "B"]
    assert all(rows.members.keys() == {"naive", "linear", "beside"} for rows in found.values())
    assert "learnt: learnt 2 of 2 zones" in capsys.readouterr().err
    (tmp_path / "learnt-members-b.npz").unlink()
    again = forecast_ours.Learnt(1, tmp_path).of(trial)
    assert "learnt: learnt 1 of 1 zones" in capsys.readouterr().err
    for zone in "AB":
        for name, values in found[zone].members.items():
            assert again[zone].members[name] == pytest.approx(values, rel=1e-4)
    kept.forget(trial)
    assert list(tmp_path.iterdir()) == []


def test_no_data_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="BATCHSCHED_DATA"):
        trials.need_data(tmp_path)


def test_nothing_is_known_before_its_time() -> None:
    """What the baselines forecast at an hour stays the same whatever comes true from that hour on."""
    trial, other = made_up("one"), made_up("other")
    for own in other.values.values():
        own[FIRST + 48 :] *= 3
    for make in (trials.naive, trials.climatology):
        rows, changed = make(trial)["A"], make(other)["A"]
        cut = WARM_DAYS * DAY_H + 48
        assert np.array_equal(rows[: cut + 1], changed[: cut + 1])
        assert not np.array_equal(rows[cut + 1], changed[cut + 1])
