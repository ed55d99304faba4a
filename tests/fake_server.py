"""A small honest server of the workers' protocol, in memory: for tests of the worker that need to set the scene exactly.

Honest: it checks fencing tokens, refuses to finish a chunk that lacks results, counts duplicates. What happened stands in
`results`, `said` and `chunks`; the fields of `trouble` make the next calls of a kind go wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from batchsched.fleet import Pool, ServedModel
from batchsched.wire import (
    PREFIX,
    Acknowledged,
    Bye,
    Claim,
    Claimed,
    Fail,
    Finish,
    Heartbeat,
    HeartbeatAnswer,
    Lease,
    Register,
    Registered,
    Release,
    ReleaseReason,
    Result,
    Results,
    in_flight_at_death,
)
from tests.live import PATIENCE_S


class Chunk:
    """A chunk and what became of it."""

    def __init__(self, chunk_id: str, first_line: int, data: list[bytes], model: str, endpoint: str) -> None:
        self.id, self.first_line, self.data, self.model, self.endpoint = chunk_id, first_line, data, model, endpoint
        self.token = self.attempt = 0
        self.held = False
        self.state = "waiting"
        self.suspects: list[int] = []
        self.erring: list[int] = []
        self.rename = False
        self.results: dict[int, Result] = {}
        self.meters: list[Any] = []

    @property
    def lines(self) -> range:
        """The numbers of its lines."""
        return range(self.first_line, self.first_line + len(self.data))


class FakeServer:
    """Serves `requests` (bodies) as chunks of `chunk_lines`."""

    def __init__(
        self,
        prompts: list[str],
        *,
        model: str = "tiny",
        chunk_lines: int = 50,
        pool: Pool | None = None,
        endpoint: str = "/v1/chat/completions",
        heartbeat_s: float = 0.1,
        lease_s: float = 2.0,
    ) -> None:
        self.pool, self.models = pool or Pool(), {model: ServedModel()}
        self.heartbeat_s, self.lease_s = heartbeat_s, lease_s
        lines = [as_line(f"c{number}", prompt, model, endpoint) for number, prompt in enumerate(prompts, 1)]
        self.chunks = [
            Chunk(f"chunk_{start}", start + 1, lines[start : start + chunk_lines], model, endpoint)
            for start in range(0, len(lines), chunk_lines)
        ]
        self.said: list[tuple[str, Any]] = []
        self.trouble: dict[str, list[int | str]] = defaultdict(list)
        self.stop: dict[str, ReleaseReason] = {}
        self.ceiling: int | None = None
        self.most_attempts = 5
        self.traceparent = ""
        self.changed = asyncio.Event()
        self.workers = 0
        self.input_open = asyncio.Event()
        self.input_open.set()
        self.worker: asyncio.Task[int] | None = None

    def add(self, lines: list[bytes], endpoint: str = "/v1/chat/completions") -> None:
        """One more chunk."""
        first = 1 + sum(len(chunk.data) for chunk in self.chunks)
        self.chunks.append(Chunk(f"chunk_{first}", first, lines, next(iter(self.models)), endpoint))

    def app(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=64 * 2**20, middlewares=[self._gate])
        app.router.add_post(f"{PREFIX}/workers", self.register)
        app.router.add_post(f"{PREFIX}/workers/{{id}}/heartbeat", self.heartbeat)
        app.router.add_post(f"{PREFIX}/workers/{{id}}/bye", self.bye)
        app.router.add_post(f"{PREFIX}/leases", self.claim)
        app.router.add_get(f"{PREFIX}/chunks/{{id}}/input", self.input)
        app.router.add_post(f"{PREFIX}/leases/{{id}}/{{verb}}", self.write)
        return app

    @property
    def results(self) -> dict[int, Result]:
        """Every recorded result by line."""
        return {line: result for chunk in self.chunks for line, result in chunk.results.items()}

    def outputs(self) -> dict[str, dict[str, Any]]:
        """Output lines by custom_id."""
        lines = [json.loads(bytes(result.output)) for result in self.results.values()]
        return {line["custom_id"]: line for line in lines}

    def heard(self, kind: str) -> list[Any]:
        """Messages of one kind, in order."""
        return [message for verb, message in self.said if verb == kind]

    async def until(self, true: Callable[[], Any], timeout_s: float = PATIENCE_S) -> None:
        """Wait for something to hold. Raises what the worker under test died of, if it did."""
        async with asyncio.timeout(timeout_s):
            while not true():
                if self.worker and self.worker.done():
                    self.worker.result()
                    raise AssertionError("The worker ended before its work was done.")
                self.changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.changed.wait(), 0.05)

    async def until_done(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait until every chunk is finished or given up."""
        await self.until(lambda: all(chunk.state in {"finished", "given up"} for chunk in self.chunks), timeout_s)

    @web.middleware
    async def _gate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        kind = request.path.rsplit("/", 1)[-1]
        try:
            if self.trouble[kind]:
                what = self.trouble[kind].pop(0)
                if what == "drop":
                    assert request.transport is not None
                    request.transport.close()
                if what == "lose answer":  # done, but the worker never hears of it
                    await handler(request)
                    assert request.transport is not None
                    request.transport.close()
                if what == "hang":
                    await asyncio.Event().wait()
                if what == "html":
                    return web.Response(text="<html>Welcome to the proxy!</html>", content_type="text/html")
                status = what if isinstance(what, int) else 500
                return _error(status, "not_found" if status == 404 else "trouble")
            answer: web.StreamResponse = await handler(request)
            return answer
        finally:
            self.changed.set()

    async def register(self, request: web.Request) -> web.Response:
        self.said.append(("register", msgspec.json.decode(await request.read(), type=Register)))
        self.workers += 1
        return _answer(Registered(f"worker_{self.workers}", "local", self.pool, self.models, self.lease_s, self.heartbeat_s))

    async def heartbeat(self, request: web.Request) -> web.Response:
        message = msgspec.json.decode(await request.read(), type=Heartbeat)
        self.said.append(("heartbeat", message))
        stale = [held.chunk_id for held in message.leases if self._chunk(held.chunk_id).token != held.token]
        held = {lease.chunk_id for lease in message.leases}
        stop: dict[str, ReleaseReason] = {name: reason for name, reason in self.stop.items() if name in held}
        return _answer(HeartbeatAnswer(stale, stop, self.ceiling))

    async def bye(self, request: web.Request) -> web.Response:
        self.said.append(("bye", msgspec.json.decode(await request.read(), type=Bye)))
        return _answer(None)

    async def claim(self, request: web.Request) -> web.Response:
        message = msgspec.json.decode(await request.read(), type=Claim)
        self.said.append(("claim", message))
        waiting = [chunk for chunk in self.chunks if chunk.state == "waiting" and chunk.id not in self.stop]
        ready = [chunk for chunk in waiting if chunk.model in message.ready_models][: message.max_chunks]
        prepare = waiting[0].model if waiting and not ready else None
        ceiling = self.ceiling if ready and message.sharing else None
        return _answer(Claimed([self._lease(chunk) for chunk in ready], prepare, None, 0.05, ceiling=ceiling))

    async def input(self, request: web.Request) -> web.Response:
        chunk = self._chunk(request.match_info["id"])
        if int(request.query["token"]) != chunk.token:
            return _error(409, "stale_lease")
        await self.input_open.wait()
        return web.Response(body=b"\n".join(chunk.data) + b"\n")

    async def write(self, request: web.Request) -> web.Response:
        chunk, verb = self._chunk(request.match_info["id"]), request.match_info["verb"]
        kinds: dict[str, Any] = {"results": Results, "finish": Finish, "release": Release, "fail": Fail}
        message: Any = msgspec.json.decode(await request.read(), type=kinds[verb])
        if message.token != chunk.token or chunk.state != "leased":
            self.said.append(("stale", message))
            return _error(409, "stale_lease")
        self.said.append((verb, message))
        chunk.meters.append(message.meter)
        if verb == "results":
            new = [result for result in message.results if result.line not in chunk.results]
            chunk.results |= {result.line: result for result in new}
            return _answer(Acknowledged(len(new), len(message.results) - len(new)))
        if verb == "finish" and set(chunk.results) != set(chunk.lines):
            return _error(400, "invalid_request")
        if verb == "fail":
            suspects = in_flight_at_death(message.suspects, message.erring)
            before = in_flight_at_death(chunk.suspects, chunk.erring)
            chunk.attempt += not ((suspects and set(suspects) < set(before)) or message.set_aside)
            chunk.suspects, chunk.erring = message.suspects, message.erring
        chunk.state = "finished" if verb == "finish" else "given up" if chunk.attempt >= self.most_attempts else "waiting"
        return _answer(None)

    def steal(self, chunk: Chunk) -> None:
        """Give the lease to somebody else, as after a missed heartbeat."""
        chunk.token += 1

    def _chunk(self, chunk_id: str) -> Chunk:
        return next(chunk for chunk in self.chunks if chunk.id == chunk_id)

    def _lease(self, chunk: Chunk) -> Lease:
        chunk.token += 1
        chunk.state = "leased"
        return Lease(
            chunk.id, "batch_1", chunk.token, chunk.endpoint, chunk.model, chunk.first_line, len(chunk.data),
            sorted(chunk.results), chunk.suspects, chunk.attempt + 1, rename=chunk.rename,
            erring=chunk.erring, traceparent=self.traceparent,
        )  # fmt: skip


def as_line(custom_id: str, prompt: str, model: str = "tiny", endpoint: str = "/v1/chat/completions", **fields: Any) -> bytes:
    """A line of a batch file."""
    prompts: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": prompt}]},
        "/v1/completions": {"prompt": prompt},
        "/v1/embeddings": {"input": prompt},
        "/v1/responses": {"input": prompt},
    }
    body = {"model": model, **prompts[endpoint], **fields}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": endpoint, "body": body}).encode()


def _answer(message: msgspec.Struct | None) -> web.Response:
    return web.Response(body=msgspec.json.encode(message), content_type="application/json")


def _error(status: int, code: str) -> web.Response:
    return web.json_response({"error": {"message": code, "code": code, "type": "error", "param": None}}, status=status)
