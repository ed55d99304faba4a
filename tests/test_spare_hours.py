"""What online users leave of their servers: kept by hour of the week, learnt from cold, and what plans make of it."""

from __future__ import annotations

import math
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchsched.clock import ManualClock
from batchsched.fleet import Fleet, Pool, Site, Slo
from batchsched.planner.latest_start import OpenPool
from batchsched.profiles.prior import prior
from batchsched.profiles.spare import FOLLOWS, HOURS, PRIOR_SHARE, Latest, learn
from batchsched.queue import spare
from batchsched.queue.database import Database
from batchsched.spare import Share, shares
from batchsched.wire import PREFIX, PROTOCOL, SpareSeen
from tests.inprocess import InProcess, in_process
from tests.live import ONLINE, requests
from tests.test_moving_on import submitted

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)
FLEET = f'{ONLINE}[planner]\nsolver = "greedy"\n[carbon]\nembodied_policy = "whole_life"\n'


def seen(tokens_per_s: float, seconds: float = 300.0, server: str = "s1") -> SpareSeen:
    return SpareSeen(server, seconds, tokens_per_s)


def test_samples_are_quarters_of_an_hour_and_bounded_in_number(database: Database) -> None:
    def add(at: datetime, *said: SpareSeen) -> None:
        with database.write() as connection:
            for each in said:
                spare.add(connection, "online", each, at)

    add(MONDAY, seen(100), seen(200, 600), seen(7, server="s2"))
    add(MONDAY + timedelta(minutes=16), seen(30, 30))
    with database.read() as connection:
        found = {row.server: row for row in spare.hours(connection, MONDAY)}
    assert found["s1"].samples == [pytest.approx(500 / 3)]  # by how long each looked; half a minute is no sample yet
    assert found["s2"].samples == [7]
    for week in range(60):
        add(MONDAY + timedelta(weeks=week, minutes=30), seen(week))
    now = MONDAY + timedelta(weeks=59, hours=1)
    with database.read() as connection:
        (row,) = spare.hours(connection, now)  # the other server was not seen for months
    assert (row.server, row.hour_of_week) == ("s1", 0)
    assert row.samples == [*range(60 - spare.MOST_SAMPLES - 1, 60)]
    add(now, seen(math.inf), seen(-1), seen(1, 1e9))
    with database.read() as connection:
        assert len(spare.hours(connection, now)) == 1


def test_a_guess_from_cold_is_cautious_and_gives_way_to_what_is_seen() -> None:
    cold = learn([], 1000.0)
    assert cold.tokens_per_s == [PRIOR_SHARE * 1000.0] * HOURS
    assert cold.quantile(0, 0.1) < 50 < cold.quantile(0, 0.9)
    day = learn([(hour, [600.0] * 4) for hour in range(24)], 1000.0)
    assert all(400 < day.tokens_per_s[hour] <= 600 for hour in range(HOURS))
    assert day.sigma < cold.sigma / 2


def test_nights_and_weekends_are_told_apart() -> None:
    rng = random.Random(1)

    def truth(hour: int) -> float:
        return 900.0 if hour % 24 < 6 or hour >= 120 else 150.0

    rows = [(hour, [truth(hour) * rng.lognormvariate(0, 0.3) for _ in range(16)]) for hour in range(HOURS)]
    known = learn(rows, 2000.0)
    mean = math.exp(0.3**2 / 2)
    errors = [abs(known.tokens_per_s[hour] / truth(hour) / mean - 1) for hour in range(HOURS) if hour % 24 not in {5, 6}]
    assert sum(errors) / len(errors) < 0.35
    again = [(hour, truth(hour) * rng.lognormvariate(0, 0.3)) for hour in range(HOURS) for _ in range(16)]
    below = sum(value < known.quantile(hour, 0.1) for hour, value in again) / len(again)
    assert 0.03 < below < 0.2


