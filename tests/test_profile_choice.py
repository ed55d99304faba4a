"""From trials at rates to the pool that keeps the latencies at least carbon, on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from batchsched.cli.main import cli
from batchsched.errors import NotFound
from batchsched.profiles.schedule import of_trials
from batchsched.profiles.slo import Load
from batchsched.wire import Probe, Trial
from tests.live import LiveServer, live_server
from tests.test_profile_commands import CONFIG
from tests.test_trials import send, trial


def at(qps: float, pool: str, energy_j: float, kept: int, **values: object) -> Trial:
    """Ten answers, `kept` of them within 200 ms and 80 ms a token."""
    latencies = [(0.1, 0.05)] * kept + [(3.0, 0.05)] * (10 - kept)
    probe = Probe("sharegpt p50", 160, 140, qps)
    known = {"input_tokens": 1600, "output_tokens": 1400, "requests": 10, "host_j": 0.0, "latencies": latencies}
    return trial(**{**known, "probe": probe, "pool": pool, "energy_j": energy_j, **values})


TRIALS = [at(1, "local", 100, 10), at(1, "large", 3000, 10), at(4, "local", 100, 3), at(4, "large", 2000, 10)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    with live_server(tmp_path, CONFIG) as running:
        yield running


def compare(server: LiveServer, *args: str) -> Result:
    return CliRunner().invoke(cli, ["profile", "compare", *args, "--at-rates", "--server", server.url])


def test_the_frugal_pool_wins_until_it_misses_the_latencies(server: LiveServer) -> None:
    assert compare(server, "tiny").exit_code != 0
    send(server, *TRIALS)
    done = compare(server, "tiny", "--json")
    assert done.exit_code == 0, done.output
    slow, fast = json.loads(done.stdout)["loads"]
    assert (slow["load"], slow["configuration"]) == ("sharegpt p50 at 1/s", "tiny on local")
    assert (fast["configuration"], fast["feasible"], fast["estimated"]) == ("tiny on large", ["tiny on large"], False)
    assert slow["grams_per_1k"] > 0
    table = compare(server, "tiny").stdout
    assert "1 of 2 configurations attains 90%; tiny on large emits least (100% attained)" in table
    assert compare(server, "other").exit_code != 0


def test_without_measurements_it_says_what_to_run(server: LiveServer) -> None:
    done = compare(server, "tiny")
    assert isinstance(done.exception, NotFound)
    assert "Nothing was measured of tiny at a rate" in done.exception.message
    assert "without --full-load" in str(done.exception.hint)


def test_sizes_do_not_go_with_rates(server: LiveServer) -> None:
    done = compare(server, "tiny", "--input-tokens", "10")
    assert done.exit_code == 2
    assert "leave out their tokens" in done.output


def test_a_second_model_needs_rates() -> None:
    done = CliRunner().invoke(cli, ["profile", "compare", "tiny", "--also", "small"])
    assert done.exit_code == 2
    assert "--at-rates" in done.output


def test_trials_of_an_older_setting_do_not_count() -> None:
    old = at(1, "local", 900, 0, setting="before", started_at=TRIALS[0].started_at.replace(year=2020))
    known = of_trials([*TRIALS, old])
    load = Load("sharegpt", "p50", 1)
    assert known.attainment[load]["tiny on local"] == 1.0
    assert known.energy_j[load]["tiny on local"] == pytest.approx(100 / 3000)


def test_only_rates_of_known_workloads_count() -> None:
    known = of_trials([trial(), at(1, "local", 1, 10, probe=Probe("decode only", 8, 512, 1.0))])
    assert known == ({}, {}, {})


def test_unmeasured_energy_is_a_gap() -> None:
    known = of_trials([at(1, "local", 0, 10, energy_source="unmeasured")])
    assert known.energy_j == {}
    assert known.attainment[Load("sharegpt", "p50", 1)] == {"tiny on local": 1.0}
