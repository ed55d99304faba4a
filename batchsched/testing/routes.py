"""The routes of a fake server: a request in, an answer out."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from email.message import Message
from typing import Any, TypeVar

import msgspec

from batchsched.errors import (
    BatchschedError,
    InvalidRequest,
    MissingParameter,
    NotFound,
    Unauthorized,
)
from batchsched.server.options import Change, Retry, expires_after_s, form_of
from batchsched.testing.books import Books
from batchsched.testing.held import TERMINAL, HeldBatch
from batchsched.wire import CURSOR_HEADER, PREFIX, STATUS_HEADER

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
T = TypeVar("T")


class Ask(msgspec.Struct, frozen=True):
    """A request as it came. Names of headers are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Reply(msgspec.Struct, frozen=True):
    """An answer."""

    status: int
    body: bytes
    headers: dict[str, str] = {}


def failed(problem: BatchschedError, headers: Mapping[str, str] | None = None) -> Reply:
    """An error in OpenAI's shape, with our hint beside it."""
    error = {
        "message": problem.message, "type": problem.type, "param": problem.param, "code": problem.code, "hint": problem.hint,
    }  # fmt: skip
    return Reply(problem.http_status, msgspec.json.encode({"error": error}), dict(headers or {}))


class Routes:
    """What is served. Not for several threads at once: whoever calls holds a lock."""

    def __init__(self, books: Books, api_key: str) -> None:
        """`api_key`: "" asks for none."""
        self._books, self._api_key = books, api_key
        batch = rf"{PREFIX}/batches/([^/]+)"
        self._table: list[tuple[str, str, Callable[..., Any]]] = [
            ("POST", "/v1/files", self._upload),
            ("GET", "/v1/files", self._list_files),
            ("GET", "/v1/files/([^/]+)", lambda _, file_id: books.file(file_id).plain()),
            ("DELETE", "/v1/files/([^/]+)", self._delete_file),
            ("GET", "/v1/files/([^/]+)/content", self._content),
            ("POST", "/v1/batches", self._create),
            ("GET", "/v1/batches", self._list_batches),
            ("GET", "/v1/batches/([^/]+)", lambda _, batch_id: books.batch(batch_id).plain()),
            ("POST", "/v1/batches/([^/]+)/cancel", lambda _, batch_id: books.cancel(batch_id).plain()),
            ("GET", "/v1/models", lambda _: {"object": "list", "data": [_model(name) for name in books.models]}),
            ("GET", "/v1/models/(.+)", self._one_model),
            ("GET", f"{batch}/results", self._results),
            ("POST", batch, lambda ask, batch_id: books.change(batch_id, form_of(Change, _json(ask))).plain()),
            ("POST", f"{batch}/pause", lambda _, batch_id: books.pause(batch_id, True).plain()),
            ("POST", f"{batch}/resume", lambda _, batch_id: books.pause(batch_id, False).plain()),
            ("POST", f"{batch}/start", lambda _, batch_id: books.start(batch_id).plain()),
            ("POST", f"{batch}/retry", lambda ask, batch_id: books.retry(batch_id, form_of(Retry, _json(ask))).plain()),
            ("DELETE", batch, self._erase),
            ("GET", f"{batch}/explain", self._explain),
            ("GET", f"{batch}/report", self._report),
        ]

    def answer(self, ask: Ask) -> Reply:
        """What the server says; errors in OpenAI's shape."""
        try:
            self._check_key(ask)
            self._books.settle()
            for method, pattern, route in self._table:
                if method == ask.method and (found := re.fullmatch(pattern, ask.path)):
                    with self._books.tried(dry_run=ask.query.get("dry_run") == "true"):
                        said = route(ask, *found.groups())
                    return said if isinstance(said, Reply) else Reply(200, msgspec.json.encode(said))
            raise NotFound(
                f"Unknown request URL: {ask.method} {ask.path}.",
                hint="This is batchsched.testing's fake server: it has files, batches and models, but no plans and no forecasts.",
            )
        except BatchschedError as problem:
            return failed(problem)

    def _check_key(self, ask: Ask) -> None:
        key = ask.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if self._api_key and not hmac.compare_digest(key.encode(), self._api_key.encode()):
            raise Unauthorized("Incorrect API key provided." if key else "No API key provided.")

    def _upload(self, ask: Ask) -> dict[str, Any]:
        fields, file = _form(ask)
        if file is None:
            raise MissingParameter("Missing required parameter: 'file'.", param="file")
        purpose = fields.get("purpose")
        if purpose is None:
            raise MissingParameter("Missing required parameter: 'purpose'.", param="purpose")
        if purpose not in PURPOSES:
            raise InvalidRequest(f"'purpose' must be one of {', '.join(PURPOSES)}.", param="purpose")
        anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
        life_s = None
        if anchor or seconds:
            life_s = expires_after_s({"anchor": anchor, "seconds": seconds}, "expires_after")
        name, data = file
        return self._books.keep(data, name[:255], purpose, life_s).plain()

    def _list_files(self, ask: Ask) -> dict[str, Any]:
        order = ask.query.get("order", "desc")
        if order not in {"asc", "desc"}:
            raise InvalidRequest("'order' must be 'asc' or 'desc'.", param="order")
        purpose = ask.query.get("purpose")
        kept = [held for held in self._books.files.values() if purpose in {None, held.purpose}]
        return _page(ask, kept if order == "asc" else kept[::-1], 10_000, 10_000, self._books.file)

    def _list_batches(self, ask: Ask) -> dict[str, Any]:
        return _page(ask, [*self._books.batches.values()][::-1], 20, 100, self._books.batch)

    def _delete_file(self, _: Ask, file_id: str) -> dict[str, Any]:
        self._books.delete_file(file_id)
        return {"id": file_id, "object": "file", "deleted": True}

    def _content(self, _: Ask, file_id: str) -> Reply:
        return Reply(200, self._books.file(file_id).data, {"content-type": "application/octet-stream"})

    def _create(self, ask: Ask) -> dict[str, Any]:
        return self._books.create(_json(ask), ask.headers.get("idempotency-key")).plain()

    def _one_model(self, _: Ask, name: str) -> dict[str, Any]:
        if name not in self._books.models:
            raise NotFound(f"The model '{name}' does not exist.", param="model")
        return _model(name)

    def _results(self, ask: Ask, batch_id: str) -> Reply:
        """The cursor counts the lines that were told; without one, an ended batch's answers come before its errors."""
        held, told = self._books.batch(batch_id), ask.query.get("cursor", "")
        if told and not told.isdecimal():
            raise InvalidRequest("'cursor' is not one that this server gave; leave it out to begin anew.", param="cursor")
        for file_id in (held.output_file_id, held.error_file_id):
            if file_id:
                self._books.file(file_id)
        headers = {CURSOR_HEADER: str(len(held.done)), STATUS_HEADER: held.status, "content-type": "application/jsonl"}
        return Reply(200, b"".join(line + b"\n" for line in _lines(held, int(told or 0))), headers)

    def _erase(self, _: Ask, batch_id: str) -> dict[str, Any]:
        self._books.erase(batch_id)
        return {"id": batch_id, "object": "batch", "deleted": True}

    def _explain(self, _: Ask, batch_id: str) -> dict[str, Any]:
        held = self._books.batch(batch_id)
        return {"batch_id": held.id, "sentences": ["A fake server answers at once, or when the test tells it to."]}

    def _report(self, _: Ask, batch_id: str) -> dict[str, Any]:
        held = self._books.batch(batch_id)
        return {"batch_id": held.id, "requests": len(held.done), "notes": ["A fake server measures nothing."]}


