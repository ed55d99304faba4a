"""The rolling simulation: the same for the same seed, accounts that add up, misses that count, and no look into the future."""

from __future__ import annotations

import json
import math
import os
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from batchsched.cli.main import cli, main
from batchsched.errors import ForecastUnavailable
from batchsched.forecasts.port import IntensityForecast, Realised
from batchsched.forecasts.wrapped import Wrapped
from batchsched.planner.problem import Risk, Slot
from batchsched.simulate import POLICIES, Arrival, Conditions, Grid, Outcome, Policy, Scene, captured, draw_scene, simulate
from batchsched.simulate.data import opened
from batchsched.simulate.drawn import Drawn
from batchsched.simulate.engines import Engines
from batchsched.simulate.futures import Futures
from batchsched.simulate.grid import HOUR
from batchsched.simulate.lived import one_model_each
from batchsched.simulate.outcome import Work
from batchsched.simulate.pictures import Point, kilowatts, points_of
from batchsched.simulate.rolling import hours_of, slot_means
from batchsched.simulate.scene import INPUT_TOKENS
from batchsched.simulate.truth import Truth

ZONES = ("CISO", "DE", "PJM")
START = datetime(2021, 7, 1, tzinfo=UTC)
SHARED = Path(os.environ.get("BATCHSCHED_DATA", "../shared/data"))
SIMPLE = ["run now", "EDF, cheapest slot", "lowest window", "carbon-time", "greedy"]


@cache
def scene(seed: int = 1) -> Scene:
    """Two days of batches."""
    return draw_scene(ZONES, 2, seed)


@cache
def grid(seed: int = 1) -> Grid:
    """Drawn weather."""
    hours = hours_of(scene())
    return Grid(Drawn(START, hours, seed), ZONES, START, hours)


@cache
def outcome(policy: str, seed: int = 1) -> Outcome:
    """Of a policy."""
    return simulate(scene(seed), grid(seed), POLICIES[policy])


@pytest.mark.slow
def test_a_seed_is_an_outcome() -> None:
    fresh = Grid(Drawn(START, hours_of(scene()), 1), ZONES, START, hours_of(scene()))
    again = simulate(draw_scene(ZONES, 2, 1), fresh, POLICIES["greedy"])
    assert again.work == outcome("greedy").work
    assert again.summary() == outcome("greedy").summary()
    assert outcome("greedy", 2).work != outcome("greedy").work


