"""The scheduler on a hand-moved clock: shifting, windows, the latest safe start when all else fails, what it says of waiting."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

import batchsched.judging
import batchsched.solving
from batchsched.clock import ManualClock
from batchsched.errors import ForecastUnavailable, InvalidConfiguration, UnsafePlan
from batchsched.exposed import Metric
from batchsched.published import Published
from batchsched.queue import ledger, tallies
from batchsched.solving import Answer, Ask
from batchsched.units import from_iso, iso
from batchsched.wire import PREFIX
from tests.inprocess import in_process
from tests.live import PATIENCE_S, HandWorker, LiveServer, live_server, requests, wait_for
from tests.test_moving_on import submitted

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
CONFIG = """
[sites.home]
zone = "Z"
[pools.local]
gpu = "cpu"
{window}
[models.tiny]
parameters_b = 0.001
[forecast]
source = "file"
path = "forecast.csv"
[planner]
solver = "{solver}"
[server]
lease_s = 100000
"""


def _forecast(folder: Path, hourly: list[float], zone: str = "Z") -> None:
    """Write the forecast of one zone; that of another is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "forecast.csv"
    rows = file.read_text().splitlines() if file.exists() else []
    rows = rows or ["# provider: test forecast", "zone,start,end,issued_at,mean,q05,q25,q50,q75,q95,realised"]
    for hour, mean in enumerate(hourly):
        start = NOW + timedelta(hours=hour)
        spread = ",".join(str(round(mean * factor, 1)) for factor in (0.8, 0.9, 1.0, 1.1, 1.2))
        end = start + timedelta(hours=1)
        rows.append(f"{zone},{iso(start)},{iso(end)},{iso(NOW - timedelta(hours=1))},{mean},{spread},{mean}")
    file.write_text("\n".join(rows) + "\n")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


def _server(folder: Path, clock: ManualClock, hourly: list[float], window: str = "", solver: str = "cp-sat") -> Any:
    _forecast(folder, hourly)
    return live_server(folder, CONFIG.format(window=window, solver=solver), clock=clock)


@pytest.fixture
def dirty_then_clean(tmp_path: Path, clock: ManualClock) -> Generator[LiveServer]:
    """Two dirty hours, two clean ones, then dirty again."""
    with _server(tmp_path, clock, [500, 500, 100, 100, *[500] * 20]) as server:
        yield server


def _submit(server: LiveServer, **fields: Any) -> dict[str, Any]:
    batch_id = server.submit(requests(50), **fields)["id"]
    server.until(batch_id, "in_progress", "failed")
    return _replanned(server, batch_id)


def _replanned(server: LiveServer, batch_id: str) -> dict[str, Any]:
    server.runtime.scheduler.plan_now()
    return server.batch(batch_id)


def _tick(server: LiveServer, clock: ManualClock, at: datetime, worker: HandWorker) -> None:
    clock.advance((at - clock.now()).total_seconds())
    server.post(f"{PREFIX}/workers/{worker.worker_id}/heartbeat", {"leases": []})
    server.runtime.scheduler.plan_now()


def test_work_waits_for_the_clean_hour_and_says_so(dirty_then_clean: LiveServer, clock: ManualClock) -> None:
    server, worker = dirty_then_clean, dirty_then_clean.worker()
    batch = _submit(server, batchsched={"deadline": "12h"})
    verdict = batch["batchsched"]["verdict"]
    assert verdict["feasible"]
    assert verdict["probability"] > 0.99
    assert verdict["expected_grams"] < verdict["expected_grams_run_now"] / 3
    assert NOW + timedelta(hours=2) < from_iso(verdict["expected_finish_at"]) < NOW + timedelta(hours=4)
    progress = batch["batchsched"]["progress"]
    assert progress["state"] == "waiting"
    assert "cleaner power in Z" in progress["waiting_for"]
    assert from_iso(progress["waiting_until"]) <= NOW + timedelta(hours=2)
    assert NOW + timedelta(hours=2) < from_iso(progress["expected_finish_at"]) < NOW + timedelta(hours=4)
    assert worker.claim() == []
    _tick(server, clock, NOW + timedelta(hours=2, seconds=1), worker)
    assert len(worker.claim()) == 1


