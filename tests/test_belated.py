"""Online users come back to a server that has a chunk of ours in hand: what would be late there is done elsewhere."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from batchsched.clock import ManualClock
from batchsched.wire import PREFIX
from tests.inprocess import InProcess, in_process
from tests.live import ONLINE, requests
from tests.test_spare_hours import worker_of

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
FLEET = f'{ONLINE}[pools.ours]\ngpu = "L4"\n[planner]\nsolver = "greedy"\n'
QUIET, FULL = 5000.0, 0.0
"""Offline tokens a second that a server has room for."""


def beat(server: InProcess, name: str, room: float | None = None, *held: dict[str, Any]) -> dict[str, str]:
    """Which chunks it is to let go of. `room`: what it says of its server."""
    seen = None if room is None else {"server": "gpu-1", "seconds": 300.0, "tokens_per_s": room}
    leases = [{"chunk_id": lease["chunk_id"], "token": lease["token"]} for lease in held]
    found: dict[str, str] = server.post(f"{PREFIX}/workers/{name}/heartbeat", {"leases": leases, "spare": seen}).json()["stop"]
    return found


def claim(server: InProcess, name: str) -> list[dict[str, Any]]:
    asked = {"worker_id": name, "max_chunks": 1, "ready_models": ["tiny"]}
    found: list[dict[str, Any]] = server.post(f"{PREFIX}/leases", asked).json()["leases"]
    return found


def submitted(server: InProcess, window: str) -> None:
    """A batch of one chunk that is some minutes' work; where others leave all of the server."""
    lines = requests(200, max_tokens=2000, ignore_eos=True, min_tokens=2000)
    upload = server.request("POST", "/v1/files", files={"file": ("f", lines)}, data={"purpose": "batch"}).json()["id"]
    body = {"input_file_id": upload, "endpoint": "/v1/chat/completions", "completion_window": window}
    batch_id = server.post("/v1/batches", body).json()["id"]
    server.round()
    server.post(f"{PREFIX}/batches/{batch_id}/start")
    server.runtime.scheduler.plan_now()


@pytest.mark.parametrize("others", [True, False])
def test_a_chunk_in_hand_is_taken_from_a_server_whose_users_come_back(tmp_path: Path, database_url: str, *, others: bool) -> None:
    clock = ManualClock(NOON)
    with in_process() as make, closing(make(tmp_path, clock, FLEET, server__database_url=database_url)) as server:
        online = worker_of(server)
        for _ in range(8):  # two hours of calm
            beat(server, online, QUIET)
            clock.advance(900)
        submitted(server, "20m")
        clock.advance(300)
        (lease,) = claim(server, online)
        ours = worker_of(server, "ours") if others else ""
        server.runtime.scheduler.plan_now()
        assert beat(server, online, QUIET, lease) == {}
        for _ in range(2):
            clock.advance(300)
            beat(server, online, FULL, lease)
            if others:
                beat(server, ours)
        server.runtime.scheduler.plan_now()
        stopped = beat(server, online, FULL, lease)
        assert stopped == ({lease["chunk_id"]: "preempted"} if others else {}), "without others it stays where it is"
        if others:
            server.post(f"{PREFIX}/leases/{lease['chunk_id']}/release", {"token": lease["token"], "reason": "preempted"})
            assert claim(server, online) == []
            (again,) = claim(server, ours)
            assert (again["chunk_id"], again["attempt"]) == (lease["chunk_id"], 1)
