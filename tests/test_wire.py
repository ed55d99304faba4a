"""Servers and workers one protocol apart work together: the messages of protocol 1, word for word, in both directions."""

from __future__ import annotations

import json
from collections.abc import Generator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from aiohttp import web

from batchsched.errors import UnsupportedProtocol
from batchsched.wire import MIN_PROTOCOL, PREFIX, PROTOCOL, known_reason
from tests.fake_engine import FakeEngine
from tests.fake_server import FakeServer
from tests.live import LiveServer, live_server, requests, wait_for
from tests.test_executors_driver import run, working

# What a worker of protocol 1 says. These texts are history: they never change.
REGISTER = '{"pool":"local","host":"node1","pid":4711,"protocol":1}'
CLAIM = '{"worker_id":"%s","max_chunks":1,"ready_models":["tiny"]}'
HEARTBEAT = '{"leases":[{"chunk_id":"%s","token":%d}]}'
METER = (
    '{"started_at":"2026-01-01T00:00:%02dZ","ended_at":"2026-01-01T00:00:%02dZ","busy_s":1.0,"energy_j":5.0,'
    '"energy_source":"modelled","startup_s":0.0}'
)
RESULT = (
    '{"line":%d,"ok":true,"input_tokens":3,"cached_tokens":0,"output_tokens":5,"output":{"id":"batch_req_1","custom_id":"r0",'
    '"response":{"status_code":200,"request_id":"r","body":{}},"error":null}}'
)
RESULTS = '{"token":%d,"results":[%s],"meter":%s}'
FINISH = '{"token":%d,"meter":%s}'
RELEASE = '{"token":%d,"reason":"%s","meter":null}'
FAIL = '{"token":%d,"message":"it died","suspects":[1],"meter":null}'


# What a worker of protocol 1 understands: its decoders as they were, unknown fields of settings refused.
class OldWindow(msgspec.Struct, forbid_unknown_fields=True):
    cron: str
    duration: str
    timezone: str = "UTC"


class OldPool(msgspec.Struct, forbid_unknown_fields=True):
    site: str = "home"
    kind: Literal["dedicated", "spare", "cpu"] = "dedicated"
    gpu: str = "cpu"
    count: int = 1
    models: list[str] = []
    max_in_flight: int = 256
    power_w: float | None = None
    window: OldWindow | None = None
    engine_args: list[str] = []


class OldModel(msgspec.Struct, forbid_unknown_fields=True):
    path: str = ""
    parameters_b: float | None = None
    max_model_len: int | None = None
    engine_args: list[str] = []


class OldRegistered(msgspec.Struct):
    worker_id: str
    pool_name: str
    pool: OldPool
    models: dict[str, OldModel]
    lease_s: float
    heartbeat_s: float


class OldLease(msgspec.Struct):
    chunk_id: str
    batch_id: str
    token: int
    endpoint: str
    model: str
    first_line: int
    lines: int
    done: list[int]
    suspects: list[int]
    attempt: int


class OldClaimed(msgspec.Struct):
    leases: list[OldLease]
    prepare: str | None = None
    next_at: datetime | None = None
    poll_s: float = 1.0


class OldHeartbeatAnswer(msgspec.Struct):
    stale: list[str]
    stop: dict[str, Literal["window_closed", "shutdown", "preempted", "cancelled"]]


class OldAcknowledged(msgspec.Struct):
    recorded: int
    duplicates: int


class OldWorker:
    """Sends the old texts and reads the answers with the old eyes."""

    def __init__(self, server: LiveServer) -> None:
        self._http = server.http
        self.me = self.say("/workers", REGISTER, OldRegistered)

    def say(self, path: str, text: str, kind: Any = object, status: int = 200) -> Any:
        """One message; its answer."""
        answer = self._http.post(PREFIX + path, content=text, headers={"content-type": "application/json"})
        assert answer.status_code == status, answer.text
        return msgspec.json.decode(answer.content, type=kind)

    def lease(self) -> OldLease:
        """Ask until there is a lease."""
        leases: list[OldLease] = wait_for(lambda: self.say("/leases", CLAIM % self.me.worker_id, OldClaimed).leases)
        return leases[0]

    def beat(self, lease: OldLease) -> OldHeartbeatAnswer:
        """A heartbeat."""
        text = HEARTBEAT % (lease.chunk_id, lease.token)
        answer: OldHeartbeatAnswer = self.say(f"/workers/{self.me.worker_id}/heartbeat", text, OldHeartbeatAnswer)
        return answer


@pytest.fixture
def server(tmp_path: Path) -> Generator[LiveServer]:
    with live_server(tmp_path, server__chunk_lines=2) as live:
        yield live


@pytest.mark.slow
def test_an_old_worker_does_a_batch_for_a_new_server(server: LiveServer) -> None:
    batch_id = server.submit(requests(2))["id"]
    worker = OldWorker(server)
    lease = worker.lease()
    assert worker.beat(lease) == OldHeartbeatAnswer([], {})
    path = f"/leases/{lease.chunk_id}"
    worker.say(f"{path}/release", RELEASE % (lease.token, "preempted"))
    assert worker.beat(lease).stale == [lease.chunk_id]
    worker.say(f"{path}/fail", FAIL % lease.token, status=409)
    lease = worker.lease()
    worker.say(f"{path}/fail", FAIL % lease.token)
    lease = worker.lease()
    assert (lease.attempt, lease.suspects) == (2, [1])
    text = server.http.get(f"{PREFIX}/chunks/{lease.chunk_id}/input", params={"token": lease.token}).text
    assert [json.loads(line)["custom_id"] for line in text.splitlines()] == ["r0", "r1"]
    both = ",".join(RESULT % line for line in (1, 2))
    said = RESULTS % (lease.token, both, METER % (0, 1))
    assert worker.say(f"{path}/results", said, OldAcknowledged) == OldAcknowledged(2, 0)
    worker.say(f"{path}/finish", FINISH % (lease.token, METER % (1, 2)))
    assert server.until(batch_id, "completed")["request_counts"]["completed"] == 2
    server.post(f"{PREFIX}/workers/{worker.me.worker_id}/bye")