def test_nothing_is_gained_by_waiting_on_a_flat_grid(tmp_path: Path, clock: ManualClock) -> None:
    with _server(tmp_path, clock, [300] * 30) as server:
        worker = server.worker()
        _submit(server)
        assert len(worker.claim()) == 1


def test_a_short_deadline_does_not_wait(dirty_then_clean: LiveServer) -> None:
    worker = dirty_then_clean.worker()
    _submit(dirty_then_clean, batchsched={"deadline": "60s"})
    assert len(worker.claim()) == 1


def test_the_latest_safe_start_holds_when_no_plan_can_be_made(
    dirty_then_clean: LiveServer, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, worker = dirty_then_clean, dirty_then_clean.worker()
    batch = _submit(server, batchsched={"deadline": "90m"})  # the clean hours come too late for it
    monkeypatch.setattr(batchsched.solving, "make_plan", _broken)
    monkeypatch.setattr(batchsched.solving, "solve", _broken)
    batch = _replanned(server, batch["id"])
    latest = from_iso(batch["batchsched"]["progress"]["latest_safe_start_at"])
    assert NOW + timedelta(minutes=30) < latest < NOW + timedelta(minutes=90)
    _tick(server, clock, latest - timedelta(seconds=30), worker)
    assert worker.claim() == []
    _tick(server, clock, latest + timedelta(seconds=30), worker)
    assert len(worker.claim()) == 1
    assert "No plan could be made" in server.get(f"{PREFIX}/plan")["notes"][-1]


def test_claims_go_on_by_the_last_plan_while_the_next_is_being_made(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, go_on, answer = threading.Event(), threading.Event(), batchsched.solving.answer_to

    def slow(*args: Any) -> Any:
        busy.set()
        go_on.wait(PATIENCE_S)
        return answer(*args)

    with _server(tmp_path, clock, [300] * 30) as server:
        worker = server.worker()
        _submit(server)
        monkeypatch.setattr(batchsched.solving, "answer_to", slow)
        server.runtime.scheduler.poke()
        assert busy.wait(PATIENCE_S)
        assert len(worker.claim()) == 1
        go_on.set()


def test_a_batch_is_accepted_when_no_plan_can_be_made(dirty_then_clean: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batchsched.judging, "greedy", _broken)
    monkeypatch.setattr(batchsched.solving, "make_plan", _broken)
    monkeypatch.setattr(batchsched.solving, "solve", _broken)
    batch = _submit(dirty_then_clean, batchsched={"deadline": "90m"})
    assert batch["status"] == "in_progress"
    assert batch["batchsched"]["verdict"]["feasible"]
    assert batch["batchsched"]["progress"]["latest_safe_start_at"]


def test_work_that_can_wait_no_longer_gets_the_engine_although_another_model_is_loaded(
    tmp_path: Path, clock: ManualClock
) -> None:
    _forecast(tmp_path, [300] * 30)
    with live_server(tmp_path, CONFIG.format(window="", solver="cp-sat") + "[models.other]\n", clock=clock) as server:
        worker = server.worker()
        late = server.submit(requests(50), batchsched={"deadline": "3h", "on_deadline": "finish"})["id"]
        urgent = server.submit(requests(50, model="other"), batchsched={"deadline": "30s"})["id"]
        for batch_id in (late, urgent):
            server.until(batch_id, "in_progress")
        server.runtime.scheduler.plan_now()
        answer = server.post(f"{PREFIX}/leases", {"worker_id": worker.worker_id, "ready_models": ["tiny"]})
        assert (answer["leases"], answer["prepare"]) == ([], "other")


@pytest.mark.slow
def test_nothing_is_prepared_for_work_that_is_all_taken(tmp_path: Path, clock: ManualClock) -> None:
    with _server(tmp_path, clock, [300] * 30) as server:
        first, idle = server.worker(), server.worker()
        _submit(server, batchsched={"deadline": "30s"})
        assert len(first.claim()) == 1
        answer = server.post(f"{PREFIX}/leases", {"worker_id": idle.worker_id, "ready_models": []})
        assert (answer["leases"], answer["prepare"]) == ([], None)


def test_failed_lines_are_no_work_any_more(tmp_path: Path, clock: ManualClock) -> None:
    with _server(tmp_path, clock, [300] * 30) as server:
        batch_id = server.submit(requests(100), batchsched={"deadline": "12h"})["id"]
        server.until(batch_id, "in_progress")
        before = server.runtime.scheduler.plan_now().problem.jobs[0].seconds_on["local"]
        worker = server.worker()
        worker.record(worker.lease(), list(range(1, 91)), ok=False, metered=False)
        after = server.runtime.scheduler.plan_now().problem.jobs[0].seconds_on["local"]
        assert after < before / 5


def _broken(*_: object) -> None:
    raise UnsafePlan("the solver is down")


def test_work_goes_on_when_the_forecast_fails(tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    with _server(tmp_path, clock, [500] * 24) as server:
        worker = server.worker()
        for problem in (ForecastUnavailable("gone"), OSError("no network")):
            monkeypatch.setattr(server.runtime.scheduler.observer._provider, "forecast", _raising(problem))
            _submit(server)
            assert "counts as unknown" in server.get(f"{PREFIX}/plan")["notes"][0]
            assert len(worker.claim()) == 1


def _raising(problem: Exception) -> Any:
    def forecast(*_: object) -> None:
        raise problem

    return forecast


def test_a_closed_window_lets_nothing_start_and_an_end_lets_go(tmp_path: Path, clock: ManualClock) -> None:
    window = '[pools.local.window]\ncron = "0 14 * * *"\nduration = "1h"\n'
    with _server(tmp_path, clock, [100, 500, 500, *[500] * 30], window) as server:
        worker = server.worker()
        batch = _submit(server)
        progress = batch["batchsched"]["progress"]
        assert worker.claim() == []  # although the grid is cleanest now
        assert "pool local to open" in progress["waiting_for"]
        assert from_iso(progress["waiting_until"]) <= NOW + timedelta(hours=2)
        _tick(server, clock, NOW + timedelta(hours=2, seconds=1), worker)
        lease = worker.lease()
        held = [{"chunk_id": lease["chunk_id"], "token": lease["token"]}]
        beat = f"{PREFIX}/workers/{worker.worker_id}/heartbeat"
        assert server.post(beat, {"leases": held})["stop"] == {}
        clock.advance(3600)
        assert server.post(beat, {"leases": held})["stop"] == {lease["chunk_id"]: "window_closed"}
        server.post(f"{PREFIX}/leases/{lease['chunk_id']}/release", {"token": lease["token"], "reason": "window_closed"})
        server.runtime.scheduler.plan_now()
        assert worker.claim() == []


def test_a_bad_window_is_refused_at_the_start(tmp_path: Path, clock: ManualClock) -> None:
    window = '[pools.local.window]\ncron = "61 14 * * *"\nduration = "1h"\n'
    with pytest.raises(InvalidConfiguration, match=r"pools\.local\.window.*minute"), _server(tmp_path, clock, [1], window):
        pass


def test_an_infeasible_batch_is_accepted_with_that_verdict_or_refused(dirty_then_clean: LiveServer) -> None:
    server = dirty_then_clean
    heavy = requests(200, max_tokens=100_000)
    batch_id = server.submit(heavy, batchsched={"deadline": "20s"})["id"]
    verdict = server.until(batch_id, "in_progress")["batchsched"]["verdict"]
    assert not verdict["feasible"]
    assert verdict["probability"] < 0.5
    assert "later would do" in verdict["reason"]
    refused = server.submit(heavy, batchsched={"deadline": "20s", "require_feasible": True})["id"]
    (error,) = server.until(refused, "failed")["errors"]["data"]
    assert (error["code"], error["param"]) == ("deadline_infeasible", "batchsched.deadline")


def test_explanations_plans_and_pictures_are_there_all_along(dirty_then_clean: LiveServer, clock: ManualClock) -> None:
    server, worker = dirty_then_clean, dirty_then_clean.worker()
    batch_id = _submit(server, batchsched={"deadline": "12h"})["id"]
    sentences = server.get(f"{PREFIX}/batches/{batch_id}/explain")["sentences"]
    assert any("it waits for cleaner power" in sentence for sentence in sentences)
    assert any("at the latest" in sentence for sentence in sentences)
    plan = server.get(f"{PREFIX}/plan")
    assert {a["batch_id"] for a in plan["allotments"]} == {batch_id}
    for kind, magic in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        answer = server.http.get(f"{PREFIX}/batches/{batch_id}/plot", params={"format": kind})
        assert answer.content.startswith(magic)
    assert server.http.get(f"{PREFIX}/batches/{batch_id}/plot", params={"format": "gif"}).status_code == 400
    _tick(server, clock, NOW + timedelta(hours=2, seconds=1), worker)
    worker.finish(worker.lease())
    server.until(batch_id, "completed")
    report = server.get(f"{PREFIX}/batches/{batch_id}/report")
    assert report["energy_j"] == 100.0
    assert {factor["factor"] for factor in report["provenance"]} >= {"PUE of site home"}
    assert any("It ran on pool local" in s for s in server.get(f"{PREFIX}/batches/{batch_id}/explain")["sentences"])
    assert server.get(f"{PREFIX}/report")["energy_j"] == 100.0


def test_every_plan_is_archived_with_its_forecasts(dirty_then_clean: LiveServer) -> None:
    from batchsched.forecasts import IntensityForecast
    from batchsched.queue import plans

    _submit(dirty_then_clean, batchsched={"deadline": "12h"})
    with dirty_then_clean.runtime.database.read() as connection:
        body = wait_for(lambda: plans.latest(connection))["body"]
    forecast = IntensityForecast.from_rows(body["forecasts"]["Z"])
    assert forecast.mean_over(NOW + timedelta(hours=2), NOW + timedelta(hours=3)) == 100
    assert body["plan"]["allotments"]


def test_work_moves_to_the_cleaner_site_and_the_report_says_that_the_place_is_simulated(
    tmp_path: Path, clock: ManualClock
) -> None:
    _forecast(tmp_path, [500] * 24)
    _forecast(tmp_path, [50] * 24, "N")
    north = '[sites.north]\nzone = "N"\nsimulated = true\n[pools.north]\nsite = "north"\ngpu = "cpu"\n'
    with live_server(tmp_path, CONFIG.format(window="", solver="cp-sat") + north, clock=clock) as server:
        home, away = server.worker("local"), server.worker("north")
        batch = _submit(server)
        assert home.claim() == []
        away.finish(away.lease())
        server.until(batch["id"], "completed")
        report = server.get(f"{PREFIX}/batches/{batch['id']}/report")
        assert {row["zone"] for row in report["rows"]} == {"N"}
        assert report["baseline"]["terms"]["zone"] == "Z"
        assert report["simulated"]
        assert any("simulated" in note for note in report["notes"])
        assert server.batch(batch["id"])["batchsched"]["carbon"]["simulated"]


@pytest.mark.parametrize(
    ("policy", "lifetime", "grams"),
    [("sunk", 10, 0.0), ("whole_life", 10, 136000 / (10 * 8760 * 3600)), ("whole_life", 5, 0.0)],
    ids=["sunk", "weighed", "written off"],
)
def test_manufacturing_weighs_in_plans_where_the_policy_says_so(
    tmp_path: Path, clock: ManualClock, policy: str, lifetime: int, grams: float
) -> None:
    """A pool of six years of age, which is a machine without GPUs: the host's share of 136 kg."""
    carbon = f'bought_at = 2020-05-01\n[carbon]\nembodied_policy = "{policy}"\nlifetime_years = {lifetime}'
    with _server(tmp_path, clock, [100.0] * 4, carbon, "greedy") as server:
        (pool,) = server.runtime.scheduler.observer.look(NOW).problem.pools
    assert pool.embodied_g_per_s == pytest.approx(grams)


def test_the_next_plan_begins_where_the_last_one_stands(dirty_then_clean: LiveServer, clock: ManualClock) -> None:
    batch_id = _submit(dirty_then_clean, completion_window="24h")["id"]
    first = dirty_then_clean.runtime.scheduler.published
    assert first is not None
    clock.advance(60)
    second = dirty_then_clean.runtime.scheduler.plan_now()
    assert {stood.batch_id for stood in second.problem.standing} == {batch_id}
    at = [a.start_s - 60 for a in first.plan.allotments]
    assert [stood.start_s for stood in second.problem.standing] == pytest.approx(at)


def test_a_new_batch_has_a_plan_before_the_solver_answers(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is what stood with the new one in it; the next search begins from the solver's, and nothing is counted twice."""
    seen: list[Published | None] = []
    answer = batchsched.solving.answer_to
    with _server(tmp_path, clock, [300] * 30) as server:
        worker, scheduler = server.worker(), server.runtime.scheduler
        first = _submit(server)["id"]
        (lease,) = worker.claim()
        worker.record(lease, list(range(1, 21)))

        def noting(asked: Ask) -> Answer:
            seen.append(scheduler.published)
            return answer(asked)

        monkeypatch.setattr(batchsched.solving, "SOON_S", -1.0)
        monkeypatch.setattr(batchsched.solving, "answer_to", noting)
        second = _submit(server)["id"]
        (stopgap, *_) = [one for one in seen if one and second in one.jobs]
        assert stopgap.recipe is not None
        assert stopgap.recipe.solver == "stopgap"
        assert stopgap.plan.of(second)
        assert scheduler.again(stopgap.problem, stopgap.recipe).plan.allotments == stopgap.plan.allotments
        published = scheduler.published
        assert published is not None
        assert published.recipe is not None
        assert published.recipe.solver == "cp-sat"
        assert published.id > stopgap.id
        with server.runtime.database.read() as connection:
            assert tallies.of_all(connection) == {(first, "local"): 30.0}
        count = len(seen)
        clock.advance(1)
        scheduler.plan_now()
        assert {one.recipe.solver for one in seen[count:] if one and one.recipe} == {"cp-sat"}, "nothing new, no stopgap"


def test_the_leader_sees_whether_it_is_asked_by_one_counter_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks twice a second, and of what engines were asked there may be thousands."""
    looked, read_all, count_of = threading.Event(), threading.Event(), ledger.count_of

    def looking(connection: Connection, counter: Metric) -> int:
        looked.set()
        return count_of(connection, counter)

    def reading_all(_: Connection) -> dict[str, int]:
        read_all.set()
        return {}

    monkeypatch.setattr(ledger, "count_of", looking)
    monkeypatch.setattr(ledger, "counted", reading_all)
    with live_server(tmp_path):
        assert looked.wait(PATIENCE_S)
    assert not read_all.is_set()


def test_who_leads_anew_begins_from_the_plan_that_is_in_force(tmp_path: Path, clock: ManualClock) -> None:
    with in_process() as make, closing(make(tmp_path, clock)) as server:
        submitted(server)
        server.plan()
        before = server.runtime.scheduler.published
        assert before is not None
        server.restart()
        after = server.runtime.scheduler.plan_now()
        assert len(after.problem.standing) == len(before.plan.allotments) > 0


def test_all_of_the_solvers_work_is_done_once_a_period_and_where_much_changed(tmp_path: Path, clock: ManualClock) -> None:
    with in_process() as make, closing(make(tmp_path, clock, planner__solver="cp-sat", planner__memory_mb=0)) as server:
        work_s = []
        for step in (lambda: submitted(server), lambda: clock.advance(1), lambda: clock.advance(300), lambda: submitted(server)):
            step()
            recipe = server.runtime.scheduler.plan_now().recipe
            assert recipe is not None
            work_s.append(recipe.work_s)
        assert work_s == pytest.approx([2.0, 0.1, 2.0, 2.0])
