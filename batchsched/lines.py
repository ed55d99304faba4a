"""The batch line formats of OpenAI's contract: reading, checking, cutting and writing them.

An input line is `{custom_id, method, url, body}`; an output line is `{id, custom_id, response, error}`. Nothing here touches a
disk or a socket: callers hand in the bytes of one line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
MAX_LINE_BYTES = 1_048_576
MAX_CUSTOM_ID_CHARS = 512
_REQUIRED_BODY = {"/v1/chat/completions": "messages", "/v1/completions": "prompt", "/v1/embeddings": "input"}


class LineError(msgspec.Struct, frozen=True):
    """What is wrong with one input line; `line` is 1-based, None where the whole file is meant."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Request(msgspec.Struct, frozen=True):
    """One input line whose form is sound. `body` stays as the bytes that were sent."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class Body(msgspec.Struct, frozen=True):
    """The fields of a request's body that the scheduler itself looks at."""

    model: Any = msgspec.UNSET
    stream: Any = None
    messages: Any = msgspec.UNSET
    prompt: Any = msgspec.UNSET
    input: Any = msgspec.UNSET
    max_tokens: Any = None
    max_completion_tokens: Any = None


class _Form(msgspec.Struct, frozen=True):
    custom_id: Any = msgspec.UNSET
    method: Any = msgspec.UNSET
    url: Any = msgspec.UNSET
    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_form_decoder = msgspec.json.Decoder(_Form)
_body_decoder = msgspec.json.Decoder(Body)
_any_decoder = msgspec.json.Decoder()


def parse(line: bytes, number: int) -> Request | LineError:
    """The request on line `number` (1-based), or what is wrong with its form."""
    if len(line) > MAX_LINE_BYTES:
        return LineError("line_too_long", f"The line has {len(line)} bytes; {MAX_LINE_BYTES} are allowed.", number)
    try:
        form = _form_decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        return _not_an_object(line, number, problem)
    for param in ("custom_id", "method", "url", "body"):
        if getattr(form, param) is msgspec.UNSET:
            return LineError("missing_required_parameter", f"Missing required parameter: '{param}'.", number, param)
    return _typed(form, number)


def _typed(form: _Form, number: int) -> Request | LineError:
    for param in ("custom_id", "method", "url"):
        if not isinstance(getattr(form, param), str):
            return LineError("invalid_type", f"'{param}' must be a string.", number, param)
    if not 0 < len(form.custom_id) <= MAX_CUSTOM_ID_CHARS:
        text = f"'custom_id' must have 1 to {MAX_CUSTOM_ID_CHARS} characters."
        return LineError("invalid_value", text, number, "custom_id")
    raw = form.body
    if isinstance(raw, msgspec.UnsetType) or bytes(raw).lstrip()[:1] != b"{":
        return LineError("invalid_type", "'body' must be a JSON object.", number, "body")
    return Request(form.custom_id, form.method, form.url, raw)


def _not_an_object(line: bytes, number: int, problem: Exception) -> LineError:
    text = "The line is not a JSON object."
    try:
        _any_decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = f"The line is not valid JSON: {problem}."
    return LineError("invalid_json_line", text, number)


