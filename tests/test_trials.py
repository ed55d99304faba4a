"""Trials of profile runs at the server: entered once, and what plans go by from then on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchsched.clock import SystemClock
from batchsched.wire import PREFIX, Probe, Trial, Trials
from tests.live import LiveServer, live_server

FULL = Probe("sharegpt p50", 160, 140)
_numbers = itertools.count()


@pytest.fixture
def server(tmp_path: Path, database_url: str) -> Iterator[LiveServer]:
    with live_server(tmp_path, server__database_url=database_url) as running:
        yield running


def trial(**values: Any) -> Trial:
    """A minute at full load: 16,000 tokens read and 14,000 written, at 50 W."""
    at = SystemClock().now() - timedelta(minutes=5)
    known: dict[str, Any] = {"id": f"trial_{next(_numbers)}", "pool": "local", "model": "tiny", "setting": "s", "probe": FULL}
    known |= {"started_at": at, "seconds": 60.0, "requests": 100, "unanswered": 0, "input_tokens": 16_000}
    known |= {"output_tokens": 14_000, "energy_j": 2500.0, "host_j": 500.0, "energy_source": "rapl", "host_source": "modelled"}
    return Trial(**{**known, **values})


def send(server: LiveServer, *trials: Trial, status: int = 200) -> Any:
    return server.post(f"{PREFIX}/trials", msgspec.to_builtins(Trials(list(trials))), status)


def test_what_a_profile_run_measured_is_what_plans_go_by(server: LiveServer) -> None:
    observer = server.runtime.scheduler.observer
    before = observer.current_profiles()["tiny", "local"]
    assert before.source == "prior"
    assert send(server, *(trial() for _ in range(8))) == {"recorded": 8, "duplicates": 0}
    after = observer.current_profiles()["tiny", "local"]
    assert (after.source, after.observations) == ("measured", 8)
    assert after.seconds(16_000, 14_000) == pytest.approx(60, rel=0.15)
    assert after.power_for(16_000, 14_000) == pytest.approx(50, rel=0.15)
    assert after.sigma < before.sigma


def test_arrivals_at_a_rate_teach_nothing_of_full_load(server: LiveServer) -> None:
    send(server, trial(probe=Probe("sharegpt p50", 160, 140, 2.0), latencies=[(0.1, 0.02)]))
    assert server.runtime.scheduler.observer.current_profiles()["tiny", "local"].source == "prior"
    assert server.get(f"{PREFIX}/trials")["trials"][0]["latencies"] == [[0.1, 0.02]]


def test_modelled_energy_teaches_speed_and_no_power(server: LiveServer) -> None:
    before = server.runtime.scheduler.observer.current_profiles()["tiny", "local"]
    send(server, *(trial(energy_source="modelled", energy_j=1e6) for _ in range(8)))
    after = server.runtime.scheduler.observer.current_profiles()["tiny", "local"]
    assert after.source == "measured"
    assert after.power_for(1, 1) == pytest.approx(before.power_for(1, 1), rel=0.05)


def test_a_trial_that_comes_twice_counts_once(server: LiveServer) -> None:
    first, second = trial(), trial()
    send(server, first)
    assert send(server, first, second, second) == {"recorded": 1, "duplicates": 2}
    assert {one["id"] for one in server.get(f"{PREFIX}/trials")["trials"]} == {first.id, second.id}


def test_trials_are_listed_by_pool_and_model_newest_first(server: LiveServer) -> None:
    old, new = trial(started_at=SystemClock().now() - timedelta(days=2)), trial()
    send(server, new, old)
    assert [one["id"] for one in server.get(f"{PREFIX}/trials", pool="local", model="tiny")["trials"]] == [new.id, old.id]
    assert server.get(f"{PREFIX}/trials", model="other")["trials"] == []
    assert msgspec.convert(server.get(f"{PREFIX}/trials")["trials"][0], Trial) == new


@pytest.mark.parametrize(("wrong", "status"), [({"pool": "elsewhere"}, 404), ({"seconds": 0.0}, 400), ({"energy_j": -1.0}, 400)])
def test_what_cannot_be_is_refused_whole(server: LiveServer, wrong: dict[str, Any], status: int) -> None:
    send(server, trial(), trial(**wrong), status=status)
    assert server.get(f"{PREFIX}/trials")["trials"] == []