@given(st.lists(st.tuples(st.integers(0, 167), st.lists(st.floats(0, 1e6), max_size=5)), max_size=30), st.floats(0.1, 1e6))
def test_whatever_was_seen_gives_finite_figures_and_ordered_quantiles(rows: list[tuple[int, list[float]]], alone: float) -> None:
    known = learn(rows, alone)
    for hour in (0, 100, 167):
        low, middle, high = (known.quantile(hour, p) for p in (0.1, 0.5, 0.9))
        assert 0 <= low <= middle <= high < math.inf
    share = Share(known, alone)
    assert all(0 <= share.of_hour(hour) <= 1 + 1e-9 for hour in range(HOURS))
    assert 0 < share.speed < math.inf


def share_of(rows: list[spare.SpareHour]) -> Share:
    fleet = Fleet({"home": Site(zone="DE")}, {"online": Pool(kind="spare", gpu="L4", slo=Slo(500, 50), ceiling=9)}, {}, "home")
    fleet = Fleet(fleet.sites, fleet.pools, {"tiny": None}, "home")  # type: ignore[dict-item]
    return shares(fleet, rows, {("tiny", "online"): prior("tiny", "online", "L4", 1.0)})["online"]


def usually(by_hour: dict[int, float]) -> list[spare.SpareHour]:
    return [spare.SpareHour("online", "s", hour, [by_hour.get(hour, 0.0)] * 48) for hour in range(HOURS)]


def test_capacity_follows_the_clock_and_layers_say_the_same() -> None:
    """Nights are whole, days a fifth; what a stretch holds is the same by hours and by layers."""
    share = share_of(usually({hour: 1000.0 if hour % 24 < 8 else 200.0 for hour in range(HOURS)}))
    assert share.over(MONDAY, MONDAY + timedelta(hours=8)) == pytest.approx(1, rel=0.02)
    assert share.over(MONDAY + timedelta(hours=8), MONDAY + timedelta(hours=24)) == pytest.approx(0.2, rel=0.1)
    half = share.over(MONDAY + timedelta(hours=7, minutes=30), MONDAY + timedelta(hours=8, minutes=30))
    assert half == pytest.approx(0.6, rel=0.05)
    layers = share.layers(OpenPool("online", 2, [(-3600.0, 86400.0)]), MONDAY)
    held = sum(layer.replicas * (b - a) for layer in layers for a, b in layer.intervals if a >= 0)
    assert held == pytest.approx(2 * 86400 * share.over(MONDAY, MONDAY + timedelta(days=1)), rel=0.05)
    assert {round(layer.replicas, 6) for layer in layers} == {0.4}
    assert sum(layer.replicas for layer in layers for a, b in layer.intervals if a < 0 < b or b == 0) == pytest.approx(0.8)


def worker_of(server: InProcess, pool: str = "online") -> str:
    body = {"pool": pool, "host": "h", "pid": 1, "protocol": PROTOCOL, "shares": True}
    return str(server.post(f"{PREFIX}/workers", body).json()["worker_id"])


def test_workers_on_several_machines_share_the_ceiling_of_a_server_that_they_have_work_for(tmp_path: Path) -> None:
    clock = ManualClock(MONDAY)
    with in_process() as make, closing(make(tmp_path, clock, FLEET)) as server:
        workers = {desk: worker_of(server) for desk in ("a", "b", "b again", "c")}

        def told(desk: str, wants: bool = True, at: str = "gpu-1:8000") -> int | None:
            said = {"server": at, "desk": desk[0], "wants": wants}
            answer = server.post(f"{PREFIX}/workers/{workers[desk]}/heartbeat", {"leases": [], "sharing": said})
            ceiling: int | None = answer.json()["ceiling"]
            return ceiling

        assert told("a") == 12
        assert told("b") == 1  # until the first has heard that it has half of it
        assert told("a") == 6
        assert told("b") == told("b again") == 6  # two of one machine
        assert told("c", wants=False) == 1  # as much as it would have at once
        assert told("a") == 6
        assert told("c", at="gpu-2:8000") == 12
        assert server.post(f"{PREFIX}/workers/{workers['c']}/bye", {"spent": []}).is_success
        clock.advance(120)
        assert told("a") == 12  # of the others nobody has heard for two minutes
        answer = server.post(f"{PREFIX}/workers/{workers['a']}/heartbeat", {"leases": []}).json()
        assert answer["ceiling"] is None  # an older worker


