"""The choice of a model for each pool, on a real server: by the deadline, the grid, manufacturing, starts and its own answers."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from batchsched.clock import ManualClock
from batchsched.planner import Job
from tests.live import LiveServer, live_server, requests
from tests.test_models_accepted import NOW, write_forecast

CONFIG = """
[sites.home]
zone = "Z"
[pools.new]
gpu = "H100"
count = 2
models = ["fast", "slow"]
[models.fast]
parameters_b = 8
engine_args = ["--tensor-parallel-size", "2"]
[models.slow]
parameters_b = 8
[forecast]
source = "file"
path = "forecast.csv"
[planner]
solver = "greedy"
[server]
lease_s = 100000
"""
"""The same weights on two GPUs or on one: sooner, or for fewer joules."""


def live(folder: Path, grid: int = 20, **flags: Any) -> Any:
    write_forecast(folder, {"Z": grid})
    return live_server(folder, CONFIG, clock=ManualClock(NOW), **flags)


def submit(server: LiveServer, deadline: str = "12h", lines: int = 1000, model: str = "fast", **ours: Any) -> str:
    data = requests(lines, model=model, max_tokens=4000)
    batch_id: str = server.submit(
        data, batchsched={"deadline": deadline, **({"models": ["slow"]} if model == "fast" else {}), **ours}
    )["id"]
    server.until(batch_id, "in_progress")
    return batch_id


def job(server: LiveServer, batch_id: str) -> Job:
    """As it is planned now."""
    (found,) = [
        one for one in server.runtime.scheduler.observer.look(server.runtime.clock.now()).problem.jobs if one.batch_id == batch_id
    ]
    return found


def chosen(server: LiveServer, batch_id: str) -> str:
    """The model that most of it is planned with."""
    published = server.runtime.scheduler.plan_now()
    done: dict[str, float] = defaultdict(float)
    for a in published.plan.of(batch_id):
        done[published.jobs[batch_id].configuration(a.key).model] += a.requests
    return max(done, key=lambda model: done[model])


def engines(server: LiveServer, *ready: str) -> None:
    """A replica with each of these models loaded."""
    for model in ready:
        server.worker("new", ready=model, renames=True).ask()


def drain(server: LiveServer, batch_id: str, model: str) -> None:
    """By one replica with this model."""
    worker = server.worker("new", ready=model, renames=True)
    assert worker.drain(batch_id)["request_counts"]["failed"] == 0
    server.runtime.clock.advance(120)  # type: ignore[attr-defined]  # the look at answers is kept for a minute


def test_the_deadline_decides_between_the_clean_model_and_the_fast_one(tmp_path: Path) -> None:
    with live(tmp_path) as server:
        engines(server, "fast", "slow")
        assert {deadline: chosen(server, submit(server, deadline)) for deadline in ("5m", "12h")} == {"5m": "fast", "12h": "slow"}


@pytest.mark.slow
def test_the_asked_confidence_decides_as_well(tmp_path: Path) -> None:
    with live(tmp_path) as server:
        engines(server, "fast", "slow")
        assert {sure: chosen(server, submit(server, "5m", confidence=sure)) for sure in (0.5, 0.99)} == {
            0.5: "slow",
            0.99: "fast",
        }


@pytest.mark.parametrize(
    ("policy", "grid", "model"), [("sunk", 20, "slow"), ("whole_life", 20, "fast"), ("whole_life", 500, "slow")]
)
def test_manufacturing_counts_beside_the_grid_where_the_policy_lets_plans_weigh_it(
    tmp_path: Path, policy: str, grid: int, model: str
) -> None:
    with live(tmp_path, grid, carbon__embodied_policy=policy) as server:
        engines(server, "fast", "slow")
        assert chosen(server, submit(server)) == model


@pytest.mark.slow
def test_a_start_is_shared_by_the_batches_that_accept_the_model(tmp_path: Path) -> None:
    with live(tmp_path, planner__solver="cp-sat") as server:
        engines(server, "fast")
        first = submit(server)
        assert chosen(server, first) == "fast"
        for _ in range(4):
            submit(server)
        assert chosen(server, first) == "slow"
    with live(tmp_path / "loaded") as server:
        engines(server, "fast", "slow")
        assert chosen(server, submit(server)) == "slow"


def test_how_long_answers_are_goes_by_the_model_that_serves(tmp_path: Path) -> None:
    with live(tmp_path) as server:
        drain(server, submit(server, lines=100, model="slow"), "slow")
        either, named = submit(server), submit(server, model="slow")
        found = job(server, either)
        assert chosen(server, either) == "slow"
        assert found.seconds_on["slow on new"] == job(server, named).seconds_on["new"]
        named_s = found.seconds_on.get("new") or found.as_named["new"].seconds
        assert named_s > 2 * found.seconds_on["slow on new"]  # nothing was answered by `fast`, so it may be long
