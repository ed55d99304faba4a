"""What running at once would have taken: as metered on a pool like the baseline's, else by its profile, hosts included."""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from sqlalchemy import insert

from batchsched.carbon.report import Entry
from batchsched.cli.main import cli
from batchsched.client import Client
from batchsched.fleet import Fleet, Pool, Site
from batchsched.profiles.measured import Observation, update
from batchsched.profiles.prior import prior
from batchsched.profiles.profile import Profile
from batchsched.queue import tables
from batchsched.queue.tenancy import ANY
from batchsched.server.at_once import AtOnce, Charged, at_once
from tests.live import LiveServer, live_server
from tests.test_carbon_ledger import entry
from tests.test_newest import span

AT = datetime(2026, 5, 1, tzinfo=UTC)
CONFIG = """
[sites.home]
zone = "DE"
[sites.away]
zone = "SE"
[pools.new]
gpu = "T4"
[pools.twin]
gpu = "T4"
site = "away"
count = 3
[pools.old]
gpu = "P4"
site = "away"
[models.big]
parameters_b = 8
[models.small]
parameters_b = 1
[planner]
solver = "greedy"
"""
THERE = Profile("big", "new", 1000.0, 100.0, 200.0, 20.0, 0.3, startup_s=40.0)


@pytest.fixture
def server(tmp_path: Path) -> Generator[LiveServer]:
    with live_server(tmp_path, CONFIG) as live:
        yield live


def report(server: LiveServer, *spans: dict[str, Any], **batch: Any) -> dict[str, Any]:
    """Of a batch with these spans, an hour after it was submitted."""
    row: dict[str, Any] = {
        "id": "b", "tenant": "default", "endpoint": "/v1/chat/completions", "input_file_id": "f", "completion_window": "1h",
        "model": "big", "state": "completed", "deadline_at": AT, "created_at": AT, "meta": {}, "options": {}, "total": 10,
    }  # fmt: skip
    work = {"started_at": AT + timedelta(hours=1), "ended_at": AT + timedelta(hours=1, minutes=1), "model": "big"}
    with server.runtime.database.write() as connection:
        connection.execute(insert(tables.batches), [{**row, **batch}])
        connection.execute(insert(tables.ledger), [span(n, **{**work, **each}) for n, each in enumerate(spans)])
    return server.runtime.reports.report("b", ANY)


def test_a_twin_of_the_baselines_pool_saves_by_time_and_place_alone(server: LiveServer) -> None:
    metered = {"energy_j": 1234.0, "energy_source": "nvml_counter", "host_j": 56.0, "host_source": "rapl"}
    found = report(server, {"pool": "twin", **metered}, {"pool": "twin", "startup_s": 60.0, **metered})
    terms = found["baseline"]["terms"]
    assert (terms["pool"], terms["energy_j"], terms["busy_s"]) == ("new", pytest.approx(2 * 1290.0), pytest.approx(120.0))
    assert terms["energy_source"] == "nvml_counter"
    assert found["saving"]["gpu_g"] == pytest.approx(0.0, abs=1e-12)
    assert found["saving"]["place_g"] > 0.8 * found["baseline_g"] > 0


def test_another_model_on_the_baselines_own_pool_is_another_run(server: LiveServer) -> None:
    found = report(server, {"pool": "new", "model": "small"})
    big = server.runtime.scheduler.observer.current_profiles()["big", "new"]
    assert found["baseline"]["terms"]["pool"] == "new"
    assert found["baseline"]["terms"]["energy_j"] == pytest.approx(big.energy_j(1000, 1000))
    assert abs(found["saving"]["gpu_g"]) > 0.01 * found["baseline_g"]


def test_the_baseline_pays_for_its_host(server: LiveServer) -> None:
    found = report(server, {"pool": "old", "host_j": 600.0, "host_source": "rapl"})
    there = server.runtime.scheduler.observer.current_profiles()["big", "new"]
    host_j = 10.0 * there.seconds(1000, 1000)  # ten watts
    assert found["baseline"]["terms"]["energy_j"] == pytest.approx(there.energy_j(1000, 1000) + host_j)


def test_reports_say_which_model_served_and_which_the_baseline_takes(server: LiveServer) -> None:
    found = report(server, {"pool": "old", "model": "small"}, {"pool": "old"}, options={"models": ["small"]})
    assert [(row["pool"], row["model"], row["requests"]) for row in found["rows"]] == [("old", "big", 10), ("old", "small", 10)]
    assert found["baseline"]["terms"]["model"] == "big"
    assert "big on T4 in pool new" in found["baseline"]["description"]
    assert found["models_accepted"] == ["big", "small"]
    named = {(factor["factor"], factor["value"]) for factor in found["provenance"]}
    served = {("model that served", "big"), ("model that served", "small"), ("model of the baseline", "big")}
    assert served <= named
    told = server.runtime.reports.explanation("b", ANY)
    assert any("pool old with small in SE" in sentence for sentence in told)
    with Client(server.url) as client:
        assert [part.models for part in client.slices("batch")] == [("big", "small")]
        assert [part.models for part in client.slices("chunk")] == [("small",), ("big",)]
        whole = client.report()
        assert (whole.models_accepted, {row.model for row in whole.rows}) == (("big", "small"), {"big", "small"})
        assert served <= {(factor.factor, factor.value) for factor in whole.provenance}
    for words, asked in (
        ("GPU and model", ["report", "b"]),
        ("GPU and model", ["report"]),
        ("big, small", ["report", "--by", "pool"]),
    ):
        shown = CliRunner().invoke(cli, [*asked, "--server", server.url], catch_exceptions=False)
        assert words in shown.output, shown.output


