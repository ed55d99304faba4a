"""Backtests: production's queue, scheduler and ledger on a virtual clock; the same for the same arguments, with no look ahead."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import msgspec
import pandas as pd
import pytest

from batchsched.planner import Plan, Problem
from batchsched.queue.tenancy import DEFAULT
from batchsched.simulate import POLICIES, Grid, Outcome, Policy, Scene, draw_scene
from batchsched.simulate.backtests import Backtest, backtest
from batchsched.simulate.conditions import Conditions, Outage
from batchsched.simulate.drawn import Drawn
from batchsched.simulate.grid import HOUR
from batchsched.simulate.records import Records
from batchsched.simulate.rolling import hours_of
from batchsched.simulate.store import Draft, MemoryStore
from tests.test_simulate import Poisoned

ZONES = ("CISO", "DE")
START = datetime(2021, 7, 1, tzinfo=UTC)
COARSE = Conditions(chunk_s=5400.0, chunk_share=math.inf, warm_up_h=3.0, warm_up_batches=1)

pytestmark = pytest.mark.slow


@cache
def scene() -> Scene:
    """A few batches of a day, those that are due soon."""
    drawn = draw_scene(ZONES, 1, 1, batches_a_day=16.0, load=0.15)
    return msgspec.structs.replace(drawn, arrivals=[one for one in drawn.arrivals if one.deadline_s < 30 * 3600.0])


@cache
def grid() -> Grid:
    """Drawn weather."""
    return Grid(Drawn(START, hours_of(scene()), 1), ZONES, START, hours_of(scene()))


@cache
def found(policy: str) -> tuple[Outcome, Records]:
    """Of a policy."""
    return backtest(scene(), grid(), POLICIES[policy], COARSE)


def test_a_draft_reads_as_a_file() -> None:
    store, draft = MemoryStore(), Draft(5, 200, "/v1/chat/completions", "small")
    store.draft("file-1", draft)
    whole = b"".join(store.blocks("file-1"))
    lines = whole.splitlines(keepends=True)
    assert [len(line) for line in lines] == [200] * 5
    assert [msgspec.json.decode(line)["custom_id"] for line in lines] == [f"r{n}" for n in range(5)]
    assert b"".join(store.blocks("file-1", 250, 730)) == whole[250:730]


def test_the_same_arguments_give_the_same_answer() -> None:
    outcome, records = found("greedy")
    again, same = backtest(scene(), Grid(Drawn(START, hours_of(scene()), 1), ZONES, START, hours_of(scene())), _greedy(), COARSE)
    assert again.summary() == outcome.summary()
    assert again.work == outcome.work
    assert (same.decisions, same.leases, same.completions) == (records.decisions, records.leases, records.completions)


def _greedy() -> Policy:
    return POLICIES["greedy"]


@pytest.mark.parametrize("policy", ["run now", "lowest window", "greedy"])
def test_all_is_done_and_paid_for(policy: str) -> None:
    outcome, records = found(policy)
    arrivals = {arrival.batch_id: arrival for arrival in scene().arrivals}
    assert outcome.unfinished == []
    done: dict[str, float] = defaultdict(float)
    for one in records.leases:
        done[one.batch] += one.requests if one.what == "recorded" and one.batch in arrivals else 0.0
    assert {name: done[name] for name in arrivals} == pytest.approx({name: a.requests for name, a in arrivals.items()})
    for work in outcome.work:
        assert work.energy_j >= 0
        assert not work.batch_id or work.pool in arrivals[work.batch_id].pools
    assert outcome.grams == pytest.approx(sum(one.grams for one in outcome.work))
    assert sum(one.grams for one in records.completions) <= outcome.grams


def test_a_replica_holds_one_chunk_at_a_time_and_a_chunk_one_holder() -> None:
    _, records = found("greedy")
    held: dict[str, str] = {}
    holder: dict[str, str] = {}
    for one in records.leases:
        if one.what == "leased":
            assert one.replica not in held
            assert one.chunk not in holder
            held[one.replica], holder[one.chunk] = one.chunk, one.replica
        elif one.what != "recorded":
            assert held.pop(one.replica) == one.chunk
            del holder[one.chunk]
    assert held == {}


@pytest.mark.parametrize("policy", ["run now", "lowest window", "greedy"])
def test_engines_start_where_there_is_work_for_them(policy: str) -> None:
    outcome, records = found(policy)
    leases = sum(one.what == "leased" and one.at_s >= 0 for one in records.leases)
    assert 0 < outcome.engine_starts < leases
    assert outcome.wasted_starts <= 0.1 * (outcome.engine_starts - outcome.wasted_starts)


def test_what_a_batch_took_stands_beside_what_was_expected() -> None:
    """Luck is small here: nothing took more than its confidence leaves room for. Work that takes three times as long does."""
    _, records = found("greedy")
    longer = msgspec.structs.replace(COARSE, error=3.0, warm_up_h=0.0)
    _, slow = backtest(scene(), grid(), POLICIES["run now"], longer)
    took = [[one.times or 0.0 for one in each.completions] for each in (records, slow)]
    assert all(0 < usual < three for usual, three in zip(*took, strict=True))
    assert not any(one.excused for one in records.completions)
    assert any(one.excused for one in slow.completions)


def test_production_reports_the_same_grams(tmp_path: Path) -> None:
    """By its own accounts, from the same ledger."""
    with _run(tmp_path, _greedy()) as (made, outcome):
        grams: dict[str, float] = defaultdict(float)
        for one in outcome.work:
            grams[one.batch_id] += one.grams if one.seconds > 0 else 0.0
        made.events.clock.advance(2 * 3600.0)  # until the last hour was measured
        for batch_id, name in made.names.items():
            report = made.runtime.reports.report(batch_id, DEFAULT)
            assert report["operational_g"] == pytest.approx(grams[name], rel=0.01)


@contextmanager
def _run(folder: Path, policy: Policy) -> Generator[tuple[Backtest, Outcome]]:
    made = Backtest(scene(), grid(), policy, COARSE, folder)
    try:
        yield made, made.run()
    finally:
        made.close()


def test_the_future_is_not_known() -> None:
    policy = "greedy"
    hours, turn_h = hours_of(scene()), 15
    poisoned = Grid(Poisoned(Drawn(START, hours, 1), START + turn_h * HOUR), ZONES, START, hours)
    outcome, records = found(policy)
    other, changed = backtest(scene(), poisoned, POLICIES[policy], COARSE)
    turn_s = turn_h * 3600.0
    before = [one for one in records.leases if one.at_s < turn_s]
    assert len(before) > 10
    assert [one for one in changed.leases if one.at_s < turn_s] == before
    decided = [one for one in records.decisions if one.made_s < turn_s]
    assert [one for one in changed.decisions if one.made_s < turn_s] == decided
    assert other.grams > 1.5 * outcome.grams


def test_failures_and_an_outage_are_got_over() -> None:
    [lost] = sorted(scene().fleet.pools, key=lambda name: scene().fleet.pools[name].count)[-1:]
    bad = msgspec.structs.replace(COARSE, failures_per_replica_h=0.1, outages=(Outage(lost, 6 * 3600.0, 12 * 3600.0),))
    outcome, records = backtest(scene(), grid(), _greedy(), bad)
    assert outcome.unfinished == []
    assert any(one.what == "failed" for one in records.leases)
    away = [one for one in records.leases if one.what == "leased" and one.replica.startswith(f"{lost}/")]
    assert away
    assert not any(6 * 3600.0 <= one.at_s < 12 * 3600.0 for one in away)


def test_an_engine_that_starts_as_its_pool_goes_away_starts_in_vain() -> None:
    """The half of a start that was done is waste."""
    start_s = 1800.0
    slow = {key: msgspec.structs.replace(one, startup_s=start_s) for key, one in scene().profiles.items()}
    starting = msgspec.structs.replace(scene(), profiles=slow)
    exact = msgspec.structs.replace(COARSE, warm_up_h=0.0, sigma_start=0.0)
    _, records = backtest(starting, grid(), POLICIES["run now"], exact)
    first = min((one for one in records.leases if one.what == "leased"), key=lambda one: one.at_s)
    pool, away_s = first.replica.split("/")[0], first.at_s - start_s / 2
    outage = msgspec.structs.replace(exact, outages=(Outage(pool, away_s, away_s + 4 * 3600.0),))
    lost, _ = backtest(starting, grid(), POLICIES["run now"], outage)
    in_vain = [one for one in lost.work if not one.batch_id and one.pool == pool and one.at_s < away_s]
    assert sum(one.starting_s for one in in_vain) >= 0.49 * start_s
    assert lost.wasted_starts >= 1


def test_a_batch_of_which_requests_are_given_up_is_done_all_the_same() -> None:
    """Engines that die every few minutes: after five tries the server makes error lines of what a chunk has left."""
    frail = msgspec.structs.replace(COARSE, failures_per_replica_h=4.0)
    outcome, records = backtest(scene(), grid(), _greedy(), frail)
    assert outcome.unfinished == []
    assert outcome.given_up
    done: dict[str, float] = defaultdict(float)
    for one in records.leases:
        done[one.batch] += one.requests
    for arrival in scene().arrivals:
        assert done[arrival.batch_id] + outcome.given_up.get(arrival.batch_id, 0.0) == pytest.approx(arrival.requests)
    assert all(one.finished_s is not None for one in records.completions)
    assert outcome.summary()["given_up"] == round(sum(outcome.given_up.values())) > 0


def test_batches_of_adapters_are_served() -> None:
    drawn = scene()
    models = {**drawn.fleet.models}
    models["middle"] = msgspec.structs.replace(models["middle"], adapter_of="large", adapter="adapters/middle")
    assert any(one.model == "middle" for one in drawn.arrivals)
    fleet = msgspec.structs.replace(drawn.fleet, models=models)
    outcome, _ = backtest(msgspec.structs.replace(drawn, fleet=fleet), grid(), _greedy(), COARSE)
    assert outcome.unfinished == []


def test_what_goes_wrong_in_a_policy_is_not_passed_over() -> None:
    def planner(_problem: Problem, _now_s: float) -> Plan:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        backtest(scene(), grid(), Policy("broken", lambda: planner), COARSE)


def test_records_are_tables(tmp_path: Path) -> None:
    outcome, records = found("greedy")
    paths = records.write(tmp_path, outcome.work)
    tables = {path.stem: pd.read_parquet(path) for path in paths}
    assert len(tables["completions"]) == len(scene().arrivals)
    assert tables["work"]["grams"].sum() == pytest.approx(outcome.grams)
    assert set(tables["leases"]["what"]) >= {"leased", "recorded", "finished"}
    assert tables["decisions"]["seconds"].min() >= 0