def test_who_gets_work_gets_its_part_of_the_ceiling_with_it(tmp_path: Path, database_url: str) -> None:
    """However they come in between: together they are never told of more than the ceiling and one for each that came last."""
    clock = ManualClock(MONDAY)
    with (
        in_process() as make,
        closing(make(tmp_path, clock, FLEET, server__database_url=database_url, server__chunk_lines=1)) as server,
    ):
        workers = {desk: worker_of(server) for desk in "abc"}
        told: dict[str, int] = {}

        def said(desk: str, *, wants: bool = True) -> dict[str, Any]:
            return {"server": "gpu-1:8000", "desk": desk, "wants": wants}

        def claimed(desk: str) -> int:
            asked = {"worker_id": workers[desk], "ready_models": ["tiny"], "sharing": said(desk)}
            answer = server.post(f"{PREFIX}/leases", asked).json()
            told[desk] = answer["ceiling"] if answer["leases"] else 0
            return told[desk]

        def beat(desk: str, *, wants: bool = True) -> int:
            answer = server.post(
                f"{PREFIX}/workers/{workers[desk]}/heartbeat", {"leases": [], "sharing": said(desk, wants=wants)}
            )
            told[desk] = answer.json()["ceiling"]
            return told[desk]

        assert claimed("a") == 0  # there is nothing to do, and so nobody there
        batch_id = submitted(server)
        server.post(f"{PREFIX}/batches/{batch_id}/start")
        server.plan()
        with ThreadPoolExecutor(3) as together:
            assert sorted(together.map(claimed, "abc")) == [1, 1, 12]
        assert sum(told.values()) == 14
        for desk in sorted("abc", key=lambda name: -told[name]):
            beat(desk, wants=False)  # its words from before the work came
            assert sum(told.values()) <= 14
        assert [beat(desk) for desk in "abc"] == [4, 4, 4]


def test_plans_get_what_workers_saw_and_weigh_the_increment_alone(tmp_path: Path) -> None:
    clock = ManualClock(MONDAY + timedelta(hours=6))
    with in_process() as make, closing(make(tmp_path, clock, FLEET)) as server:
        runtime = server.runtime
        (cold,) = server.json(f"{PREFIX}/pools")["data"]
        assert (cold["kind"], cold["ceiling"], cold["slo"]["percentile"]) == ("spare", 12, 99)
        assert cold["spare"]["quarters_seen"] == 0
        assert any("a cautious 10%" in note for note in runtime.scheduler.observer.look(clock.now()).notes)
        alone = runtime.scheduler.observer.current_profiles()["tiny", "online"]
        worker = worker_of(server)
        for _ in range(8):  # two hours
            beat = {"leases": [], "spare": {"server": "gpu-1", "seconds": 300.0, "tokens_per_s": 5000.0}}
            assert server.post(f"{PREFIX}/workers/{worker}/heartbeat", beat).status_code == 200
            clock.advance(900)
        (known,) = server.json(f"{PREFIX}/pools")["data"]
        assert known["spare"]["quarters_seen"] == 8
        assert cold["spare"]["tokens_per_s"] < known["spare"]["tokens_per_s"] < 5000
        upload = server.request("POST", "/v1/files", files={"file": ("in.jsonl", requests(50))}, data={"purpose": "batch"}).json()
        asked = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "input_file_id": upload["id"]}
        batch_id = server.post("/v1/batches", asked).json()["id"]
        server.round()
        runtime.scheduler.plan_now()
        later = server.request("GET", f"{PREFIX}/plan/what-if", params={"deadline": [f"{batch_id}=+3d"]})
        assert later.status_code == 200, later.text
        view = runtime.scheduler.observer.look(clock.now())
        (state,), (job,) = view.problem.pools, view.problem.jobs
        assert state.embodied_g_per_s == 0
        assert state.supply.sigma > 0.3
        assert state.supply.slot_sigma > 0
        assert max(state.capacity) <= 1
        assert job.idle_w_on == {}
        assert job.startup_s_on == {"online": 0}
        work = job.seconds_on["online"]
        expected = alone.energy_j(1, 1) / alone.seconds(1, 1) - alone.idle_w
        share = runtime.scheduler.observer.current_shares(clock.now())["online"]
        assert 0 < job.power_w_on["online"] / share.speed < alone.power_w
        assert job.power_w_on["online"] / share.speed == pytest.approx(expected, rel=0.35)
        assert work > 0
        text = server.request("GET", "/metrics").text
        assert 'batchsched_spare_tokens_per_second{pool="online"}' in text


