"""How sure the product's own look at the fleet is: failures learnt from silent workers, energy, making, futures of the grid."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest

from batchsched.carbon.hardware import Range
from batchsched.clock import ManualClock
from batchsched.forecasts.futures import COUNT, futures
from batchsched.forecasts.port import ForecastSlot, IntensityForecast, Signal
from batchsched.planner.problem import Supply
from batchsched.planning import Planner
from batchsched.queue import plans
from batchsched.uncertain import MODELLED_SIGMA, making_sigma, supply
from batchsched.wire import PREFIX

from .live import live_server, requests
from .test_scheduler import CONFIG, NOW, _forecast  # pyright: ignore[reportPrivateUsage]

HOUR = timedelta(hours=1)
AT = datetime(2026, 5, 1, 12, tzinfo=UTC)


def test_failures_are_learnt_from_workers_that_fell_silent() -> None:
    limits = Planner(failures_per_replica_h=0.001, repair_s=600)
    assert supply(limits, (0, 0.0)) == Supply(failures_per_replica_h=0.001, repair_s=600)
    assert supply(limits, (0, 9000.0)).failures_per_replica_h == pytest.approx(0.0001)
    assert supply(limits, (19, 1000.0)).failures_per_replica_h == pytest.approx(0.01)
    assert supply(Planner(failures_per_replica_h=0), (5, 10.0)) == Supply()


def test_figures_for_the_making_of_hardware_span_nine_cases_in_ten() -> None:
    assert making_sigma(Range(50, 100, 200)) == pytest.approx(math.log(4) / 3.29)
    assert making_sigma(Range(100, 100, 100)) == 0
    assert making_sigma(None) == 0


def test_futures_lie_on_the_slots_of_a_plan_and_keep_the_forecast_in_their_middle() -> None:
    band = tuple(100 * f for f in (0.5, 0.8, 1.0, 1.2, 1.5))
    hours = [ForecastSlot(AT + n * HOUR, AT + (n + 1) * HOUR, 100.0, band if n < 4 else None) for n in range(6)]
    sure = IntensityForecast("B", AT, "p", Signal(), tuple(msgspec.structs.replace(slot, quantiles=None) for slot in hours))
    forecast = IntensityForecast("A", AT, "p", Signal(), tuple(hours))
    spans = [(AT + n * HOUR / 2, AT + (n + 1) * HOUR / 2) for n in range(12)]
    drawn = futures({"A": forecast, "B": sure}, lambda _: None, spans)
    assert set(drawn) == {"A"}
    rows = np.array(drawn["A"])
    assert rows.shape == (COUNT, 12)
    assert np.median(rows, axis=0) == pytest.approx([100] * 12, rel=0.05)
    assert (rows < 80).mean() == pytest.approx(0.25, abs=0.05)
    assert rows[:, -1] == pytest.approx(rows[:, 7], rel=0.01)  # past the last quantiles the error stays
    assert futures({"A": forecast, "B": sure}, lambda _: None, spans) == drawn


@pytest.mark.parametrize("risk", [0.0, 0.5])
def test_a_server_plans_with_what_is_uncertain_and_says_how_much(tmp_path: Path, risk: float) -> None:
    _forecast(tmp_path, [500, 500, 100, 100, *[500] * 20])
    settings = CONFIG.format(window="", solver="greedy").replace("[planner]", f"[planner]\nrisk = {risk}")
    with live_server(tmp_path, settings, clock=ManualClock(NOW)) as server:
        batch_id = server.submit(requests(50), batchsched={"deadline": "12h"})["id"]
        server.until(batch_id, "in_progress")
        published = server.runtime.scheduler.plan_now()
        found, (pool,) = published.plan.grams_interval, server.runtime.scheduler.observer.look(NOW).problem.pools
        assert found is not None
        assert found.p10 < found.expected < found.p90
        told = server.get(f"{PREFIX}/plan")["grams_interval"]
        assert told == {"expected": found.expected, "p10": found.p10, "p90": found.p90}
        assert pool.supply.failures_per_replica_h > 0
        assert 0 < pool.energy_sigma <= MODELLED_SIGMA
        with server.runtime.database.read() as connection:
            row = plans.latest(connection)
        assert row is not None
        assert bool(row["body"]["problem"]["scenarios"]) == (risk > 0)  # what no plan was made by is not kept
