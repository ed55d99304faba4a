"""A pool that slows while a chunk of an hour runs on it: noticed, its profile follows, and its work moves, within minutes."""

from __future__ import annotations

import random
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from batchsched.clock import ManualClock
from batchsched.profiles import Profile, prior, update
from batchsched.profiles.measured import Observation, pieces_of
from batchsched.wire import PREFIX
from tests.inprocess import InProcess, in_process
from tests.live import requests
from tests.two_pools import answers, two_pools

NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)
LINES, REQUEST_S, STEP_S = 1800, 2.0, 5.0
FLEET = two_pools(LINES, zone="WORLD", more='[planner]\nsolver = "greedy"')


class Machine:
    """A worker with its engine: one answer after the other, each of `tokens` tokens in `request_s` seconds."""

    def __init__(self, server: InProcess, pool: str, tokens: int) -> None:
        self.server, self.tokens, self.request_s = server, tokens, REQUEST_S
        self.id = server.post(f"{PREFIX}/workers", {"pool": pool, "host": "h", "pid": 1}).json()["worker_id"]
        self.lease: dict[str, Any] | None = None
        self.line, self.progress = 0, 0.0

    def step(self, at: datetime) -> None:
        """Five seconds that end now."""
        if self.lease is None:
            body = {"worker_id": self.id, "ready_models": ["tiny"]}
            self.lease = next(iter(self.server.post(f"{PREFIX}/leases", body).json()["leases"]), None)
            if self.lease:
                done = self.lease["done"]
                self.line, self.progress = self.lease["first_line"] + len(done), 0.0
            return
        self.progress += STEP_S / self.request_s
        lines = range(self.line, self.line + int(self.progress))
        self.line, self.progress = lines.stop, self.progress - len(lines)
        said = answers(self.lease["token"], lines, at, STEP_S, written=self.tokens)
        answer = self.server.post(f"{PREFIX}/leases/{self.lease['chunk_id']}/results", said)
        assert answer.status_code == 200, answer.text
        held = [{"chunk_id": self.lease["chunk_id"], "token": self.lease["token"]}]
        told = self.server.post(f"{PREFIX}/workers/{self.id}/heartbeat", {"leases": held}).json()
        if reason := told["stop"].get(self.lease["chunk_id"]):
            self.server.post(
                f"{PREFIX}/leases/{self.lease['chunk_id']}/release", {"token": self.lease["token"], "reason": reason}
            )
            self.lease = None


@pytest.mark.slow
def test_a_pool_at_half_speed_loses_its_work_within_five_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock(NOW)
    with in_process() as make, closing(make(tmp_path, clock, FLEET)) as server:
        scheduler = server.runtime.scheduler
        usual = scheduler.observer.current_profiles()["tiny", "old"]
        tokens = round(REQUEST_S / usual.seconds(0, 1))
        pokes: list[str] = []
        monkeypatch.setattr(scheduler, "poke", lambda: pokes.append("poke"))
        data = requests(4 * LINES, max_tokens=tokens)
        upload = server.request("POST", "/v1/files", files={"file": ("in.jsonl", data)}, data={"purpose": "batch"}).json()
        asked = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "input_file_id": upload["id"]}
        batch_id = server.post("/v1/batches", asked).json()["id"]
        server.round()
        old, new = Machine(server, "old", tokens), Machine(server, "new", tokens)
        planned_at = NOW - timedelta(days=1)

        def turn(minutes: float) -> None:
            """As the scheduler's loop does: a plan where somebody asks for one, and every five minutes."""
            nonlocal planned_at
            until = clock.now() + timedelta(minutes=minutes)
            while clock.now() < until:
                if pokes or clock.now() - planned_at >= timedelta(minutes=5):
                    pokes.clear()
                    server.plan()
                    planned_at = clock.now()
                clock.advance(STEP_S)
                old.step(clock.now())
                new.step(clock.now())

        def share() -> float:
            published = scheduler.published
            assert published
            mine = [one for one in published.plan.allotments if one.batch_id == batch_id]
            return sum(one.requests for one in mine if one.pool == "old") / sum(one.requests for one in mine)

        turn(15)
        assert old.lease is not None
        chunk_id, before = old.lease["chunk_id"], share()
        old.request_s *= 2
        turn(4.9)
        drift = scheduler.observer.current_profiles()["tiny", "old"].drift
        assert drift is not None
        assert drift.factor == pytest.approx(2.0, rel=0.15)
        assert timedelta(minutes=14) <= drift.since - NOW <= timedelta(minutes=17)
        assert before > 0.5 > share()
        assert old.lease is None or old.lease["chunk_id"] != chunk_id
        assert new.lease is not None


