"""What plans weigh beside carbon: money and energy where that is asked, files that have to be moved; where a batch may go."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from batchsched.clock import ManualClock
from batchsched.planner import Problem, make_plan
from batchsched.transfers import Transfers
from batchsched.wire import PREFIX
from tests.live import LiveServer, live_server, requests
from tests.planner_cases import job, pool, slots
from tests.test_models_accepted import NOW, write_forecast

SOLVERS: tuple[Literal["greedy", "cp-sat"], ...] = ("greedy", "cp-sat")


def choice(solver: Literal["greedy", "cp-sat"], job_more: dict[str, object] | None = None, **dirty_or_dear: Any) -> set[str]:
    """Where a job of 0.25 kWh goes that has a pool at 100 g/kWh, and one at 120 without what is said."""
    pools = [pool("clean", [100.0] * 4, **dirty_or_dear), pool("other", [120.0] * 4)]
    problem = Problem(slots(4), pools, [job("j", {"clean": 900.0, "other": 900.0}, 3600.0, **(job_more or {}))])
    plan = make_plan(problem, solver)
    used = {a.pool for a in plan.allotments}
    grams = plan.grams_expected["j"]
    assert grams == pytest.approx(25.0 if used == {"clean"} else 30.0, rel=1e-5), "what is told is carbon"
    return used


@pytest.mark.parametrize("solver", SOLVERS)
def test_money_and_energy_count_as_far_as_they_are_weighed(solver: Literal["greedy", "cp-sat"]) -> None:
    assert choice(solver) == {"clean"}
    assert choice(solver, price_g_per_s=4.0 / 900) == {"clean"}
    assert choice(solver, price_g_per_s=6.0 / 900) == {"other"}
    assert choice(solver, energy_g_per_kwh=19.0) == {"clean"}
    assert choice(solver, energy_g_per_kwh=21.0) == {"other"}


@pytest.mark.parametrize("solver", SOLVERS)
def test_files_are_moved_only_where_that_pays(solver: Literal["greedy", "cp-sat"]) -> None:
    assert choice(solver, {"transfer_g_on": {"clean": 4.0}}) == {"clean"}
    assert choice(solver, {"transfer_g_on": {"clean": 6.0}}) == {"other"}
    starts = {"startup_s_on": {"clean": 0.001, "other": 0.001}}
    assert choice(solver, {**starts, "load_g_on": {"clean": 4.0}}) == {"clean"}
    assert choice(solver, {**starts, "load_g_on": {"clean": 6.0}}) == {"other"}
    assert choice(solver, {**starts, "load_g_on": {"clean": 6.0}}, loaded=["m"]) == {"clean"}


CONFIG = """
[sites.home]
zone = "H"
[sites.away]
zone = "A"
network_gb_per_s = 0.001
network_price_per_gb = 2.0
electricity_price_per_kwh = 0.5
[pools.here]
site = "home"
models = ["m"]
[pools.there]
site = "away"
models = ["m"]
price_per_h = 3.6
[models.m]
parameters_b = 8
[carbon]
network_kwh_per_gb = 0.1
[planner]
solver = "greedy"
grams_per_currency = 10
grams_per_kwh = 7
[forecast]
source = "file"
path = "forecast.csv"
"""


def test_settings_and_files_become_what_the_planner_weighs(tmp_path: Path) -> None:
    write_forecast(tmp_path, {"H": 300, "A": 100})
    with live_server(tmp_path, CONFIG, clock=ManualClock(NOW)) as server:
        batch_id = server.submit(requests(50, model="m"), batchsched={"deadline": "12h"})["id"]
        server.until(batch_id, "in_progress")
        problem = server.runtime.scheduler.observer.look(NOW).problem
        pools, one = {pool.name: pool for pool in problem.pools}, problem.jobs[0]
        assert pools["there"].energy_g_per_kwh == pytest.approx(0.5 * 10 + 7)
        assert pools["there"].price_g_per_s == pytest.approx(3.6 / 3600 * 10)
        grams_per_gb = 0.1 * (200 + 7) + 2.0 * 10
        assert one.load_g_on == {"there": pytest.approx(16 * grams_per_gb)}, "16 GB of weights"
        assert one.startup_s_on["there"] == pytest.approx(one.startup_s_on["here"] + 16 / 0.001)
        gigabytes = one.transfer_g_on["there"] / grams_per_gb
        assert one.seconds_on["there"] == pytest.approx(one.seconds_on["here"] + gigabytes / 0.001)
        assert gigabytes * 1e9 > len(requests(50, model="m"))
        assert "here" not in one.transfer_g_on
        observer = server.runtime.scheduler.observer
        known = observer.current_profiles()
        worked = known | {("m", "there"): msgspec.structs.replace(known["m", "there"], observations=1)}
        for profiles, seconds in ((known, 16 / 0.001), (worked, 0.0)):
            transfers = Transfers(server.runtime.settings, observer.fleet, problem.pools, [], {}, profiles)
            assert transfers.weights("m", "there").seconds == pytest.approx(seconds), "where it has worked they are"
        server.worker("there", ready="m").ask()
        problem = server.runtime.scheduler.observer.look(NOW).problem
        assert problem.jobs[0].load_g_on == {}, "the weights are there by now"


def test_allowed_zones_are_a_hard_rule(tmp_path: Path) -> None:
    write_forecast(tmp_path, {"H": 300, "A": 10})
    with live_server(tmp_path, CONFIG, clock=ManualClock(NOW)) as server:
        found = server.submit(requests(5, model="m"), batchsched={"deadline": "12h", "zones": ["H"]})
        assert found["batchsched"]["zones"] == ["H"]
        server.until(found["id"], "in_progress")
        (one,) = server.runtime.scheduler.plan_now().problem.jobs
        assert one.pools == ["here"]
        refused = server.http.post(
            "/v1/batches",
            json={
                "input_file_id": found["input_file_id"],
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
                "batchsched": {"zones": ["MARS"]},
            },
        )
        assert refused.status_code == 400
        assert "No site lies in the zone 'MARS'; known: A, H." in refused.text


def test_an_unasked_weight_changes_nothing() -> None:
    problem = Problem(slots(4), [pool("a", [100.0, 50.0, 70.0, 90.0])], [job("j", 1800.0, 3600.0)])
    priced = msgspec.structs.replace(problem, pools=[msgspec.structs.replace(problem.pools[0], price_g_per_s=1.0)])
    assert make_plan(problem, "greedy").allotments == make_plan(priced, "greedy").allotments


def planned_here_alone(server: LiveServer, why: str) -> str:
    """A new batch that the other pool gets nothing of, and its notes say why."""
    batch_id: str = server.submit(requests(5, model="m"), batchsched={"deadline": "12h"})["id"]
    server.until(batch_id, "in_progress")
    published = server.runtime.scheduler.plan_now()
    assert published.problem.jobs[0].pools == ["here"]
    assert any(f"Pool there gets nothing of m: {why}" in note for note in published.notes)
    return batch_id


def test_a_model_that_a_pools_gpus_cannot_hold_is_never_planned_there_and_that_is_told(tmp_path: Path) -> None:
    write_forecast(tmp_path, {"H": 300, "A": 10})
    config = CONFIG.replace('site = "away"', 'site = "away"\ngpu = "T4"').replace("parameters_b = 8", "parameters_b = 13")
    with live_server(tmp_path, config, clock=ManualClock(NOW)) as server:
        planned_here_alone(server, "its weights take 26 GB")
        server.worker("there", ready="m").ask()
        assert "there" in server.runtime.scheduler.plan_now().problem.jobs[0].pools, "what is loaded fits"


def test_a_model_that_a_pools_generation_cannot_compute_is_never_planned_there(tmp_path: Path) -> None:
    write_forecast(tmp_path, {"H": 300, "A": 10})
    config = CONFIG.replace('site = "away"', 'site = "away"\ngpu = "T4"\nengine_args = ["--dtype", "bfloat16"]')
    with live_server(tmp_path, config, clock=ManualClock(NOW)) as server:
        anywhere = planned_here_alone(server, "bfloat16 needs")
        told = server.get(f"{PREFIX}/batches/{anywhere}/explain")["sentences"]
        assert any("Pool there gets nothing of m: bfloat16 needs" in said for said in told)
        nowhere = server.submit(requests(5, model="m"), batchsched={"deadline": "12h", "sites": ["away"]})["id"]
        verdict = server.until(nowhere, "in_progress")["batchsched"]["verdict"]
        assert not verdict["feasible"]
        assert "Pool there gets nothing of m: bfloat16 needs" in verdict["reason"]