def check(request: Request, number: int, endpoint: str) -> tuple[Body | None, LineError | None]:
    """Hold one request against its batch's endpoint: the decoded body, or what is wrong."""
    if request.method != "POST":
        return None, LineError("invalid_value", f"'method' must be POST, not '{request.method}'.", number, "method")
    if request.url != endpoint:
        text = f"The URL '{request.url}' does not match the batch's endpoint '{endpoint}'."
        return None, LineError("invalid_url", text, number, "url")
    try:
        body = _body_decoder.decode(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        return None, LineError("invalid_json_line", f"The body is not valid JSON: {problem}.", number, "body")
    return body, _check_body(body, number, endpoint)


def _check_body(body: Body, number: int, endpoint: str) -> LineError | None:
    if body.model is msgspec.UNSET or not isinstance(body.model, str) or not body.model:
        return LineError("invalid_request", "'body.model' is required and must be a string.", number, "body.model")
    needed = _REQUIRED_BODY[endpoint]
    if getattr(body, needed) is msgspec.UNSET:
        return LineError("invalid_request", f"'body.{needed}' is required.", number, f"body.{needed}")
    if body.stream:
        text = "Streaming is not supported in a batch; leave out 'stream'."
        return LineError("streaming_unsupported", text, number, "body.stream")
    return None


def max_tokens(body: Body) -> int | None:
    """The output limit that a request sets for itself, if it does."""
    limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    return limit if isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0 else None


class Checker:
    """Checks a file's lines one after the other, keeping what spans lines: custom_ids seen, the one model.

    `models`: the model names that may be served, with the longest context of each where it is known (a plain iterable of names
    knows none); None lets any pass. At most `max_errors` errors are kept; `error_count` counts all of them.
    """

    def __init__(
        self, endpoint: str | None, models: Mapping[str, int | None] | Iterable[str] | None = None, max_errors: int = 100
    ) -> None:
        self.endpoint = endpoint
        self.models = None if models is None else dict(models) if isinstance(models, Mapping) else dict.fromkeys(models)
        self.model: str | None = None
        self.errors: list[LineError] = []
        self.error_count = 0
        self.lines = 0
        self._max_errors = max_errors
        # Python's own 64-bit string hash, seeded a process: two different ids of a million collide once in 40 million files.
        self._seen: set[int] = set()

    def feed(self, line: bytes, number: int) -> tuple[Request, Body | None] | None:
        """Check one line; what it holds, or None after noting what is wrong. Without an endpoint only the form is checked."""
        self.lines += 1
        request = parse(line, number)
        if isinstance(request, LineError):
            self._note(request)
            return None
        key = hash(request.custom_id)
        if key in self._seen:
            text = f"The custom_id '{request.custom_id}' was used on an earlier line."
            self._note(LineError("duplicate_custom_id", text, number, "custom_id"))
            return None
        self._seen.add(key)
        if self.endpoint is None:
            return request, None
        body, problem = check(request, number, self.endpoint)
        problem = problem or self._check_model(body, number)
        if problem:
            self._note(problem)
            return None
        return request, body

    def finish(self) -> None:
        """Note what only the end of the file shows."""
        if self.lines == 0:
            self._note(LineError("empty_file", "The input file has no requests."))

    def _check_model(self, body: Body | None, number: int) -> LineError | None:
        if body is None:
            return None
        if self.models is not None and body.model not in self.models:
            known = ", ".join(sorted(self.models)) or "none"
            text = f"The model '{body.model}' is not served here; served: {known}."
            return LineError("model_not_found", text, number, "body.model")
        if self.model is None:
            self.model = body.model
        elif body.model != self.model:
            text = f"The model '{body.model}' differs from '{self.model}' on earlier lines; a batch has one model."
            return LineError("model_mismatch", text, number, "body.model")
        longest, asked = (self.models or {}).get(body.model), max_tokens(body)
        if longest is not None and asked is not None and asked >= longest:
            text = f"'max_tokens' is {asked}, but prompt and answer together have at most {longest} tokens with '{body.model}'."
            return LineError("invalid_value", text, number, "body.max_tokens")
        return None

    def _note(self, error: LineError) -> None:
        self.error_count += 1
        if len(self.errors) < self._max_errors:
            self.errors.append(error)


class Line(NamedTuple):
    """One non-blank line of a file: its 1-based number as an editor shows it, its span in bytes (newline included), its bytes."""

    number: int
    start: int
    end: int
    data: bytes


def iter_lines(blocks: Iterable[bytes]) -> Iterator[Line]:
    """The non-blank lines in a stream of blocks of any size; a line's bytes come without the newline."""
    offset, number, rest = 0, 0, b""
    for block in blocks:
        pieces = (rest + block).split(b"\n")
        rest = pieces.pop()
        for piece in pieces:
            number += 1
            end = offset + len(piece) + 1
            if piece.strip():
                yield Line(number, offset, end, piece)
            offset = end
        if len(rest) > 4 * MAX_LINE_BYTES:  # somebody's endless line: hand it over once, to be refused, and keep memory bounded
            yield Line(number + 1, offset, offset + len(rest), rest)
            return
    if rest.strip():
        yield Line(number + 1, offset, offset + len(rest), rest)


class OutputLine(msgspec.Struct):
    """One line of an output or error file."""

    id: str
    custom_id: str
    response: dict[str, Any] | None
    error: dict[str, Any] | None


def answered(line_id: str, custom_id: str, status_code: int, request_id: str, body: bytes) -> bytes:
    """An output line for a request that an engine answered; `body` must be a JSON object, and goes in as it is."""
    response = {"status_code": status_code, "request_id": request_id, "body": msgspec.Raw(body)}
    return msgspec.json.encode({"id": line_id, "custom_id": custom_id, "response": response, "error": None})


def unanswered(line_id: str, custom_id: str, code: str, message: str) -> bytes:
    """An error line for a request that never had an HTTP answer (expired, cancelled, engine lost for good)."""
    return msgspec.json.encode(OutputLine(line_id, custom_id, None, {"code": code, "message": message}))
