"""A target engine's loop without an engine, a draft engine of arithmetic, and between them the real proposer and service."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock

import numpy as np
from aiohttp import web

from batchsched.executors.drafts import DraftService, serve_drafts
from batchsched.executors.in_engine.batchsched_drafts import ADDRESS, ALWAYS, KEY, governor
from batchsched.executors.in_engine.batchsched_drafts.proposer import Proposer
from tests.live import PATIENCE_S

VOCABULARY, LONGEST, ROWS = 97, 512, 16
T = TypeVar("T")
MADE: list[Proposer] = []


def follows(tokens: Sequence[int]) -> int:
    """What the target says next: of its last three tokens and its length."""
    return (31 * sum(tokens[-3:]) + 7 * len(tokens)) % VOCABULARY


class DraftEngine:
    """Speaks vLLM's /v1/completions with token ids. `wrong_every`: each so-manieth token of a sequence is another one."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        """Of each call the lengths of its prompts."""
        self.counts: list[int] = []
        """And how many tokens it asked for."""
        self.wrong_every = 0
        self.held = False
        """Until this is over, it answers nothing."""
        self.status = 200
        self.most_vocabulary = VOCABULARY
        self.keys: set[str] = set()

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/completions", self.complete)
        app.router.add_get("/v1/models", self.models)
        return app

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "small", "max_model_len": LONGEST}]})

    async def complete(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.keys.add(request.headers.get("authorization", ""))
        self.calls.append([len(prompt) for prompt in asked["prompt"]])
        self.counts.append(asked["max_tokens"])
        while self.held:
            await asyncio.sleep(0.005)
        if self.status != 200:
            return web.json_response({"error": "it fails"}, status=self.status)
        if any(token >= self.most_vocabulary for prompt in asked["prompt"] for token in prompt):
            return web.json_response({"error": "a token is out of vocabulary"}, status=400)
        choices = [
            {"index": index, "token_ids": self.further(prompt, asked["max_tokens"]), "text": ""}
            for index, prompt in enumerate(asked["prompt"])
        ]
        return web.json_response({"choices": choices})

    def further(self, prompt: list[int], count: int) -> list[int]:
        tokens = list(prompt)
        for _ in range(count):
            token = follows(tokens)
            wrong = self.wrong_every and len(tokens) % self.wrong_every == 0
            tokens.append((token + 1) % VOCABULARY if wrong else token)
        return tokens[len(prompt) :]


class Service:
    """The draft service and its engine, in a loop of their own thread; the target's loop waits in another, as it does in life."""

    def __init__(self, key: str = "", **options: Any) -> None:
        self.engine = DraftEngine()
        self.service: DraftService
        self.port = 0
        self._key, self._options = key, options
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._close: asyncio.Event
        self._task: Any = None

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    def settle(self) -> None:
        """Wait for what the service does beside its answers: prompts that are read, drafts that are thought on from."""

        async def beside() -> None:
            named = {getattr(task.get_coro(), "__name__", ""): task for task in asyncio.all_tasks()}
            await asyncio.gather(
                *(named[name] for name in ("_think_on", "_read_prompt") if name in named), return_exceptions=True
            )

        self.do(beside())

    def start(self) -> None:
        ready = threading.Event()
        self._task = asyncio.run_coroutine_threadsafe(self._serve(ready), self._loop)
        assert ready.wait(PATIENCE_S)

    def stop(self) -> None:
        """As a machine that goes away; `start` brings it back at the same port, with nothing known."""
        if self._task is not None:
            self._loop.call_soon_threadsafe(self._close.set)
            self._task.result(PATIENCE_S)
            self._task = None

    def end(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        self._close = asyncio.Event()
        runner = web.AppRunner(self.engine.app())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            async with serve_drafts(url, "small", port=self.port, key=self._key, **self._options) as self.service:
                self.port = self.service.port
                ready.set()
                await self._close.wait()
        finally:
            await runner.cleanup()


@contextmanager
def drafts(key: str = "", **options: Any) -> Generator[Service]:
    """A running draft service before a draft engine. Drafts that are always wanted are waited for, however busy the machine."""
    service = Service(key, **options)
    try:
        service.start()
        with mock.patch.object(governor, "LONGEST_WAIT_S", PATIENCE_S):
            yield service
    finally:
        service.end()


def proposer(
    port: int, tokens: int = 4, key: str = "", *, always: bool = True, clock: Callable[[], float] | None = None
) -> Proposer:
    """As vLLM would make it."""
    model = SimpleNamespace(max_model_len=LONGEST, get_vocab_size=lambda: VOCABULARY)
    config = SimpleNamespace(
        speculative_config=SimpleNamespace(num_speculative_tokens=tokens, draft_model_config=model),
        model_config=model,
        parallel_config=SimpleNamespace(rank=0),
        scheduler_config=SimpleNamespace(max_num_seqs=ROWS),
    )
    environment = {ADDRESS: f"127.0.0.1:{port}", KEY: key, ALWAYS: "1" if always else ""}
    made = Proposer(config, environment, **({"clock": clock} if clock else {}))
    MADE.append(made)
    return made


def let_go() -> None:
    """Close what was made: an engine's process just ends."""
    while MADE:
        link = MADE.pop().link
        if link._maker is not None:
            link._maker.join(PATIENCE_S)
        link.close()


class Request:
    """One sequence at the target; `waits`: steps that its prompt takes."""

    def __init__(self, prompt: list[int], count: int, waits: int = 1) -> None:
        self.tokens, self.prompt, self.count, self.waits = list(prompt), len(prompt), count, waits
        self.draft: list[int] = []

    @property
    def done(self) -> bool:
        return len(self.tokens) - self.prompt >= self.count

    def step(self) -> list[int]:
        """Verify the draft: every right token of it counts, and then one of the target's own."""
        if self.waits > 0:
            self.waits -= 1
            if self.waits:
                return []
        new: list[int] = []
        for thought in [*self.draft, -1]:
            said = follows(self.tokens)
            self.tokens.append(said)
            new.append(said)
            if said != thought or self.done:
                break
        self.draft = []
        return new


class Target:
    """vLLM's batch as its proposer sees it: rows that come, go, change places and are put off for a while."""

    def __init__(self, drafter: Proposer, seed: int = 0) -> None:
        self.rows: list[Request] = []
        self.waiting: list[Request] = []
        self.away: list[Request] = []
        self.finished: list[Request] = []
        self.steps = 0
        self._drafter, self._draw = drafter, random.Random(seed)

    def add(self, prompt: list[int], count: int = 40, waits: int = 1) -> Request:
        request = Request(prompt, count, waits)
        self.waiting.append(request)
        return request

    def run(self, until: Callable[[], bool] | None = None) -> None:
        """Until all is done, or `until` says so."""
        while (self.rows or self.waiting or self.away) and not (until and until()):
            self.step()

    def step(self) -> None:
        self._move()
        sampled = [row.step() for row in self.rows]
        table = np.zeros((ROWS, LONGEST + 8), np.int32)
        lengths = np.zeros(ROWS, np.int32)
        for index, row in enumerate(self.rows):
            table[index, : len(row.tokens)] = row.tokens
            table[index, len(row.tokens) : len(row.tokens) + 3] = 5  # what was drafted before stands there still
            lengths[index] = len(row.tokens)
        given = self._drafter.propose(sampled, lengths, table, slot_mappings=None)
        assert len(given) == len(self.rows)
        for row, draft in zip(self.rows, given, strict=True):
            row.draft = list(draft)
        self.steps += 1

    def _move(self) -> None:
        self.finished += [row for row in self.rows if row.done]
        self.rows = [row for row in self.rows if not row.done]
        if len(self.rows) > 2 and self._draw.random() < 0.1:
            gone = self.rows.pop(self._draw.randrange(len(self.rows)))
            gone.draft = []
            self.away.append(gone)
        if self.away and self._draw.random() < 0.3:
            self.waiting.append(self.away.pop(0))
        while self.waiting and len(self.rows) < ROWS:
            self.rows.append(self.waiting.pop(0))
        if self._draw.random() < 0.3:
            self._draw.shuffle(self.rows)


def expected(prompt: list[int], count: int) -> list[int]:
    """What the target says alone."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(follows(tokens))
    return tokens
