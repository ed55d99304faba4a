"""What a batch caused beside its work: apart from its sums, each part with how it was counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchsched import Client
from batchsched.carbon.beside import added, metered, network
from batchsched.carbon.ledger import account, total
from batchsched.carbon.report import Intensity
from batchsched.units import format_bytes
from tests.live import HandWorker, LiveServer, live_server, requests
from tests.test_carbon_ledger import DIRECT, KWH, entry, truth

TWO_SITES = """
[carbon]
home_site = "home"
[sites.home]
zone = "WORLD"
[sites.far]
zone = "WORLD"
pue = 1.0
market_g_per_kwh = 20
[pools.local]
gpu = "cpu"
[pools.far]
site = "far"
gpu = "cpu"
[models.tiny]
[planner]
solver = "greedy"
"""


def test_transfers_are_counted_at_the_mean_of_both_ends() -> None:
    ends = Intensity(400, "a", DIRECT), Intensity(40, "b", DIRECT)
    moved = network(3_000_000_000, 0.001, ends, "")
    assert moved.energy_j == pytest.approx(0.003 * KWH)
    assert moved.operational_g == pytest.approx(0.003 * 220)
    assert network(1, 0.001, (ends[0], Intensity(None, "", "unknown")), "").operational_g is None


def test_a_share_of_what_is_unknown_is_unknown() -> None:
    assert metered("idle", account([entry()], truth, None), "", 0.25).operational_g == pytest.approx(120)
    assert metered("idle", account([entry(), entry(zone="DARK")], truth, None), "").operational_g is None
    loading = metered("loading", account([entry()], truth, None), "")
    assert loading.embodied_g == account([entry()], truth, None).embodied_g
    nameless = metered("idle", account([entry(gpu="H200")], truth, None), "")
    assert nameless.embodied_g is None
    assert added([loading, loading], "").embodied_g == account([entry(), entry()], truth, None).embodied_g
    assert added([loading, nameless], "").embodied_g is None


def test_contracts_are_reported_apart_and_only_where_every_site_has_one() -> None:
    both = account([entry(market_g_per_kwh=10.0), entry(1, market_g_per_kwh=20.0)], truth, None)
    assert both.market_g == pytest.approx(1.2 * 30)
    assert both.operational_g == pytest.approx(1.2 * 600)
    one = account([entry(market_g_per_kwh=10.0), entry()], truth, None)
    assert one.market_g is None
    assert total([both, both]).market_g == pytest.approx(2.4 * 30)
    assert total([both, one]).market_g is None


@pytest.mark.parametrize(("size", "said"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (4e12, "4 TB")])
def test_sizes_for_people(size: float, said: str) -> None:
    assert format_bytes(size) == said


def spent(server: LiveServer, worker_id: str, *parts: dict[str, Any]) -> None:
    told = [{"seconds": 1.0, "energy_source": "modelled", "started_at": "2026-01-01T00:10:00Z", **part} for part in parts]
    server.post(f"/v1/batchsched/workers/{worker_id}/bye", {"spent": [{"number": 1, "parts": told}]})


def loaded(server: LiveServer, worker: HandWorker, starts: int) -> dict[str, Any]:
    """The report of a batch before whose work engines were started, each in 30 s with 700 J, and one more of the host."""
    batch_id = server.submit(requests(2))["id"]
    lease = worker.lease()
    for number in range(starts):
        span = {"started_at": f"2025-12-31T23:5{number}:00Z", "ended_at": f"2025-12-31T23:5{number}:30Z"}
        meter = {**span, "busy_s": 30.0, "startup_s": 30.0, "energy_j": 700.0, "energy_source": "rapl"}
        body = {"token": lease["token"], "results": [], "meter": {**meter, "host_j": 1.0, "host_source": "rapl"}}
        server.post(f"/v1/batchsched/leases/{lease['chunk_id']}/results", body)
    worker.finish(lease)
    server.until(batch_id, "completed")
    report: dict[str, Any] = server.get(f"/v1/batchsched/batches/{batch_id}/report")
    assert report["energy_j"] == pytest.approx(100 + 701 * starts)
    return report


@pytest.mark.slow
def test_the_baseline_on_another_pool_loads_its_model_where_the_batch_did_and_once(tmp_path: Path) -> None:
    other = TWO_SITES.replace("[models.tiny]", "max_in_flight = 8\n[models.tiny]")  # of the far pool: not like the one at home
    with live_server(tmp_path, other) as server:
        far = server.worker("far")
        runs = [loaded(server, far, starts) for starts in (0, 1, 2)]
        profile = server.runtime.scheduler.observer.current_profiles()["tiny", "local"]
        spent(server, far.worker_id)  # it leaves: the cleaner site has no worker now, so the work comes home
        runs.append(loaded(server, server.worker("local"), 2))
    warm, cold, twice, at_home = (report["baseline"]["terms"] for report in runs)
    assert cold["energy_j"] - warm["energy_j"] == pytest.approx(profile.startup_s * profile.idle_w)
    assert cold["busy_s"] - warm["busy_s"] == pytest.approx(profile.startup_s)
    assert (twice["energy_j"], twice["busy_s"]) == pytest.approx((cold["energy_j"], cold["busy_s"]))
    assert at_home["energy_j"] == pytest.approx(100 + 701)
    for report in runs:
        assert sum(report["saving"].values()) == pytest.approx(report["saved_g"])


def test_a_real_batch_and_all_that_stands_beside_it(tmp_path: Path) -> None:
    with live_server(tmp_path, TWO_SITES, server__chunk_lines=2) as server, Client(server.url) as client:
        batch_id = server.submit(requests(2))["id"]
        worker = server.worker("far")
        lease = worker.lease()
        span = {"started_at": "2026-01-01T00:00:00Z", "ended_at": "2026-01-01T00:00:30Z"}
        meter = {**span, "busy_s": 30.0, "energy_j": 700.0, "energy_source": "modelled", "startup_s": 30.0}
        server.post(
            f"/v1/batchsched/leases/{lease['chunk_id']}/results", {"token": lease["token"], "results": [], "meter": meter}
        )
        worker.messages = 30
        worker.finish(lease)
        server.until(batch_id, "completed")
        spent(
            server,
            worker.worker_id,
            {"kind": "idle", "batch_id": "", "energy_j": 40.0},
            {"kind": "waste", "batch_id": batch_id, "energy_j": 9.0},
        )
        report = client.batches.report(batch_id)
        found = {part.part: part for part in report.beside}
        assert set(found) == {"loading", "waste", "idle", "network", "storage"}
        assert found["loading"].energy_j == pytest.approx(700)
        assert found["waste"].energy_j == pytest.approx(9)
        assert found["idle"].energy_j == pytest.approx(40)  # it was alone that day
        assert found["idle"].embodied_g  # one second each of a replica that was held for nothing
        assert report.embodied_g
        assert report.embodied_g.mid
        assert found["idle"].embodied_g.mid == pytest.approx(report.embodied_g.mid / 40)  # the work and the start took 40
        assert found["waste"].embodied_g == found["idle"].embodied_g
        assert report.energy_j == pytest.approx(800)  # waste and idle time are not in it
        assert "between home and far" in found["network"].how
        assert found["storage"].embodied_g
        assert report.market_g == pytest.approx(800 / 3.6e6 * 20)
        server.submit(requests(2))
        at_work = server.worker("far")
        at_work.messages = 40
        at_work.finish(at_work.lease())
        again = {part.part: part for part in client.batches.report(batch_id).beside}
        assert again["idle"].energy_j == pytest.approx(40 * 40 / 50)  # 10 s of the day's 50 were the other's