def test_what_was_seen_before_is_entered_once_and_goes_on(database: Database) -> None:
    before = [spare.SpareHour("online", "s1", hour, [100.0 * hour] * 60) for hour in (0, 1)]
    with database.write() as connection:
        spare.restore(connection, before, MONDAY)
        spare.restore(connection, [spare.SpareHour("online", "s1", 0, [7.0]), spare.SpareHour("online", "s2", 5, [])], MONDAY)
        spare.add(connection, "online", seen(50.0), MONDAY + timedelta(minutes=10))
    with database.read() as connection:
        found = {row.hour_of_week: row.samples for row in spare.hours(connection, MONDAY)}
    assert set(found) == {0, 1}
    assert found[0] == [*([0.0] * spare.MOST_SAMPLES), 50.0]
    assert found[1] == [100.0] * spare.MOST_SAMPLES


def test_the_latest_quarter_tells_of_the_next_hours() -> None:
    """Half of the usual was left until 08:15: little more is expected of the next quarter, more and more of later hours."""
    rows = [(hour, [400.0] * 48) for hour in range(HOURS)]
    ended = MONDAY + timedelta(hours=8, minutes=15)
    usual = learn(rows, 1000.0).tokens_per_s[8]
    known = learn(rows, 1000.0, Latest(8, usual / 2, ended))
    expected = [known.expected(8 + h, ended + timedelta(hours=h)) for h in range(12)]
    assert expected[0] == pytest.approx(usual * (1 - FOLLOWS / 2))
    assert expected == sorted(expected)
    assert usual * 0.95 < expected[-1] < usual
    assert known.expected(7, ended - timedelta(hours=1)) == usual, "what is over is not told anew"
    none = learn(rows, 1000.0, Latest(8, 0.0, ended))
    assert min(none.expected(hour, ended) for hour in range(HOURS)) >= 0


def test_which_quarter_was_the_latest_is_known_as_long_as_it_can_be(database: Database) -> None:
    def add(minutes: int, seconds: float = 300.0, **said: float) -> None:
        with database.write() as connection:
            for server, tokens_per_s in said.items():
                spare.add(connection, "online", seen(tokens_per_s, seconds, server), MONDAY + timedelta(minutes=minutes))

    def latest() -> tuple[float, float]:
        """Tokens a second, and the minute at which it ended."""
        with database.read() as connection:
            known = share_of(spare.hours(connection, MONDAY)).spare
        assert known.latest_at is not None
        return known.tokens_per_s[0] + known.off_tokens_per_s, (known.latest_at - MONDAY) / timedelta(minutes=1)

    add(5, s1=100.0, s2=300.0)
    assert latest() == pytest.approx((200.0, 15.0)), "the mean of the servers"
    add(20, s1=700.0)
    assert latest() == pytest.approx((700.0, 30.0)), "who was seen in it"
    add(31, 10.0, s1=9.0)
    assert latest() == pytest.approx((700.0, 30.0)), "ten seconds are no quarter"
    with database.write() as connection:
        spare.restore(connection, [spare.SpareHour("online", "s3", hour, [1.0]) for hour in range(HOURS)], MONDAY)
    assert latest() == pytest.approx((700.0, 30.0)), "what another database knew is not of today"
    add(50, 10.0, s1=9.0)
    assert latest() == pytest.approx((700.0, 30.0)), "a quarter that nobody saw is not the one before it"
