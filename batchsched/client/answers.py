"""What came of requests: a line of the output as it stands there, and the same as an answer in the order of the requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from tempfile import SpooledTemporaryFile
from typing import IO, Any

import msgspec

from batchsched.client.results import Batch
from batchsched.errors import InvalidInputFile, InvalidRequest, RequestFailed, ServerError

PREFIX = "request-"
"""Before the number of a request, in the custom_ids that we give."""
HELD_BYTES = 16 << 20
"""Answers that came too early are held in memory up to so many bytes, and on disk beyond."""


class OutputLine(msgspec.Struct, frozen=True):
    """One request's result. `response` has status_code, request_id and body; `error` is for what never had an answer."""

    id: str
    custom_id: str
    response: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    @property
    def ok(self) -> bool:
        """Was the request answered as asked?"""
        return self.error is None and self.response is not None and self.response.get("status_code") == 200

    @property
    def body(self) -> dict[str, Any] | None:
        """The engine's answer, an error body included."""
        return self.response.get("body") if self.response else None

    @property
    def text(self) -> str | None:
        """The text of an answer, of its first choice where there are several; None for anything else."""
        return _text(self.body or {}) if self.ok else None

    @property
    def embedding(self) -> list[float] | None:
        """The first vector of an embeddings answer; None for anything else."""
        data: list[dict[str, Any]] = (self.body or {}).get("data") or []
        vector: list[float] | None = data[0].get("embedding") if self.ok and data else None
        return vector

    @property
    def failure(self) -> Failure | None:
        """Why there is no answer; None where there is one."""
        if self.ok:
            return None
        status = (self.response or {}).get("status_code")
        told: Any = self.error or (self.body or {}).get("error") or self.body or {}
        if not isinstance(told, Mapping):
            told = {"message": told}
        code = told.get("code") or told.get("type") or status or "unknown"
        return Failure(str(code), str(told.get("message") or "No reason was given."), status)

    def record(self) -> dict[str, Any]:
        """As a row of a table."""
        body, failure = self.body or {}, self.failure
        usage, choices = body.get("usage") or {}, body.get("choices") or [{}]
        row = {
            "custom_id": self.custom_id,
            "text": self.text,
            "error_code": failure.code if failure else None,
            "error_message": failure.message if failure else None,
            "status_code": (self.response or {}).get("status_code"),
            "finish_reason": choices[0].get("finish_reason"),
            "input_tokens": usage.get("prompt_tokens", usage.get("input_tokens")),
            "output_tokens": usage.get("completion_tokens", usage.get("output_tokens")),
            "model": body.get("model"),
        }
        return row if self.embedding is None else {**row, "embedding": self.embedding}


class Failure(msgspec.Struct, frozen=True):
    """Why a request has no answer. `status_code`: the engine's; None where it never said anything (expired, cancelled)."""

    code: str
    message: str
    status_code: int | None = None


class Answer(msgspec.Struct, frozen=True):
    """What came of request number `index`, counted from 0. Where it was not answered, `error` says why.

    `text`: of a chat, a completion (the first choice's) or a response; None where the model wrote none, as in a tool call.
    `body`: the engine's whole answer, also where it is an error. `line`: as it stands in the batch's output.
    """

    index: int
    text: str | None
    error: Failure | None
    body: dict[str, Any] | None
    line: OutputLine

    @property
    def ok(self) -> bool:
        """Was the request answered?"""
        return self.error is None

    @property
    def embedding(self) -> list[float] | None:
        """The vector of an embeddings answer."""
        return self.line.embedding

    def require(self) -> Answer:
        """This answer, if it is one. Raises RequestFailed."""
        if self.error:
            raise RequestFailed(f"Request {self.index} has no answer: {self.error.message} ({self.error.code}).")
        return self

    def record(self) -> dict[str, Any]:
        """As a row of a table."""
        return {"index": self.index, **self.line.record()}


def answer(line: OutputLine) -> Answer:
    """Raises InvalidRequest for the line of a request that `run` did not number."""
    number = line.custom_id.removeprefix(PREFIX)
    if number == line.custom_id or not number.isdecimal():
        raise InvalidRequest(
            f"The request '{line.custom_id}' has no number, so that its place is not known.",
            hint="Only batches of `run` and `map` have answers in order; of others read `batches.results`.",
        )
    return Answer(int(number), line.text, line.failure, line.body, line)


class InOrder:
    """Puts answers into the order of their requests. What came too early is held meanwhile, on disk where it is much."""

    def __init__(self) -> None:
        self.count = 0
        """How many were given out."""
        self._held: dict[int, tuple[int, int]] = {}
        self._file: IO[bytes] = SpooledTemporaryFile(HELD_BYTES)  # noqa: SIM115 - closed below
        self._end = 0

    def add(self, line: OutputLine) -> Iterator[Answer]:
        """The answers whose turn it is now."""
        found = answer(line)
        if found.index == self.count:
            self.count += 1
            yield found
            yield from self._due()
        elif found.index > self.count:
            encoded = msgspec.json.encode(line)
            self._file.seek(self._end)
            self._file.write(encoded)
            self._held[found.index] = (self._end, len(encoded))
            self._end += len(encoded)

    def _due(self) -> Iterator[Answer]:
        while place := self._held.pop(self.count, None):
            self._file.seek(place[0])
            self.count += 1
            yield answer(msgspec.json.decode(self._file.read(place[1]), type=OutputLine))
        if not self._held:
            self._file.seek(0)
            self._file.truncate()
            self._end = 0

    def end(self, batch: Batch) -> None:
        """Nothing more comes of this batch. Raises InvalidInputFile where it was refused, RequestFailed where it ended before its
        requests were looked at, ServerError where answers lack."""
        if batch.status == "failed":
            raise refused(batch)
        if not batch.request_counts.total:
            raise RequestFailed(f"Batch {batch.id} was {batch.status} before its requests were looked at; none has an answer.")
        if self._held or self.count < batch.request_counts.total:
            raise ServerError(f"Batch {batch.id} is {batch.status}, but request {self.count} has neither an answer nor an error.")

    def close(self) -> None:
        """Let go of what was held."""
        self._file.close()


def refused(batch: Batch) -> InvalidInputFile:
    """Why a batch failed before anything of it ran."""
    errors = batch.errors.data if batch.errors else ()
    if not errors:
        return InvalidInputFile(f"Batch {batch.id} was refused.")
    first = errors[0]
    where = "" if first.line is None else f"request {first.line - 1}: "
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return InvalidInputFile(f"Batch {batch.id} was refused: {where}{first.message}{more}", param=first.param)


def _text(body: Mapping[str, Any]) -> str | None:
    """Of a chat, a plain completion or a response."""
    text: str | None = None
    if choices := body.get("choices"):
        text = choices[0]["message"].get("content") if "message" in choices[0] else choices[0].get("text")
    elif isinstance(output := body.get("output"), list):
        parts = [part for item in output if item.get("type") == "message" for part in item.get("content") or ()]
        text = "".join(part.get("text", "") for part in parts if part.get("type") == "output_text") if parts else None
    return text
