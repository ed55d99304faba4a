"""The lines of the output and error files, as a worker makes them of what an engine answered."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from batchsched.clock import IdSource
from batchsched.executors.answers import Answer, as_line, as_object
from batchsched.executors.cuts import cut_of
from batchsched.executors.engine import Engine
from batchsched.executors.identity import Identity
from batchsched.executors.work import Line
from batchsched.lines import LineError, answered, unanswered
from batchsched.wire import Result


class Reply(NamedTuple):
    """What came back over HTTP: `status` is 0 where no whole answer came; `body` then says why, `error` in a word.

    `took_s`: how long engines had it; 0 where none was asked.
    """

    status: int
    body: bytes
    request_id: str
    error: str = ""
    took_s: float = 0.0


class Outputs:
    """Makes results, each with an id of its own, and with what the engine is under our own key."""

    def __init__(self, ids: IdSource, engine: Engine) -> None:
        self._ids, self._engine = ids, engine
        self._of: Identity | None = None
        self._ours = msgspec.Raw()

    def answered(self, line: Line, endpoint: str, reply: Reply, answer: Answer) -> Result:
        """The engine did what was asked, or as much of it as its context held."""
        read, cached, written = answer.tokens
        body, context = as_line(reply.body), self._engine.context
        cut = cut_of(endpoint, line.request.body, body, read, written, context) if context else None
        ours = msgspec.Raw(msgspec.json.encode({"engine": self._engine.identity, "cut": cut})) if cut else self._mark()
        request_id = reply.request_id or answer.id or ""
        output = answered(self._new(), line.request.custom_id, reply.status, request_id, body, ours)
        return Result(line.number, True, read, cached, written, msgspec.Raw(output), cut is not None)

    def refused(self, line: Line, reply: Reply) -> Result:
        """The engine's own words stand in the error file."""
        line_id, custom_id = self._new(), line.request.custom_id
        body = as_object(reply.status, reply.body)
        return _failed(line.number, answered(line_id, custom_id, reply.status, reply.request_id or line_id, body, self._mark()))

    def unanswered(self, line: Line, code: str, message: str) -> Result:
        """The engine said nothing of use."""
        return _failed(line.number, unanswered(self._new(), line.request.custom_id, code, message, self._mark()))

    def unread(self, number: int, error: LineError) -> Result:
        """The line was no request, so no engine was asked."""
        return _failed(number, unanswered(self._new(), "", error.code, error.message))

    def _new(self) -> str:
        return self._ids.new("batch_req")

    def _mark(self) -> msgspec.Raw:
        """Made once an engine, not once a line."""
        if self._of is not self._engine.identity:
            self._of = self._engine.identity
            self._ours = msgspec.Raw(msgspec.json.encode({"engine": self._of}))
        return self._ours


def _failed(number: int, output: bytes) -> Result:
    return Result(number, False, 0, 0, 0, msgspec.Raw(output))