def test_an_old_worker_hears_only_reasons_that_it_knows(server: LiveServer) -> None:
    assert [known_reason("paused", protocol) for protocol in (1, 2)] == ["preempted", "paused"]
    batch_id = server.submit(requests(2))["id"]
    worker = OldWorker(server)
    lease = worker.lease()
    server.post(f"{PREFIX}/batches/{batch_id}/pause")
    assert worker.beat(lease).stop == {lease.chunk_id: "preempted"}
    server.post(f"{PREFIX}/batches/{batch_id}/resume")
    server.post(f"/v1/batches/{batch_id}/cancel")
    assert worker.beat(lease).stop == {lease.chunk_id: "cancelled"}
    worker.say(f"/leases/{lease.chunk_id}/release", RELEASE % (lease.token, "cancelled"))
    server.until(batch_id, "cancelled")


@pytest.mark.parametrize(("protocol", "older"), [(MIN_PROTOCOL - 1, "worker"), (PROTOCOL + 1, "server")])
def test_a_worker_further_apart_is_refused_with_a_clear_word(server: LiveServer, protocol: int, older: str) -> None:
    body = {"pool": "local", "host": "h", "pid": 1, "protocol": protocol}
    error = server.post(f"{PREFIX}/workers", body, 400)["error"]
    assert error["code"] == "unsupported_protocol"
    assert f"the worker {protocol}; upgrade the {older}" in error["message"]


class OldServer(FakeServer):
    """Answers as a server of protocol 1 did, and refuses whoever speaks another."""

    answer = (
        '{"worker_id":"worker_1","pool_name":"local","pool":{"site":"home","kind":"dedicated","gpu":"cpu","count":1,"models":[],'
        '"max_in_flight":256,"power_w":null,"window":null,"engine_args":[]},"models":{"tiny":{"path":"","parameters_b":null,'
        '"max_model_len":null,"engine_args":[]}},"lease_s":2.0,"heartbeat_s":0.1}'
    )
    refusal = (
        '{"error":{"message":"This server speaks protocol 1, the worker %d; upgrade the older one.",'
        '"type":"invalid_request_error","param":null,"code":"invalid_request","hint":null}}'
    )
    asked: list[int]

    async def register(self, request: web.Request) -> web.Response:
        protocol = json.loads(await request.read())["protocol"]
        self.asked = [*getattr(self, "asked", []), protocol]
        if protocol != 1:
            return web.Response(text=self.refusal % protocol, status=400, content_type="application/json")
        return web.Response(text=self.answer, content_type="application/json")

    async def claim(self, request: web.Request) -> web.Response:
        waiting = [chunk for chunk in self.chunks if chunk.state == "waiting"]
        if not waiting:
            text = '{"leases":[],"prepare":null,"next_at":"2026-01-01T00:00:00Z","poll_s":0.05}'
        elif not json.loads(await request.read())["ready_models"]:
            text = '{"leases":[],"prepare":"tiny","next_at":null,"poll_s":0.05}'
        else:
            lease = self._lease(waiting[0])
            text = (
                f'{{"leases":[{{"chunk_id":"{lease.chunk_id}","batch_id":"batch_1","token":{lease.token},'
                f'"endpoint":"/v1/chat/completions","model":"tiny","first_line":{lease.first_line},"lines":{lease.lines},'
                '"done":[],"suspects":[],"attempt":1}],"prepare":null,"next_at":null,"poll_s":1.0}'
            )
        return web.Response(text=text, content_type="application/json")

    async def heartbeat(self, request: web.Request) -> web.Response:
        self.said.append(("heartbeat", json.loads(await request.read())))
        return web.Response(text='{"stale":[],"stop":{"chunk_99":"window_closed"}}', content_type="application/json")


async def test_a_new_worker_does_the_work_of_an_old_server() -> None:
    server = OldServer(["one", "two", "three"], chunk_lines=2)
    outputs = await run(server, FakeEngine())
    assert set(outputs) == {"c1", "c2", "c3"}
    assert server.asked == [PROTOCOL, MIN_PROTOCOL]


@pytest.mark.parametrize(("protocol", "word"), [(0, "upgrade the server"), (9, "upgrade the worker")])
async def test_a_server_further_apart_is_refused_with_a_clear_word(protocol: int, word: str) -> None:
    server = OldServer(["one"])
    server.answer = server.answer[:-1] + f',"protocol":{protocol}}}'
    with pytest.raises(UnsupportedProtocol, match=word):
        async with working(server, FakeEngine()):
            await server.until_done()


def test_what_is_newer_is_skipped_not_refused(server: LiveServer) -> None:
    """A field that the next version adds does no harm, in a message and in the settings within it."""
    from batchsched.wire import Registered

    newer = OldServer.answer.replace('"gpu":', '"colour":"green","gpu":').replace('"path":', '"taste":1,"path":')
    assert msgspec.json.decode(newer, type=Registered).protocol == 1
    body = {"pool": "local", "host": "h", "pid": 1, "protocol": PROTOCOL, "mood": "fine"}
    assert server.post(f"{PREFIX}/workers", body)["protocol"] == PROTOCOL
