"""Ask the engine for one line until there is something to record: which answers are final, and which are asked for again."""

from __future__ import annotations

import asyncio
import time

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from batchsched.executors.answers import Verdict, judge
from batchsched.executors.dialect import Cannot
from batchsched.executors.engine import Engine
from batchsched.executors.outputs import Outputs, Reply
from batchsched.executors.patience import Patience
from batchsched.executors.split import Split
from batchsched.executors.trust import Trust
from batchsched.executors.vitals import Vitals
from batchsched.executors.work import Line, Work
from batchsched.lines import renamed
from batchsched.wire import Result

TRIES = 3
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
_CONNECT = aiohttp.ClientTimeout(total=None, sock_connect=10)
_HEADERS = {"content-type": "application/json"}


class Fenced(aiohttp.BytesPayload):
    """A body that goes out only while the leases are known to hold.

    That is asked once more here: between the decision and the socket lie a connection and turns of the event loop, and a process
    that sleeps there for long would send what somebody else has done meanwhile.
    """

    def __init__(self, body: bytes, trust: Trust) -> None:
        super().__init__(body, content_type=_HEADERS["content-type"])
        self._trust = trust
        self.withheld = False

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """As aiohttp's. Raises InterruptedError, which breaks the connection off."""
        if not self._trust.holds():
            self.withheld = True
            raise InterruptedError("The leases may be over.")
        await super().write_with_length(writer, content_length)


