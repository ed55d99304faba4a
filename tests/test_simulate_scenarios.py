"""Scenarios: drawn from seeds, and single jobs come to what the closed formula of bench-forecast says."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from batchsched.cli.main import cli
from batchsched.cli.simulate import SCENARIOS
from batchsched.forecasts.evaluation import DAY_H, Array, replanned
from batchsched.simulate import POLICIES, Arrival, Grid, Scene, captured, simulate
from batchsched.simulate.ceiling import least_g, tasks
from batchsched.simulate.drawn import Drawn
from batchsched.simulate.rolling import hours_of
from batchsched.simulate.scenarios import (
    NAMED,
    Hanging,
    everything,
    lengths,
    regions,
    services,
    single,
    site,
    spike,
    weeks,
    wrong_profiles,
)
from batchsched.simulate.scenarios.lengths import KINDS
from batchsched.simulate.scene import CHUNK_REQUESTS, HARDWARE, PRICE_PER_H
from benchmarks.carbon_grid import HOUR, Issued
from benchmarks.forecast_trials import LEADS_H, WARM_DAYS, Trial

FIRST = WARM_DAYS * DAY_H
DAYS, WINDOW_H = 3, 24
START = datetime(2022, 7, 2, tzinfo=UTC)


def issued(zones: tuple[str, ...] = ("CISO", "PJM"), seed: int = 1) -> tuple[Trial, Issued]:
    """Days that differ, and forecasts that are wrong by a tenth."""
    rng = np.random.default_rng(seed)
    hours = FIRST + 12 * DAY_H + LEADS_H
    day = 300 + 100 * np.sin(2 * np.pi * np.arange(hours) / 24)
    values = {zone: day * np.exp(rng.normal(0, 0.2, hours)) for zone in zones}
    trial = Trial("made up", Path(), datetime(2022, 4, 2, tzinfo=UTC), FIRST, 12, values, {})
    rows = {
        zone: np.array([v[n : n + LEADS_H] * np.exp(rng.normal(0, 0.1, LEADS_H)) for n in range(trial.rows)])
        for zone, v in values.items()
    }
    return trial, Issued(trial, rows, "made up")


def test_single_jobs_come_to_what_the_formula_says() -> None:
    trial, provider = issued()
    start = trial.instant(trial.first)
    scenario = single(trial.zones, start, DAYS, WINDOW_H)
    grid = Grid(provider, scenario.zones, start, hours_of(scenario.scene))
    runs = {name: simulate(scenario.scene, grid, POLICIES[name]) for name in ("run now", "greedy", "greedy, perfect foresight")}
    hours = DAYS * DAY_H + WINDOW_H - 1
    parts = [
        replanned(grid_rows(provider, zone, start, hours), trial.values[zone][FIRST : FIRST + hours], WINDOW_H)
        for zone in trial.zones
    ]
    at_once, policy, perfect = (sum(getattr(part, name) for part in parts) for name in ("at_once", "policy", "perfect"))
    assert runs["run now"].grams == pytest.approx(at_once)
    assert runs["greedy"].grams == pytest.approx(policy, rel=0.01)
    assert runs["greedy, perfect foresight"].grams == pytest.approx(perfect, rel=0.01)
    assert captured(*runs.values()) == pytest.approx((at_once - policy) / (at_once - perfect), abs=0.02)
    least = least_g(tasks(scenario.scene, (), grid.hours * 3600.0), scenario.scene.fleet, grid.truth, shared=False)
    assert perfect * 0.999 <= least * 1.001 <= runs["greedy, perfect foresight"].grams * 1.001
    assert all(not one.missed for one in runs.values())


def grid_rows(provider: Issued, zone: str, start: datetime, hours: int) -> Array:
    """Forecasts as the simulation is told them, [hours, leads]."""
    found = [provider.forecast(zone, start + n * HOUR, start + (n + LEADS_H) * HOUR).slots for n in range(hours)]
    return np.array([[slot.mean_g_per_kwh for slot in slots] for slots in found])


def test_forecasts_are_those_of_the_hour_and_measurements_those_that_are_over() -> None:
    trial, provider = issued(("CISO",))
    now = trial.instant(FIRST) + timedelta(minutes=20)
    given = provider.forecast("CISO", now, now + 3 * HOUR)
    assert given.issued_at == trial.instant(FIRST)
    assert [slot.start for slot in given.slots] == [trial.instant(FIRST + n) for n in range(4)]
    known = provider.realised("CISO", trial.instant(FIRST - 2), trial.instant(FIRST + 5), now)
    assert [one.start for one in known] == [trial.instant(FIRST - 2), trial.instant(FIRST - 1)]
    assert [one.intensity_g_per_kwh for one in known] == pytest.approx(trial.values["CISO"][FIRST - 2 : FIRST].tolist())


def test_weeks_are_sampled_by_the_seed_alone() -> None:
    first, last = datetime(2022, 7, 2, tzinfo=UTC), datetime(2022, 12, 18, tzinfo=UTC)
    chosen = weeks(first, last, 6, 9)
    assert chosen == weeks(first, last, 6, 9)
    assert chosen != weeks(first, last, 6, 10)
    assert len(set(chosen)) == 6
    assert all(first <= week <= last - timedelta(days=7) for week in chosen)
    assert set(weeks(first, last, 2, 9)) <= set(chosen)


def test_a_site_has_all_hardware_and_is_as_busy_as_asked() -> None:
    week = datetime(2022, 7, 2, tzinfo=UTC)
    light, heavy = (site("CISO", week, 7, 1, load) for load in (0.3, 0.6))
    assert [pool.gpu for pool in light.scene.fleet.pools.values()] == [gpu for gpu, _ in HARDWARE]
    assert all(pool.price_per_h >= PRICE_PER_H[pool.gpu] for pool in light.scene.fleet.pools.values())
    requests = [sum(arrival.requests for arrival in one.scene.arrivals) for one in (light, heavy)]
    assert requests[1] > 1.5 * requests[0]


def test_exact_work_is_what_everybody_expects() -> None:
    found = regions(("CISO", "PJM"), datetime(2022, 7, 2, tzinfo=UTC), 1, 1, exact=True).scene
    assert found.sigma_own == 0.0
    assert {arrival.slowness for arrival in found.arrivals} == {1.0}
    assert len({arrival.output_tokens for arrival in found.arrivals}) == 1
    assert all(profile.sigma == 0.0 for profile in found.profiles.values())
    assert {pool.site for pool in found.fleet.pools.values()} == {"CISO", "PJM"}


def test_single_jobs_are_one_replicas_work() -> None:
    found = single(("CISO",), datetime(2022, 7, 2, tzinfo=UTC), 1, 96).scene
    assert len(found.arrivals) == 8
    assert all(arrival.requests <= CHUNK_REQUESTS for arrival in found.arrivals)
    assert found.fleet.pools["in CISO"].count > 96 / 3


def test_single_jobs_apart_have_a_replica_to_themselves() -> None:
    found = single(("CISO", "PJM"), datetime(2022, 7, 2, tzinfo=UTC), 3, 24, apart=True).scene
    assert {pool.count for pool in found.fleet.pools.values()} == {1}
    assert {site.zone for site in found.fleet.sites.values()} == {"CISO", "PJM"}
    until: dict[tuple[str, ...], float] = {}
    for arrival in found.arrivals:
        assert arrival.at_s >= until.get(arrival.pools, 0.0)
        until[arrival.pools] = arrival.deadline_s
    together = single(("CISO", "PJM"), datetime(2022, 7, 2, tzinfo=UTC), 3, 24).scene
    assert [(one.batch_id, one.at_s, one.deadline_s) for one in found.arrivals] == [
        (one.batch_id, one.at_s, one.deadline_s) for one in together.arrivals
    ]


def test_wrong_profiles_make_all_work_longer_and_nothing_else() -> None:
    good = regions(("CISO", "PJM"), datetime(2022, 7, 2, tzinfo=UTC), 1, 1)
    bad = wrong_profiles(good, 1.3)
    pairs = list(zip(good.scene.arrivals, bad.scene.arrivals, strict=True))
    assert all(b.slowness == pytest.approx(1.3 * a.slowness) and b.requests == a.requests for a, b in pairs)
    assert bad.name == "regions, profiles wrong by +30%"


def test_a_spike_is_half_a_day_of_three_times_the_batches() -> None:
    good = regions(("CISO", "PJM"), datetime(2022, 7, 2, tzinfo=UTC), 7, 1)
    bad = spike(good, 100)
    extra = {one.batch_id for one in bad.scene.arrivals} - {one.batch_id for one in good.scene.arrivals}
    came = [one for one in bad.scene.arrivals if one.batch_id in extra]
    assert 10 < len(came) < 100
    assert all(48 * 3600 <= one.at_s < 60 * 3600 for one in came)
    assert [one.at_s for one in bad.scene.arrivals] == sorted(one.at_s for one in bad.scene.arrivals)
    assert len({one.batch_id for one in bad.scene.arrivals}) == len(bad.scene.arrivals)


def test_a_spike_is_of_the_load_that_was_asked_for() -> None:
    def work(load: float) -> float:
        good = regions(("CISO", "PJM"), datetime(2022, 7, 2, tzinfo=UTC), 7, 1, load=load)
        before = {one.batch_id for one in good.scene.arrivals}
        return sum(one.requests for one in spike(good, 100).scene.arrivals if one.batch_id not in before)

    assert work(0.9) == pytest.approx(3 * work(0.3), rel=0.2)


def test_a_shared_scenario_says_its_load_itself(capsys: pytest.CaptureFixture[str]) -> None:
    from batchsched.cli.main import main

    with pytest.raises(SystemExit) as stop:
        main(["simulate", "--scenario", "shared 25", "--load", "0.5"])
    assert stop.value.code == 2
    assert "--load is not for a shared scenario" in capsys.readouterr().err


def test_a_feed_that_hangs_says_what_it_last_said() -> None:
    trial, provider = issued(("CISO",))
    since = trial.instant(FIRST)
    hanging, late = Hanging(provider, since, since + 24 * HOUR), since + 5 * HOUR
    assert hanging.forecast("CISO", late, late + 10 * HOUR).slots == provider.forecast("CISO", since, late + 10 * HOUR).slots[5:]
    assert hanging.realised("CISO", since, late, late) == []
    over = since + 30 * HOUR
    assert hanging.forecast("CISO", over, over + HOUR) == provider.forecast("CISO", over, over + HOUR)
    assert len(hanging.realised("CISO", since, over, over)) == 30


def test_every_scenario_is_offered_and_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BATCHSCHED_DATA", raising=False)
    assert set(SCENARIOS) == set(NAMED)
    for name in ("shared 55", "everything", "lost pool", "near zero"):
        arguments = [
            "simulate",
            "--days",
            "1",
            "--zones",
            "CISO,DE",
            "--policy",
            "greedy",
            "--scenario",
            name,
            "--quick",
            "--json",
        ]
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, done.output
        told = json.loads(done.stdout)
        assert told["scenario"] == name
        assert all(row["unfinished"] == 0 and row["grams"] > 0 for row in told["policies"])


def test_everything_is_regions_with_online_users_and_slow_links() -> None:
    found, alone = everything(("CISO", "DE"), START, 2, 1), regions(("CISO", "DE"), START, 2, 1)
    fleet = found.scene.fleet
    assert set(fleet.pools) - set(alone.scene.fleet.pools) == set(found.scene.rooms) == {"online-CISO", "online-DE"}
    assert all(fleet.is_spare(name) for name in found.scene.rooms)
    assert all(site.network_gb_per_s for site in fleet.sites.values())
    taken = [1 - room.mean(0.0, 2 * 86400.0) for room in found.scene.rooms.values()]
    assert all(0.3 < share < 0.8 for share in taken)
    bound = [one for one in found.scene.arrivals if {fleet.pools[name].site for name in one.pools} != {"CISO", "DE"}]
    assert 0 < len(bound) < len(found.scene.arrivals)
    assert any(set(one.pools) & set(found.scene.rooms) for one in found.scene.arrivals)


def test_requests_of_real_services_take_the_time_that_others_took() -> None:
    good = regions(("CISO", "DE"), START, 2, 1)
    found = lengths(good, 1)
    tokens = {(one.input_tokens, one.expected_output_tokens) for one in found.scene.arrivals}
    assert tokens == set(KINDS.values())
    for one, was in zip(found.scene.arrivals, good.scene.arrivals, strict=True):
        off = one.output_tokens / one.expected_output_tokens
        assert off == pytest.approx(was.output_tokens / was.expected_output_tokens)
        if one.requests > 50:  # of fewer one more or less counts
            hours = [_hours(good.scene, each, each.expected_output_tokens) for each in (one, was)]
            assert hours[0] == pytest.approx(hours[1], rel=0.02)
    grid = Grid(Drawn(START, hours_of(found.scene), 1), found.zones, START, hours_of(found.scene))
    outcome = simulate(found.scene, grid, POLICIES["greedy"])
    assert outcome.unfinished == []


def test_batches_come_when_requests_to_real_services_do() -> None:
    """Without traces of a made-up day with its peak at 16 UTC, in weekdays fuller than at weekends; nothing else changes."""
    monday = datetime(2022, 7, 4, tzinfo=UTC)
    good = regions(("CISO", "DE"), monday, 7, 1)
    unlike, found = lengths(good, 1), services(good, 1)
    before = {one.batch_id: one for one in unlike.scene.arrivals}
    at_s = np.array([one.at_s for one in found.scene.arrivals])
    assert list(at_s) == sorted(at_s)
    assert 0 <= min(at_s) < max(at_s) <= 7 * 86400
    for one in found.scene.arrivals:
        was = before.pop(one.batch_id)
        assert one.deadline_s - one.at_s == pytest.approx(was.deadline_s - was.at_s)
        assert msgspec.structs.replace(one, at_s=was.at_s, deadline_s=was.deadline_s) == was
    assert not before
    hour, day = at_s // 3600 % 24, at_s // 86400
    assert np.sum((hour >= 12) & (hour < 20)) > 2 * np.sum((hour >= 0) & (hour < 8))
    assert np.mean(day >= 5) < 2 / 7


def _hours(scene: Scene, one: Arrival, answered: float) -> float:
    """In which all replicas that may run it do it as expected."""
    rate = sum(
        scene.fleet.pools[pool].count / scene.profiles[one.model, pool].seconds(one.input_tokens, answered) for pool in one.pools
    )
    return one.requests / rate / 3600
