"""The draft service: it stands before a draft engine, keeps the sequences that targets tell it of, and answers what comes next.

A target's proposer connects and sends only what is new (frames: `in_engine/batchsched_drafts/frames.py`). All rows of a step are
drafted in one call of the engine, whose prefix cache holds what it read before. While the target verifies, the service thinks on
as if its draft were right (`ahead`), so that the next answer is there when it is. Drafts are token ids, never probabilities:
vLLM's interface takes none.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

import aiohttp

from batchsched.executors.drafts.drafter import Drafter
from batchsched.executors.drafts.sequence import Sequence
from batchsched.executors.in_engine.batchsched_drafts import frames

_GREETING_S = 10.0


class DraftService:
    """Any number of targets before one draft engine. `most`: tokens of a draft at most."""

    def __init__(self, drafter: Drafter, key: str = "", most: int = 16, ahead: bool = True) -> None:
        self.drafter, self.most, self.ahead = drafter, min(most, frames.MOST_DRAFTED), ahead
        self.targets = self.requests = self.drafted = self.in_time = self.received_bytes = self.sent_bytes = 0
        self._key = key
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[None]] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free one."""
        self._server = await asyncio.start_server(self._met, host, port)

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None, "start it first"
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Let all targets go on without drafts."""
        if self._server is not None:
            self._server.close()
        for talk in list(self._talks):
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    def passed(self) -> tuple[float, float]:
        """Bytes over its connections so far, both ways, and the tokens that were drafted in them."""
        return self.received_bytes + self.sent_bytes, self.drafted

    def counters(self) -> dict[str, float]:
        """What it did so far. `in_time`: drafts that were thought of before they were asked for."""
        return {
            "targets": self.targets,
            "requests": self.requests,
            "drafted": self.drafted,
            "in_time": self.in_time,
            "received_bytes": self.received_bytes,
            "sent_bytes": self.sent_bytes,
            "engine_calls": self.drafter.calls,
            "engine_tokens": self.drafter.tokens,
            "engine_failures": self.drafter.failures,
            "engine_s": round(self.drafter.call_s, 3),
        }

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        try:
            count = await self._greet(reader, writer)
            if count:
                self.targets += 1
                try:
                    await _Talk(self, reader, writer, count).run()
                finally:
                    self.targets -= 1
        except (OSError, ValueError, asyncio.IncompleteReadError, TimeoutError):
            pass  # it went away, or speaks something else
        except asyncio.CancelledError:
            if self._server is not None and self._server.is_serving():
                raise
        finally:
            self._talks.discard(task)
            writer.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        """How many tokens the target wants drafted; 0 where it does not know the key."""
        nonce = secrets.token_bytes(frames.NONCE_BYTES)
        writer.write(frames.MAGIC + nonce)
        async with asyncio.timeout(_GREETING_S):
            signature, count = frames.HELLO.unpack(await reader.readexactly(frames.HELLO.size))
        if not hmac.compare_digest(signature, frames.signed(self._key, nonce)) or not count:
            return 0
        writer.write(b"\x01")
        await writer.drain()
        return min(int(count), self.most)


class _Talk:
    """One connection: its sequences, the newest request, the thinking ahead. What a newer request overtakes gets no answer."""

    def __init__(self, service: DraftService, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: int) -> None:
        self._service, self._reader, self._writer, self._count = service, reader, writer, count
        self._sequences: dict[int, Sequence] = {}
        self._newest: tuple[int, list[int]] | None = None
        self._came = asyncio.Event()
        self._ahead: asyncio.Task[None] | None = None
        self._ahead_of: dict[int, int] = {}
        self._warming: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until the target goes away."""
        answering = asyncio.create_task(self._answer_all())
        reading = asyncio.create_task(self._read_all())
        try:
            await asyncio.wait({answering, reading}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks = [answering, reading, *self._warming, *([self._ahead] if self._ahead else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read_all(self) -> None:
        while True:
            (length,) = frames.LENGTH.unpack(await self._reader.readexactly(frames.LENGTH.size))
            if length > frames.MOST_PAYLOAD_BYTES:
                raise ValueError("a frame is too long")
            step, rows = frames.read_request(await self._reader.readexactly(length))
            self._service.requests += 1
            self._service.received_bytes += frames.LENGTH.size + length
            wanted = [row.sequence for row in rows if row.wanted]
            for row in rows:
                self._take(row)
            if wanted:
                self._newest = (step, wanted)
                self._came.set()

    def _take(self, row: frames.Row) -> None:
        sequence = self._sequences.get(row.sequence)
        if row.from_the_start:
            sequence = self._sequences[row.sequence] = Sequence()
        if sequence is not None:
            sequence.say(frames.unpacked(row.tokens))
            if self._service.drafter.cold(sequence):
                self._warm(sequence)

    def _warm(self, sequence: Sequence) -> None:
        """Let the engine read a long prompt, as far as it is here, while the target reads it too."""
        if not sequence.warming and not sequence.refused:
            sequence.warming = True
            task = asyncio.create_task(self._read_prompt(sequence))
            self._warming.add(task)
            task.add_done_callback(self._warming.discard)

    async def _read_prompt(self, sequence: Sequence) -> None:
        try:
            await self._service.drafter.continue_([sequence], 1)
        finally:
            sequence.warming = False

    async def _answer_all(self) -> None:
        while True:
            await self._came.wait()
            self._came.clear()
            assert self._newest is not None
            step, wanted = self._newest
            data = frames.answer(step, await self._drafts(wanted))
            if self._newest[0] != step:
                continue
            self._writer.write(data)
            self._service.sent_bytes += len(data)
            await self._writer.drain()
            if self._service.ahead and (self._ahead is None or self._ahead.done()):
                self._ahead = asyncio.create_task(self._think_on(wanted))

    async def _drafts(self, wanted: list[int]) -> list[list[int] | int]:
        """One engine call for all that lack a draft; what is being thought of already is waited for."""
        known = [self._sequences.get(number) for number in wanted]
        ready = [one for one in known if one is not None and not one.refused and not self._cold(one)]
        lacking = _lacking(ready)
        self._service.in_time += len(ready) - len(lacking)
        if lacking and self._ahead is not None and not self._ahead.done():
            await self._beside_ahead(self._ahead, lacking)
        if lacking := _lacking(ready):
            await self._service.drafter.continue_(lacking, self._count)
        drafts = [self._draft(one) for one in known]
        self._service.drafted += sum(len(draft) for draft in drafts if not isinstance(draft, int))
        return drafts

    async def _beside_ahead(self, ahead: asyncio.Task[None], lacking: list[Sequence]) -> None:
        """Those whose guess still holds wait for what is thought on from it; the others are asked of the engine at once."""
        others = [one for one in lacking if self._ahead_of.get(id(one)) != one.version]
        if len(others) == len(lacking):
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)
        else:
            asked = [self._service.drafter.continue_(others, self._count)] if others else []
            await asyncio.gather(asyncio.shield(ahead), *asked, return_exceptions=True)

    async def _think_on(self, wanted: list[int]) -> None:
        """Draft what would follow if the target took all, and one token more, as it does."""
        sequences = [one for number in wanted if (one := self._sequences.get(number)) and not self._cold(one)]
        sequences = [one for one in sequences if 0 < len(one.guess()) <= self._count]
        self._ahead_of = {id(one): one.version for one in sequences}
        if sequences:
            await self._service.drafter.continue_(sequences, self._count + 1)

    def _cold(self, sequence: Sequence) -> bool:
        return sequence.warming or self._service.drafter.cold(sequence)

    def _draft(self, sequence: Sequence | None) -> list[int] | int:
        if sequence is None:
            return frames.UNKNOWN
        if self._cold(sequence) and not sequence.refused:
            return frames.WARMING
        return sequence.guess()[: self._count]


def _lacking(sequences: Iterable[Sequence]) -> list[Sequence]:
    return [one for one in sequences if not one.guess()]


@contextlib.asynccontextmanager
async def serve_drafts(
    engine_url: str | Callable[[], str],
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    key: str = "",
    engine_key: str = "",
    **options: Any,
) -> AsyncGenerator[DraftService]:
    """A draft service before the engine at `engine_url`, which serves the draft model as `model`, for as long as it is needed.

    The URL may be asked for anew each time, and be empty, where the engine is started again now and then. `key`: what targets
    must know; `options`: `most` and `ahead` of DraftService.
    """
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        where = engine_url if callable(engine_url) else lambda: engine_url
        service = DraftService(Drafter(session, where, model, engine_key), key, **options)
        await service.start(host, port)
        try:
            yield service
        finally:
            await service.close()