def entries(before: Profile, speeds: list[float], chunk_id: str = "c", draw: random.Random | None = None) -> list[dict[str, Any]]:
    """The ledger of one chunk: ten seconds each, of eight answers at about that many times the usual duration."""
    found: list[dict[str, Any]] = []
    for place, speed in enumerate(speeds):
        factor = speed * (draw.lognormvariate(0, 0.3) if draw else 1.0)
        tokens = int(10.0 / factor / before.seconds(1, 1))
        found.append(
            {
                "chunk_id": chunk_id, "model": "m", "pool": "p", "ended_at": NOW + timedelta(seconds=10 * (place + 1)),
                "busy_s": 10.0, "requests": 8, "input_tokens": tokens, "output_tokens": tokens, "energy_source": "rapl",
                "energy_j": 1000.0,
            }
        )  # fmt: skip
    return found


def test_pieces_are_long_enough_and_of_enough_answers() -> None:
    before = prior("m", "p", "V100-16", 7)
    (one,) = pieces_of(entries(before, [1.0] * 5))  # twenty seconds are left over
    assert (one.busy_s, one.energy_j, one.piece) == (50.0, 5000.0, True)
    assert one.at == NOW + timedelta(seconds=50)
    rare = [{**row, "requests": 1} for row in entries(before, [1.0] * 9)]
    assert [piece.busy_s for piece in pieces_of(rare)] == [40.0, 50.0]
    assert pieces_of(entries(before, [1.0] * 2)) == []
    both = sorted([*entries(before, [1.0] * 3), *entries(before, [1.0] * 3, "d")], key=lambda row: row["ended_at"])
    assert len(pieces_of(both)) == 2


def whole(rows: list[dict[str, Any]]) -> Observation:
    total = {name: sum(row[name] for row in rows) for name in ("busy_s", "input_tokens", "output_tokens")}
    return Observation("m", "p", rows[-1]["ended_at"], **total)


def test_a_profile_follows_in_the_middle_of_a_chunk() -> None:
    before, draw = prior("m", "p", "V100-16", 7), random.Random(2)
    rows = entries(before, [1.0] * 60 + [2.0] * 18, draw=draw)
    after = update(before, [whole(rows), *pieces_of(rows)])
    assert after.drift is not None
    assert after.drift.factor == pytest.approx(2.0, rel=0.2)
    assert after.seconds(1, 1) == pytest.approx(2.0 * before.seconds(1, 1), rel=0.15)
    assert 100.0 < after.power_w < 0.5 * before.power_w + 50.0  # most of the way to what was measured
    steady = entries(before, [1.0] * 120, draw=draw)
    known = update(before, [whole(steady), *pieces_of(steady)])
    assert (known.drift, known.observations) == (None, 1)


def test_a_chunk_of_somewhat_slower_work_is_no_change_of_the_pool() -> None:
    before = prior("m", "p", "V100-16", 7)
    slower = entries(before, [1.35] * 60, "d")
    for row in slower:
        row["ended_at"] += timedelta(minutes=10)
    rows = [entries(before, [1.0] * 60), slower]
    assert update(before, [*map(whole, rows), *pieces_of([*rows[0], *slower])]).drift is None