class Asking:
    """Of one engine. Where it is found dead, `vitals` hears of it."""

    def __init__(
        self,
        engine: Engine,
        session: aiohttp.ClientSession,
        outputs: Outputs,
        vitals: Vitals,
        trust: Trust,
        patience: Patience,
        priority: int | None = None,
    ) -> None:
        self.split: Split | None = None
        """Where another engine reads the prompts."""
        self._priority = priority
        self._engine, self._session, self._outputs, self._vitals, self._trust = engine, session, outputs, vitals, trust
        self._patience = patience

    async def result(self, work: Work, line: Line) -> Result | None:
        """What becomes of the line; None where that is not for now (engine dead, or to be tried alone later)."""
        pause_s = _FIRST_PAUSE_S
        while True:
            await self._trust.wait()
            line.asking, line.excused_s = True, 0.0
            reply = await self._ask(work, line)
            verdict, answer, status = judge(reply.status, reply.body)
            problem = "" if verdict is Verdict.OK else reply.error or str(status)
            work.reporter.told.asked(self._engine.url, reply.took_s, problem, answer)
            if verdict is Verdict.OK:
                self._patience.learn(time.monotonic() - line.began, answer.tokens[0], answer.tokens[2])
                return self._outputs.answered(line, work.lease.endpoint, reply, answer)
            reply = reply._replace(status=status)
            if verdict is Verdict.REFUSED:
                return self._outputs.refused(line, reply)
            if verdict is Verdict.WRONG_ENGINE:
                model = work.lease.model
                self._vitals.die(f"The engine refuses to serve '{model}' (status {reply.status}).", blame=False)
                return None
            line.turned_away = verdict is Verdict.OVERLOADED
            if line.turned_away and line.unwanted:
                return self._exhausted(work, line, reply)
            if not await self._vitals.well():
                self._vitals.die("The engine died.")
                return None
            line.asking = False
            if verdict is Verdict.TROUBLE:
                line.tries += 1
                if line.tries >= TRIES:
                    return self._exhausted(work, line, reply)
            # Spread by line number, so that lines that were turned away together do not come back together.
            await asyncio.sleep(pause_s * (0.75 + line.number % 16 / 32))
            pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)

    def retime(self, line: Line, shared_s: float = 0.0) -> None:
        """What was learned since it was sent may say that it has waited long enough, or soon will have. Of late others were at
        the engine for `shared_s` seconds, which say nothing against it."""
        if line.asking and line.wait and not line.wait.expired():
            age_s = time.monotonic() - line.began
            line.excused_s += min(shared_s, age_s)
            line.wait.reschedule(asyncio.get_running_loop().time() + self._limit_s(line) - age_s)

    def _limit_s(self, line: Line) -> float:
        return self._patience.limit_s(line.demand, self._engine.context, line.tries, line.excused_s)

    async def _ask(self, work: Work, line: Line) -> Reply:
        lease, body = work.lease, line.request.body
        data = renamed(body, lease.model) if lease.rename else bytes(body)
        if self._priority is not None:
            data = behind(data, self._priority)
        try:
            data = self._engine.dialect.asked(data)
        except Cannot as problem:
            return Reply(400, problem.body(), "")
        headers = {**_HEADERS, "traceparent": lease.traceparent} if lease.traceparent else _HEADERS
        began = time.monotonic()
        if self.split is not None:
            reply = await self._ask_both(self.split, work, line, data, headers)
        else:
            reply = await self._post(line, self._engine.url + lease.endpoint, data, headers)
        return reply._replace(took_s=time.monotonic() - began)

    async def _ask_both(self, split: Split, work: Work, line: Line, data: bytes, headers: dict[str, str]) -> Reply:
        """By way of another engine. Until ours has it, nothing that becomes of ours is the line's doing."""
        line.asking = False

        async def read(url: str, body: bytes) -> Reply:
            return await self._post(line, url, body, headers)

        async def answer(url: str, body: bytes) -> Reply:
            await self._trust.wait()
            line.asking = True
            return await self._post(line, url, body, headers)

        return await split.ask(line.demand, work.lease.endpoint, data, self._engine.url, read=read, answer=answer)

    async def _post(self, line: Line, url: str, data: bytes, headers: dict[str, str]) -> Reply:
        """What came back. What was withheld goes out once the leases are known to hold again."""
        asking = line.asking
        while (reply := await self._post_once(line, url, data, headers)) is None:
            line.asking = False
            await self._trust.wait()
            line.asking = asking
        return reply

    async def _post_once(self, line: Line, url: str, data: bytes, headers: dict[str, str]) -> Reply | None:
        """None where nothing was sent, for the leases may be over."""
        line.began, fenced = time.monotonic(), Fenced(data, self._trust)
        try:
            async with (
                asyncio.timeout(self._limit_s(line)) as line.wait,
                self._session.post(url, data=fenced, headers=headers, timeout=_CONNECT) as answer,
            ):
                return Reply(answer.status, await answer.read(), answer.headers.get("x-request-id", ""))
        except TimeoutError:
            return Reply(0, f"nothing within {time.monotonic() - line.began:.0f} s".encode(), "", "timeout")
        except (aiohttp.ClientError, OSError, ValueError) as problem:
            if fenced.withheld:
                return None
            return Reply(0, (str(problem) or type(problem).__name__).encode(), "", type(problem).__name__)
        finally:
            line.wait = None

    def _exhausted(self, work: Work, line: Line, reply: Reply) -> Result | None:
        """Tried often enough. Once more alone at the end, then in another attempt: the engine may be the one that is ill."""
        if not line.alone:
            line.alone, line.tries = True, TRIES - 1
            work.alone.append(line)
            return None
        if not line.erred:
            message = f"The engine did not answer line {line.number} (status {reply.status})."
            work.fail(message, erring=[each.number for each in (line, *work.alone)])
            return None
        if reply.status:
            return self._outputs.refused(line, reply)
        text = f"The engine gave no whole answer in {TRIES} tries ({reply.body.decode('utf-8', 'replace')[:200]})."
        return self._outputs.unanswered(line, "engine_error", text)


def behind(body: bytes, priority: int) -> bytes:
    """The request with that priority; of two in one object the last counts, so the requester's own does not."""
    return b'%s,"priority":%d}' % (body.rstrip()[:-1], priority)
