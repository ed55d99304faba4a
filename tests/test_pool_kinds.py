"""Pools of the kinds `spare` and `cpu`: who may work there, and with what."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from batchsched.clock import ManualClock
from batchsched.errors import InvalidConfiguration
from batchsched.executors.engine import AttachedEngine, engine_for
from batchsched.executors.engine_home import EngineHome
from batchsched.fleet import Pool, Slo
from batchsched.settings import Worker
from batchsched.wire import PREFIX, PROTOCOL
from tests.inprocess import in_process
from tests.live import ONLINE, live_server
from tests.test_plans import command

NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)
SPARE = Pool(kind="spare", gpu="L4", slo=Slo(500, 50), ceiling=12)
FLEET = ONLINE.replace("tpot_ms = 50", "tpot_ms = 50, percentile = 95")


def test_a_spare_pool_tells_its_workers_what_online_users_are_promised(tmp_path: Path) -> None:
    """And a worker that does not know of online users is turned away, for it would take all that it can."""
    with in_process() as make, closing(make(tmp_path, ManualClock(NOW), FLEET)) as server:
        older = {"pool": "online", "host": "h", "pid": 1, "protocol": PROTOCOL}
        refused = server.post(f"{PREFIX}/workers", older)
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "unsupported_protocol"
        assert "upgrade the worker" in refused.json()["error"]["message"]
        welcome = server.post(f"{PREFIX}/workers", {**older, "shares": True}).json()
        assert welcome["pool"]["slo"] == {"ttft_ms": 500.0, "tpot_ms": 50.0, "percentile": 95.0}
        assert welcome["pool"]["ceiling"] == 12


def test_a_worker_of_a_spare_pool_never_starts_an_engine() -> None:
    home = EngineHome("python", "vllm", "0.32.0")
    with pytest.raises(InvalidConfiguration, match="never start one"):
        engine_for("online", SPARE, home, Worker())
    assert isinstance(engine_for("online", SPARE, None, Worker(engine_url="http://127.0.0.1:1")), AttachedEngine)


def test_the_ceiling_bounds_what_is_in_flight() -> None:
    assert (Pool().most_in_flight, SPARE.most_in_flight) == (256, 12)
    assert Pool(kind="spare", max_in_flight=4, ceiling=12).most_in_flight == 4


def test_pool_list_tells_how_servers_are_shared(tmp_path: Path) -> None:
    with live_server(tmp_path, FLEET) as server:
        said = command(server, "pool", "list")
    assert "spare" in said
    assert "online p95 within 500 ms to the first token and 50 ms for each further one; at most 12 offline requests" in said
    assert "a guess, nothing was seen yet" in said
