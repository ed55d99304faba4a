"""The messages of wire.py as bodies of requests and answers."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from fastapi import Request
from starlette.responses import Response

from batchsched.errors import InvalidRequest

Message = TypeVar("Message", bound=msgspec.Struct)


async def read(request: Request, kind: type[Message]) -> Message:
    """The message that a request brings. Raises InvalidRequest."""
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise InvalidRequest(f"This is not a {kind.__name__} message: {problem}.") from None


def answer(message: msgspec.Struct | dict[str, Any] | None = None) -> Response:
    """A good answer, by default an empty one."""
    content = msgspec.json.encode(message) if message is not None else b"{}"
    return Response(content, media_type="application/json")
