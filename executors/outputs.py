"""The lines of the output and error files, as a worker makes them of what an engine answered."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from batchsched.clock import IdSource
from batchsched.executors.answers import Answer, as_line, as_object
from batchsched.executors.work import Line
from batchsched.lines import LineError, answered, unanswered
from batchsched.wire import Result


class Reply(NamedTuple):
    """What came back over HTTP: `status` is 0 where no whole answer came, and `body` then says why."""

    status: int
    body: bytes
    request_id: str


class Outputs:
    """Makes results, each with an id of its own."""

    def __init__(self, ids: IdSource) -> None:
        self._ids = ids

    def answered(self, line: Line, reply: Reply, answer: Answer) -> Result:
        """The engine did what was asked."""
        read, cached, written = answer.tokens
        request_id = reply.request_id or answer.id or ""
        output = answered(self._new(), line.request.custom_id, reply.status, request_id, as_line(reply.body))
        return Result(line.number, True, read, cached, written, msgspec.Raw(output))

    def refused(self, line: Line, reply: Reply) -> Result:
        """The engine's own words stand in the error file."""
        line_id = self._new()
        body = as_object(reply.status, reply.body)
        return _failed(line.number, answered(line_id, line.request.custom_id, reply.status, reply.request_id or line_id, body))

    def unanswered(self, line: Line, code: str, message: str) -> Result:
        """No engine said anything of use."""
        return _failed(line.number, unanswered(self._new(), line.request.custom_id, code, message))

    def unread(self, number: int, error: LineError) -> Result:
        """The line was no request, so no engine was asked."""
        return _failed(number, unanswered(self._new(), "", error.code, error.message))

    def _new(self) -> str:
        return self._ids.new("batch_req")


def _failed(number: int, output: bytes) -> Result:
    return Result(number, False, 0, 0, 0, msgspec.Raw(output))