def test_a_batch_of_one_model_saves_by_gpu(server: LiveServer) -> None:
    assert report(server, {"pool": "old"})["models_accepted"] == []
    shown = CliRunner().invoke(cli, ["report", "b", "--server", server.url], catch_exceptions=False)
    assert "GPU" in shown.output
    assert "GPU and model" not in shown.output


def same(entry: Entry) -> bool:
    return entry.pool == "twin"


def both(**changes: Any) -> list[Charged]:
    """Half an hour's work, and its host at a hundred watts."""
    flags = {name: changes.pop(name) for name in ("start", "spared") if name in changes}
    work = entry(**changes)
    host = msgspec.structs.replace(work, busy_s=0.0, energy_j=180_000.0, input_tokens=0, output_tokens=0, requests=0)
    return [Charged(work, **flags), Charged(host, host=True, **flags)]


def joules(charged: list[Charged], there: Profile = THERE) -> list[float]:
    return [each.energy_j for each in at_once(charged, same, lambda: there)]


def test_hosts_draw_their_watts_over_the_time_it_takes_there() -> None:
    assert THERE.seconds(1000, 200) == 3.0
    assert joules(both()) == pytest.approx([600.0, 300.0])
    assert joules(both(), msgspec.structs.replace(THERE, with_host=1.0)) == pytest.approx([600.0, 0.0])
    assert joules(both(), msgspec.structs.replace(THERE, with_host=0.75)) == pytest.approx([600.0, 75.0])
    assert joules(both(start=True)) == pytest.approx([800.0, 4000.0])
    assert joules(both(start=True), msgspec.structs.replace(THERE, idle_with_host=True)) == pytest.approx([800.0, 0.0])
    assert joules(both(spared=True)) == [0.0, 0.0]


def test_what_ran_the_same_way_is_as_metered_and_moves_no_hosts_watts_elsewhere() -> None:
    twin, spared = both(pool="twin"), both(spared=True, busy_s=1e6)
    assert joules(twin) == [each.entry.energy_j for each in twin]
    assert joules([*both(), *twin, *spared])[:2] == pytest.approx([600.0, 300.0])
    assert at_once([Charged(entry(pool="twin"))], same, lambda: pytest.fail("nobody needs a profile")) == [
        AtOnce(1800, entry().energy_j, "nvml_counter")
    ]


def test_sums_say_what_their_parts_say() -> None:
    """Also where only some parts had a host's reading."""
    parts = [*both(), Charged(entry(busy_s=7.0, input_tokens=9, output_tokens=4000)), *both(pool="other", busy_s=60.0)]
    work, more = parts[0].entry, parts[2].entry
    summed = msgspec.structs.replace(
        work, busy_s=work.busy_s + more.busy_s, input_tokens=work.input_tokens + more.input_tokens,
        output_tokens=work.output_tokens + more.output_tokens,
    )  # fmt: skip
    assert sum(joules([Charged(summed), parts[1], *parts[3:]])) == pytest.approx(sum(joules(parts)), rel=1e-12)


@pytest.mark.parametrize(
    "change",
    [{"gpu": "L4"}, {"power_w": 50.0}, {"engine_args": ["-tp", "2"]}, {"engine_args": ["--eager"]}, {"max_in_flight": 8}],
)
def test_pools_are_alike_by_all_that_shapes_their_work(change: dict[str, Any]) -> None:
    one = Pool(gpu="T4")
    pools = {"one": one, "two": Pool(gpu="T4", site="away", count=9), "other": msgspec.structs.replace(one, **change)}
    fleet = Fleet({"home": Site(zone="DE")}, pools, {}, "home")
    assert fleet.alike("one", "two")
    assert fleet.alike("gone", "gone")
    assert not fleet.alike("one", "other")
    assert not fleet.alike("gone", "one")


def test_what_watts_hold_a_host() -> None:
    assert prior("m", "p", "T4", 1).with_host == 0.0
    assert prior("m", "p", "T4", 1, power_w=90).with_host == 1.0
    assert (prior("m", "p", "cpu", 1).with_host, prior("m", "p", "cpu", 1).idle_with_host) == (1.0, True)
    seen = [Observation("m", "p", AT, 60.0, 1000, 1000, energy_j=6000.0)]
    known = update(prior("m", "p", "T4", 1), seen)
    assert known.with_host == pytest.approx(0.8)  # as far as its watts are the measured hundred
    before = prior("m", "p", "T4", 1).power_for(1000, 1000)
    assert known.power_for(1000, 1000) == pytest.approx(0.8 * 100 + 0.2 * before, rel=0.2)
    unmetered = [msgspec.structs.replace(seen[0], energy_j=None)]
    assert update(prior("m", "p", "T4", 1), unmetered).with_host == 0.0


def test_measured_idle_watts_hold_the_host(server: LiveServer) -> None:
    observer = server.runtime.scheduler.observer
    found = observer.profiles([], {"new": 33.0})
    assert (found["big", "new"].idle_w, found["big", "new"].idle_with_host) == (33.0, True)
    assert not found["big", "old"].idle_with_host
