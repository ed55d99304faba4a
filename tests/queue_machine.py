"""A model of the queue beside the real one: hypothesis chooses what happens, and after every step both must agree.

What is driven is the real application over its real store and database (tests/inprocess.py). The model remembers only what was
acknowledged; from that follow the promises: no request lost, none with two results, a lease has one holder, a stale holder
changes nothing, nothing acknowledged runs again, attempts are bounded, terminal states are final unless somebody asks for a
retry, counts are the counts of rows.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batchsched.clock import ManualClock
from batchsched.queue import chunks
from batchsched.wire import PREFIX
from tests.inprocess import InProcess
from tests.live import requests

LEASE_S, ATTEMPTS, CHUNK_LINES = 60.0, 3, 3
TERMINAL = {"completed", "failed", "expired", "cancelled"}
WINDOWS = {"1h": 3600, "24h": 86400}


@dataclass
class Batch:
    """What the model knows of a batch. `results`: by line, whether it went well, and what was acknowledged."""

    lines: int
    deadline_at: datetime
    state: str = "in_progress"
    paused: bool = False
    results: dict[int, tuple[bool, str]] = field(default_factory=dict)


@dataclass
class Held:
    """A lease that somebody was given. `live`: its writes must be accepted."""

    chunk_id: str
    token: int
    batch_id: str
    first: int
    lines: int
    worker: str
    until: datetime
    live: bool = True


class QueueMachine(RuleBasedStateMachine):
    """Rules and invariants. Subclasses say how a server is made, and may break something."""

    make: Callable[..., InProcess]
    empty_database: Callable[[], AbstractContextManager[str]]

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="batchsched-machine-"))
        self.clock = ManualClock(datetime(2026, 5, 1, tzinfo=UTC))
        self.server = type(self).make(
            self.folder,
            self.clock,
            server__chunk_lines=CHUNK_LINES,
            server__lease_s=LEASE_S,
            server__max_attempts=ATTEMPTS,
            server__database_url=self.stack.enter_context(type(self).empty_database()),
        )
        self.batches: dict[str, Batch] = {}
        self.held: list[Held] = []
        self.attempts: dict[str, int] = {}
        self.workers = [self._register() for _ in range(2)]
        self.answers = 0

    def teardown(self) -> None:
        """Whatever happened, all that is open can be brought to its end."""
        try:
            self._drain()
        finally:
            self.server.close()
            self.stack.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- what users do --

    @rule(lines=st.integers(1, 7), window=st.sampled_from(sorted(WINDOWS)))
    def submit(self, lines: int, window: str) -> None:
        """A file comes and a batch is made of it."""
        form = {"files": {"file": ("in.jsonl", requests(lines))}, "data": {"purpose": "batch"}}
        file_id = self._good(self.server.request("POST", "/v1/files", **form))["id"]
        body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": window}
        batch = self._good(self.server.post("/v1/batches", body))
        self.batches[batch["id"]] = Batch(lines, self.clock.now() + timedelta(seconds=WINDOWS[window]))
        self.round()

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Cancelling is refused only where the batch is over."""
        batch_id = data.draw(st.sampled_from(list(self.batches)))
        refused = self.batches[batch_id].state in {"completed", "expired"}
        answer = self.server.post(f"/v1/batches/{batch_id}/cancel")
        assert answer.status_code == (409 if refused else 200), answer.text
        self._look()

    @precondition(lambda self: self.batches)
    @rule(data=st.data(), resuming=st.booleans())
    def pause(self, data: st.DataObject, resuming: bool) -> None:
        """Pausing holds back what is not leased; resuming lets it go. Neither ends a lease."""
        batch_id = data.draw(st.sampled_from(list(self.batches)))
        batch = self.batches[batch_id]
        answer = self.server.post(f"{PREFIX}/batches/{batch_id}/{'resume' if resuming else 'pause'}")
        assert answer.status_code == (200 if batch.state == "in_progress" else 409), answer.text
        if batch.state == "in_progress":
            batch.paused = not resuming

    @precondition(lambda self: self.batches)
    @rule(data=st.data(), window=st.sampled_from(sorted(WINDOWS)))
    def retry(self, data: st.DataObject, window: str) -> None:
        """A batch that ended goes on with what failed or was left undone; what went well stays."""
        batch_id = data.draw(st.sampled_from(list(self.batches)))
        batch = self.batches[batch_id]
        undone = [line for line in range(1, batch.lines + 1) if not batch.results.get(line, (False, ""))[0]]
        answer = self.server.post(f"{PREFIX}/batches/{batch_id}/retry", {"deadline": window})
        assert answer.status_code == (200 if batch.state in TERMINAL and undone else 409), answer.text
        if answer.status_code == 200:
            batch.deadline_at = self.clock.now() + timedelta(seconds=WINDOWS[window])
            batch.state, batch.paused = "in_progress", False
            batch.results = {line: result for line, result in batch.results.items() if result[0]}
            self._forget_attempts(batch_id)
            self.round()

    # -- what workers do --

    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        """A worker asks; what it gets, nobody else holds, and nothing acknowledged is in it."""
        self._claim(data.draw(st.sampled_from(self.workers)))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        """Somebody delivers: who holds the lease is heard, who lost it is not."""
        lease = data.draw(st.sampled_from(self.held))
        inside = st.integers(lease.first, lease.first + lease.lines - 1)
        oks = data.draw(st.dictionaries(inside, st.booleans(), min_size=1))
        self._deliver(lease, oks)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        """A worker names what it believes to hold, and learns what it lost."""
        worker = data.draw(st.sampled_from(self.workers))
        mine = [lease for lease in self.held if lease.worker == worker]
        body = {"leases": [{"chunk_id": lease.chunk_id, "token": lease.token} for lease in mine]}
        answer = self._good(self.server.post(f"{PREFIX}/workers/{worker}/heartbeat", body))
        # A chunk of which it holds an old and a new lease is named once, for the old one.
        assert set(answer["stale"]) == {lease.chunk_id for lease in mine if not lease.live}
        for lease in mine:
            if lease.live:
                lease.until = self.clock.now() + timedelta(seconds=LEASE_S)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), failing=st.booleans())
    def give_back(self, data: st.DataObject, failing: bool) -> None:
        """A worker releases a lease, or its engine failed under it."""
        lease = data.draw(st.sampled_from(self.held))
        verb = "fail" if failing else "release"
        body = {"token": lease.token, "reason": "shutdown", "message": "the engine died", "suspects": []}
        answer = self.server.post(f"{PREFIX}/leases/{lease.chunk_id}/{verb}", body)
        assert answer.status_code == (200 if lease.live else 409), answer.text
        if lease.live and failing:
            self._spend(lease)
        lease.live = False

    def _spend(self, lease: Held) -> None:
        spent = self.attempts[lease.chunk_id] = self.attempts.get(lease.chunk_id, 0) + 1
        assert spent <= ATTEMPTS
        if spent == ATTEMPTS:
            results = self.batches[lease.batch_id].results
            for line in range(lease.first, lease.first + lease.lines):
                results.setdefault(line, (False, "engine_failed"))

    # -- what time and accidents do --

    @rule(seconds=st.sampled_from([1, 61, 1800]))
    def wait(self, seconds: int) -> None:
        """Time goes by."""
        self.clock.advance(seconds)

    @rule(hours=st.sampled_from([-1, 1]))
    def jump(self, hours: int) -> None:
        """The time of day jumps, and no lease is lost by it."""
        self.round()
        self.clock.set_wall(self.clock.now() + timedelta(hours=hours))
        now = self.clock.now()
        for lease in self.held:
            lease.until = now + timedelta(seconds=LEASE_S)
        self.round()

    @rule()
    def round(self) -> None:
        """The server keeps house: lost leases come back, deadlines pass, batches end."""
        self.server.round()
        self._look()
        now = self.clock.now()
        for lease in self.held:
            if lease.live and self.batches[lease.batch_id].state == "in_progress":
                assert lease.until > now or not self._holds(lease), "a lease outlived its time"

    @rule()
    def restart(self) -> None:
        """The server dies and comes back."""
        self.server.restart()
        for lease in self.held:
            lease.until = self.clock.now() + timedelta(seconds=LEASE_S)
        self._look()

    # -- what must hold --

    @invariant()
    def counts_are_what_was_acknowledged(self) -> None:
        """Counters equal rows, and rows what the model saw acknowledged."""
        for batch_id, batch in self.batches.items():
            if batch.state in TERMINAL:
                continue
            counts = self.server.json(f"/v1/batches/{batch_id}")["request_counts"]
            good = sum(ok for ok, _ in batch.results.values())
            assert counts == {"total": batch.lines, "completed": good, "failed": len(batch.results) - good}

    # -- the same, in small --

    def _good(self, answer: Any) -> Any:
        assert answer.status_code == 200, answer.text
        return answer.json()

    def _forget_attempts(self, batch_id: str) -> None:
        for lease in self.held:
            if lease.batch_id == batch_id:
                self.attempts.pop(lease.chunk_id, None)

    def _register(self) -> str:
        body = {"pool": "local", "host": "machine", "pid": 1}
        return str(self._good(self.server.post(f"{PREFIX}/workers", body))["worker_id"])

    def _claim(self, worker: str) -> None:
        self.server.plan()
        body = {"worker_id": worker, "max_chunks": 2, "ready_models": ["tiny"]}
        for given in self._good(self.server.post(f"{PREFIX}/leases", body))["leases"]:
            batch, chunk_id = self.batches[given["batch_id"]], given["chunk_id"]
            before = [lease for lease in self.held if lease.chunk_id == chunk_id]
            lines = range(given["first_line"], given["first_line"] + given["lines"])
            assert not any(lease.live for lease in before), "two hold the same chunk"
            assert all(given["token"] > lease.token for lease in before), "the token did not grow"
            assert given["done"] == [line for line in lines if line in batch.results], "what is acknowledged would run again"
            assert batch.state == "in_progress"
            assert not batch.paused, "a paused batch was leased"
            until = self.clock.now() + timedelta(seconds=LEASE_S)
            self.held.append(Held(chunk_id, given["token"], given["batch_id"], lines.start, len(lines), worker, until))

    def _deliver(self, lease: Held, oks: dict[int, bool]) -> None:
        self.answers += 1
        results = [self._result(line, ok) for line, ok in sorted(oks.items())]
        answer = self.server.post(f"{PREFIX}/leases/{lease.chunk_id}/results", {"token": lease.token, "results": results})
        if not lease.live:
            assert answer.status_code == 409, answer.text
            return
        known = self.batches[lease.batch_id].results
        assert self._good(answer)["recorded"] == len(oks.keys() - known.keys())
        for result in results:
            known.setdefault(result["line"], (result["ok"], result["output"]["id"]))
        lease.live = not all(line in known for line in range(lease.first, lease.first + lease.lines))

    def _result(self, line: int, ok: bool) -> dict[str, Any]:
        response: dict[str, Any] = {"status_code": 200 if ok else 400, "request_id": "r", "body": {}}
        output = {"id": f"answer-{self.answers}-{line}", "custom_id": f"r{line - 1}", "response": response, "error": None}
        return {"line": line, "ok": ok, "input_tokens": 1, "cached_tokens": 0, "output_tokens": 1, "output": output}

    def _holds(self, lease: Held) -> bool:
        with self.server.runtime.database.read() as connection:
            row = chunks.get(connection, lease.chunk_id)
        return bool(row["state"] == "leased" and row["token"] == lease.token)

    def _look(self) -> None:
        """Learn what the housekeeping did; it may end leases only for a reason."""
        now = self.clock.now()
        for batch_id, batch in self.batches.items():
            seen = self.server.json(f"/v1/batches/{batch_id}")
            if batch.state in TERMINAL:
                assert seen["status"] == batch.state, "a terminal state is final"
                continue
            assert seen["status"] != "expired" or now >= batch.deadline_at
            batch.state = seen["status"]
            if batch.state in TERMINAL:
                self._ended(batch, seen)
        for lease in self.held:
            if lease.live and not self._holds(lease):
                over = self.batches[lease.batch_id].state != "in_progress"
                assert over or lease.until <= now, "a lease was lost before its time"
                lease.live = False

    def _ended(self, batch: Batch, seen: dict[str, Any]) -> None:
        """Every request has exactly one result, and it is the one that was acknowledged."""
        files = [seen[name] for name in ("output_file_id", "error_file_id") if seen[name]]
        text = "".join(self.server.request("GET", f"/v1/files/{file_id}/content").text for file_id in files)
        lines = [json.loads(line) for line in text.splitlines()]
        counts = seen["request_counts"]
        assert counts["total"] == counts["completed"] + counts["failed"] == batch.lines
        assert sorted(line["custom_id"] for line in lines) == sorted(f"r{i}" for i in range(batch.lines))
        found = {int(line["custom_id"][1:]) + 1: line for line in lines}
        for line, (ok, answer_id) in batch.results.items():
            assert (found[line]["response"] or {}).get("status_code") == (
                200 if ok else None if answer_id == "engine_failed" else 400
            )
            assert answer_id in {found[line]["id"], "engine_failed"}
        assert batch.state != "completed" or len(batch.results) == batch.lines, "completed, though results are missing"

    def _drain(self) -> None:
        for batch_id, batch in self.batches.items():
            if batch.paused and batch.state == "in_progress":
                self._good(self.server.post(f"{PREFIX}/batches/{batch_id}/resume"))
                batch.paused = False
        for _ in range(120):
            self.round()
            if all(batch.state in TERMINAL for batch in self.batches.values()):
                return
            for worker in self.workers:
                self._claim(worker)
            for lease in [lease for lease in self.held if lease.live]:
                self._deliver(lease, dict.fromkeys(range(lease.first, lease.first + lease.lines), True))
            self.clock.advance(1801)
        raise AssertionError("a batch never ended")
