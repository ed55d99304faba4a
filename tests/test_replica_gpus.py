"""A replica of several GPUs, whichever flags say so: power, idle power, meter and embodied carbon count every one of them."""

from __future__ import annotations

from collections.abc import Generator
from datetime import timedelta

import pytest
from sqlalchemy import insert

from batchsched.executors.meters import choose_meter
from batchsched.fleet import Pool, ServedModel, replica_gpus
from batchsched.queue import tables
from batchsched.settings import Worker
from tests.live import LiveServer, live_server, requests

CONFIG = """
[sites.home]
zone = "DE"
[pools.one]
gpu = "A100-80"
models = ["small"]
[pools.by_pool]
gpu = "A100-80"
models = ["small"]
engine_args = ["--tensor-parallel-size", "4"]
[pools.by_model]
gpu = "A100-80"
models = ["large", "other"]
[models.small]
parameters_b = 8
[models.large]
parameters_b = 8
engine_args = ["-tp=2", "--pipeline-parallel-size=2"]
[models.other]
parameters_b = 8
[carbon]
embodied_policy = "whole_life"
[planner]
solver = "greedy"
"""
FOUR = ("by_pool", "by_model")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveServer]:
    with live_server(tmp_path_factory.mktemp("gpus"), CONFIG) as found:
        yield found


def test_as_many_as_the_largest_model_takes() -> None:
    pool, large, small = Pool(gpu="A100-80"), ServedModel(engine_args=["-tp", "8"]), ServedModel()
    assert (replica_gpus(pool), replica_gpus(pool, [small]), replica_gpus(pool, [small, large])) == (1, 1, 8)
    parallel = Pool(gpu="A100-80", engine_args=["-tp", "2", "-pp", "2"])
    assert (replica_gpus(parallel), replica_gpus(parallel, [large])) == (4, 16)


def test_power_and_idle_power_are_of_all_of_them(server: LiveServer) -> None:
    known = server.runtime.scheduler.observer.current_profiles()
    one = known["small", "one"]
    for name, model in (("by_pool", "small"), ("by_model", "large")):
        four = known[model, name]
        assert four.idle_w == pytest.approx(4 * one.idle_w)
        assert 2 * one.power_w < four.power_w <= 4 * one.power_w * 1.01
        assert four.energy_j(0, 1) > one.energy_j(0, 1)


def test_a_meter_without_nvml_takes_the_limits_of_all(server: LiveServer) -> None:
    fleet = server.runtime.scheduler.fleet
    for name in FOUR:
        pool = fleet.pools[name]
        models = [model for key, model in fleet.models.items() if pool.serves(key)]
        assert "4 x 400 W" in choose_meter(pool, Worker(), models=models, here=False).why


def test_embodied_carbon_is_of_all_in_plans_and_reports(server: LiveServer) -> None:
    now, runtime = server.runtime.clock.now(), server.runtime
    weighed = {pool.name: pool.embodied_g_per_s or 0.0 for pool in runtime.scheduler.observer.look(now).problem.pools}
    charged: dict[str, float] = {}
    for name, model in (("one", "small"), ("by_pool", "small"), ("by_model", "large")):
        batch_id = server.submit(requests(1, model=model))["id"]
        row = {
            "tenant": "default", "batch_id": batch_id, "chunk_id": name, "pool": name, "model": model, "busy_s": 3600.0,
            "started_at": now - timedelta(hours=1), "ended_at": now, "energy_j": 1e6, "energy_source": "nvml_counter",
            "startup_s": 0.0, "requests": 1, "input_tokens": 1, "cached_tokens": 0, "output_tokens": 1,
        }  # fmt: skip
        with runtime.database.write() as connection:
            connection.execute(insert(tables.ledger), [row])
        charged[name] = server.get(f"/v1/batchsched/batches/{batch_id}/report")["embodied_g"]["mid"]
    for name in FOUR:
        assert weighed[name] == pytest.approx(4 * weighed["one"])
        assert charged[name] == pytest.approx(4 * charged["one"])