@pytest.mark.parametrize("policy", SIMPLE)
def test_accounts_add_up(policy: str) -> None:
    found, here = outcome(policy), scene()
    arrivals = {arrival.batch_id: arrival for arrival in here.arrivals}
    done = dict.fromkeys(arrivals, 0.0)
    for one in found.work:
        site = here.fleet.site_of(one.pool)
        assert one.grams == pytest.approx(one.energy_j / 3.6e6 * grid().truth[site.zone][int(one.at_s // 3600)])
        if one.batch_id:
            arrival = arrivals[one.batch_id]
            profile = here.profiles[arrival.model, one.pool]
            watts = profile.power_for(INPUT_TOKENS, arrival.output_tokens)
            assert one.energy_j == pytest.approx(one.seconds * watts * site.pue)
            assert one.pool in arrival.pools
            assert one.at_s >= arrival.at_s
            a_request_s = profile.seconds(INPUT_TOKENS, arrival.output_tokens) * arrival.slowness
            done[one.batch_id] += (one.seconds - one.starting_s) / a_request_s
    assert found.unfinished == []
    assert done == pytest.approx({name: arrival.requests for name, arrival in arrivals.items()}, rel=1e-6, abs=1e-3)
    assert found.grams == pytest.approx(sum(one.grams for one in found.work))


@pytest.mark.parametrize("policy", SIMPLE)
def test_no_pool_does_more_than_it_can(policy: str) -> None:
    busy: dict[tuple[str, int], float] = {}
    for one in outcome(policy).work:
        cell = (one.pool, int(one.at_s // 3600))
        busy[cell] = busy.get(cell, 0.0) + one.seconds
    pools = scene().fleet.pools
    assert all(seconds <= pools[pool].count * 3600 + 1e-3 for (pool, _), seconds in busy.items())


@pytest.mark.slow
def test_waiting_saves_and_foresight_saves_more() -> None:
    seeds = (1, 2)
    now, ours, best = (
        sum(outcome(name, seed).grams for seed in seeds) for name in ("run now", "greedy", "greedy, perfect foresight")
    )
    assert ours < 0.9 * now
    # The planner with the truth is not the best of all plans, and engine starts weigh too: within one per cent.
    assert best < 1.01 * ours
    assert 0.8 < captured(*(outcome(name) for name in ("run now", "greedy", "greedy, perfect foresight"))) < 1.1


def test_deadlines_hold_and_a_miss_is_a_miss() -> None:
    assert outcome("greedy").missed == []
    here = scene()
    [largest] = sorted(here.arrivals, key=lambda arrival: arrival.requests)[-1:]
    hopeless = msgspec.structs.replace(largest, deadline_s=largest.at_s + 60.0)
    found = simulate(_with(here, hopeless), grid(), POLICIES["greedy"])
    assert hopeless.batch_id in found.missed
    assert found.missed_share == pytest.approx(len(found.missed) / len(here.arrivals))
    assert found.late_s > 0
    assert found.unfinished == []


def test_what_cannot_run_anywhere_is_not_done() -> None:
    stranded = msgspec.structs.replace(scene().arrivals[0], requests=10**9)
    found = simulate(_with(scene(), stranded), grid(), POLICIES["run now"])
    assert stranded.batch_id in found.unfinished
    assert found.missed_share >= 1 / len(scene().arrivals)


class Poisoned(Wrapped):
    """From an hour on nothing comes true as it would have, and whoever looks there sooner is told so."""

    def __init__(self, inner: Drawn, since: datetime) -> None:
        super().__init__(inner)
        self._since = since
        self.peeped: list[datetime] = []

    def forecast(self, zone: str, now: datetime, until: datetime) -> IntensityForecast:
        """As the inner one until the poison is known; then tenfold."""
        given = self._inner.forecast(zone, now, until)
        if now <= self._since:
            return given
        slots = (msgspec.structs.replace(slot, mean_g_per_kwh=10 * (slot.mean_g_per_kwh or 0.0)) for slot in given.slots)
        return msgspec.structs.replace(given, slots=tuple(slots))

    def realised(self, zone: str, start: datetime, end: datetime, now: datetime) -> list[Realised]:
        """Tenfold."""
        return [
            msgspec.structs.replace(one, intensity_g_per_kwh=one.intensity_g_per_kwh * (1 if one.start < self._since else 10))
            for one in self._inner.realised(zone, start, end, now)
        ]


HEDGED = msgspec.structs.replace(POLICIES["greedy"], name="hedged", risk=Risk(0.5), replan_s=3 * 3600.0)


@pytest.mark.parametrize("policy", [POLICIES["lowest window"], POLICIES["greedy"], HEDGED], ids=lambda policy: policy.name)
def test_the_future_is_not_known(policy: Policy) -> None:
    """Nor by those who weigh risk, which look at past errors: there are a month's."""
    here = draw_scene(ZONES, 1, 1)
    hours, turn_h, back_h = hours_of(here), 18, 30 * 24
    drawn = Drawn(START - back_h * HOUR, hours + back_h, 1)
    sound = simulate(here, Grid(drawn, ZONES, START, hours), policy)
    poisoned = simulate(here, Grid(Poisoned(drawn, START + turn_h * HOUR), ZONES, START, hours), policy)
    before = [one for one in sound.work if one.at_s < turn_h * 3600]
    assert len(before) > 5
    assert [one for one in poisoned.work if one.at_s < turn_h * 3600] == before
    assert poisoned.grams > 1.5 * sound.grams


@pytest.mark.slow
@pytest.mark.parametrize("slot_s", [900.0, 3 * 3600.0])
def test_slots_may_be_shorter_or_longer_than_an_hour(slot_s: float) -> None:
    other = simulate(scene(), grid(), POLICIES["greedy"], slot_s=slot_s)
    assert other.unfinished == []
    assert other.grams == pytest.approx(outcome("greedy").grams, rel=0.2)
    assert other.work != outcome("greedy").work


def test_a_slot_has_the_mean_of_its_hours() -> None:
    hourly = np.array([[1.0, 3.0, 5.0], [2.0, 4.0, np.nan]])
    slots = [Slot(0.0, 900.0), Slot(900.0, 2700.0), Slot(3600.0, 7200.0), Slot(10800.0, 3600.0)]
    found = slot_means(hourly, slots)
    assert found[0, :3].tolist() == [1.0, 1.0, 4.0]
    assert found[1, :2].tolist() == [2.0, 2.0]
    assert np.isnan(found[1, 2])
    assert np.isnan(found[:, 3]).all()


def test_futures_spread_as_forecasts_do() -> None:
    hours, back_h = 48, 30 * 24
    found = Grid(Drawn(START - back_h * HOUR, hours + back_h, 1), ZONES, START, hours, ahead_h=48)
    futures = Futures(found).at(0)
    for zone in ZONES:
        middle, band = futures[zone].mean(axis=0), found.issued(0).bands[zone]
        assert np.abs(middle / found.issued(0).mean[zone] - 1).max() < 0.15
        inside = (futures[zone] >= band[:, 0]) & (futures[zone] <= band[:, -1])
        assert 0.8 < inside.mean() <= 1.0
        assert futures[zone].std(axis=0)[30] > futures[zone].std(axis=0)[0]


def test_drawn_forecasts_are_calibrated_and_converge() -> None:
    hours = 60 * 24
    drawn = Drawn(START, hours, 3)
    errors: dict[int, list[float]] = {1: [], 24: []}
    inside: list[bool] = []
    truth = {
        one.start: one.intensity_g_per_kwh for one in drawn.realised("DE", START, START + hours * HOUR, START + hours * HOUR)
    }
    for hour in range(0, hours - 30, 5):
        now = START + hour * HOUR
        slots = drawn.forecast("DE", now, now + 25 * HOUR).slots
        for lead, found in errors.items():
            slot = slots[lead - 1]
            assert slot.mean_g_per_kwh is not None
            assert slot.quantiles is not None
            found.append(abs(slot.mean_g_per_kwh / truth[slot.start] - 1))
            inside.append(slot.quantiles[0] <= truth[slot.start] <= slot.quantiles[-1])
    assert sum(errors[1]) < 0.5 * sum(errors[24])
    assert 0.85 < sum(inside) / len(inside) < 0.95


def test_an_engine_starts_once_and_keeps_its_model() -> None:
    engines = Engines({"pool": 2})
    engines.begin(100.0)
    first = engines.serve("pool", "one", 120.0, 30.0, width=2)
    assert (first.starts, first.starting_s, first.work_s, first.until_s) == (2, 60.0, 120.0, 100.0)
    assert engines.end() == {}
    engines.begin(100.0)
    second = engines.serve("pool", "one", math.inf, 30.0, width=1)
    assert (second.starts, second.work_s) == (0, 100.0)
    other = engines.serve("pool", "two", math.inf, 30.0, width=5)
    assert (other.starts, other.starting_s, other.work_s) == (1, 30.0, 70.0)
    assert engines.end() == {}
    assert sorted(engines.loaded("pool")) == ["one", "two"]
    engines.begin(100.0)
    engines.serve("pool", "one", 40.0, 30.0, width=1)
    assert engines.end() == {}
    engines.begin(50.0)
    engines.serve("pool", "one", 10.0, 30.0, width=1)
    assert engines.end() == {("pool", "one"): 60.0}
    engines.begin(100.0)
    engines.end()
    assert engines.loaded("pool") == []


def _with(here: Scene, arrival: Arrival) -> Scene:
    arrivals = [arrival if one.batch_id == arrival.batch_id else one for one in here.arrivals]
    return msgspec.structs.replace(here, arrivals=arrivals)


def test_engines_that_ran_anyway_have_the_model_that_is_asked_for() -> None:
    """Not the first one that is declared; where batches ask for several and pools may serve them all, nobody knows it."""
    large = [one for one in scene().arrivals if one.model == "large"]
    asked = msgspec.structs.replace(scene(), arrivals=large)
    truth = Truth(asked, Conditions(attached=True))
    assert {truth.stands(name) for name in asked.fleet.pools} == {"large"}
    assert one_model_each([{"model": "large"}, {"model": "large"}], asked)
    assert not one_model_each([{"model": "large"}, {"model": "small"}], asked)
    pools = sorted(asked.fleet.pools)
    apart = {key: one for key, one in asked.profiles.items() if key in {("large", pools[0]), ("small", pools[1])}}
    assert one_model_each([{"model": "large"}, {"model": "small"}], msgspec.structs.replace(asked, profiles=apart))


def test_a_picture_of_a_day_shows_where_energy_went() -> None:
    work = [
        Work(25 * 3600.0 + 60, "H100-CISO", "a", 600.0, 0.0, 2 * 3.6e6, 1.0),
        Work(25 * 3600.0 + 900, "H100-CISO", "b", 600.0, 0.0, 3.6e6, 1.0),
        Work(26 * 3600.0, "A100-80-DE", "b", 600.0, 0.0, 3.6e6, 1.0),
        Work(50 * 3600.0, "H100-CISO", "b", 600.0, 0.0, 3.6e6, 1.0),
    ]
    found = kilowatts(Outcome("mine", 2, work=work), scene(), grid(), 24)
    assert {zone: np.flatnonzero(kw).tolist() for zone, kw in found.items()} == {"CISO": [1], "DE": [2], "PJM": []}
    assert (found["CISO"][1], found["DE"][2]) == (3.0, 1.0)


def test_points_of_a_picture_are_against_running_at_once() -> None:
    late = Outcome("late", 4, missed=["a"], work=[Work(0.0, "x", "a", 1.0, 0.0, 1.0, 50.0)])
    now = Outcome("run now", 4, work=[Work(0.0, "x", "a", 1.0, 0.0, 1.0, 100.0)])
    assert points_of([now, late], "run now", "late") == [Point("run now", 0.0, 0.0), Point("late", 50.0, 25.0, ours=True)]
    assert points_of([Outcome("run now", 1)], "run now", "late")[0].saved_pct == 0.0
    undone = Outcome("undone", 4, unfinished=["b"], work=[Work(0.0, "x", "a", 1.0, 0.0, 1.0, 10.0)])
    given_up = Outcome("given up", 4, given_up={"b": 3.0}, work=undone.work)
    assert [one.policy for one in points_of([now, late, undone, given_up], "run now", "late")] == ["run now", "late"]
    now.unfinished.append("b")
    assert points_of([now, late], "run now", "late") == []


COMMAND = ["simulate", "--days", "1", "--zones", "CISO,DE", "--policy", "greedy"]


def test_the_command_compares_policies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BATCHSCHED_DATA", raising=False)
    with pytest.raises(SystemExit) as left:
        main([*COMMAND, "--quick", "--picture", str(tmp_path / "drawn")])
    assert left.value.code == 0
    pictures = {path.name: path.read_bytes() for path in (tmp_path / "drawn").iterdir()}
    assert pictures.keys() == {"policies.svg", "day.svg"}
    assert all(b"</svg>" in picture for picture in pictures.values())
    table = capsys.readouterr()
    assert "typical days with drawn weather, from the seed" in table.out + table.err


@pytest.mark.slow
def test_the_command_simulates_the_whole_server(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BATCHSCHED_DATA", raising=False)
    with pytest.raises(SystemExit):
        main([*COMMAND, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["drawn"] is True
    assert [one["policy"] for one in found["policies"]] == ["run now", "greedy"]
    assert found["policies"][0]["saved"] == 0.0
    assert found["policies"][1]["saved"] > 0.05


def test_zones_that_the_data_lacks_are_named(tmp_path: Path) -> None:
    with (
        pytest.raises(ForecastUnavailable, match=r"No file in .* has forecasts of CISO"),
        opened(tmp_path, ["CISO"], START, 24, 0),
    ):
        pass


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the shared data; there is no {SHARED}")
@pytest.mark.slow
def test_real_forecasts_are_read_as_they_were_issued() -> None:
    start = datetime(2021, 10, 4, tzinfo=UTC)
    with opened(SHARED, ["CISO", "PJM"], start, 96, 0) as provider:
        found = Grid(provider, ["CISO", "PJM"], start, 96, ahead_h=48)
        errors = [abs(found.issued(12).mean["CISO"][n] / found.truth["CISO"][12 + n] - 1) for n in range(48)]
    assert 0 < sum(errors) / 48 < 0.4
    assert found.issued(12).spread["CISO"][24] > found.issued(12).spread["CISO"][0] > 0


def test_no_zones_are_refused() -> None:
    done = CliRunner().invoke(cli, ["simulate", "--zones", " ,"])
    assert done.exit_code != 0
    assert "names no zone" in f"{done.output}{done.exception}"