def _lines(held: HeldBatch, told: int) -> list[bytes]:
    lines = [*held.done.values()][told:]
    if held.status in TERMINAL:
        lines.sort(key=lambda line: not line.ok)
    return [line.data for line in lines]


def _page(ask: Ask, newest_first: Sequence[Any], default: int, most: int, known: Callable[[str], Any]) -> dict[str, Any]:
    """A page of them. `known`: raises NotFound for an id that is none. Raises InvalidRequest."""
    limit, after = ask.query.get("limit", str(default)), ask.query.get("after")
    if not limit.isdecimal() or not 1 <= int(limit) <= most:
        raise InvalidRequest(f"'limit' must be a number from 1 to {most}.", param="limit")
    if after:
        known(after)
        place = next((number for number, held in enumerate(newest_first) if held.id == after), len(newest_first))
        newest_first = newest_first[place + 1 :]
    data = [held.plain() for held in newest_first[: int(limit)]]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(newest_first) > int(limit),
    }


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "batchsched"}


def _json(ask: Ask) -> Any:
    try:
        return msgspec.json.decode(ask.body or b"null")
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise InvalidRequest(f"The request body is not valid JSON: {problem}.") from None


def _form(ask: Ask) -> tuple[dict[str, str], tuple[str, bytes] | None]:
    """The fields of a multipart body, and its file's name and bytes. Raises InvalidRequest."""
    boundary = _header("content-type", ask.headers.get("content-type", "")).get_param("boundary")
    if not isinstance(boundary, str) or not ask.headers["content-type"].startswith("multipart/form-data"):
        raise InvalidRequest("Send the file as multipart/form-data, the file itself in a part named 'file'.")
    first, *parts = (b"\r\n" + ask.body).split(b"\r\n--" + boundary.encode())
    if first or not parts or not parts[-1].startswith(b"--"):
        raise InvalidRequest("The upload ended too early; nothing was kept. Send it again.")
    fields, file = dict[str, str](), None
    for part in parts[:-1]:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        stated = re.search(rb"^content-disposition:(.*)$", head, re.IGNORECASE | re.MULTILINE)
        disposition = _header("content-disposition", stated[1].decode("utf-8", "replace").strip() if stated else "")
        name = str(disposition.get_param("name", "", header="content-disposition"))
        if name == "file":
            file = (disposition.get_filename("upload.jsonl"), content)
        else:
            fields[name] = content.decode("utf-8", "replace")
    return fields, file


def _header(name: str, value: str) -> Message:
    """A header whose parameters can be asked for."""
    message = Message()
    message[name] = value
    return message
