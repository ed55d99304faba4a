"""What a test has its server say: from a text, a vector or a whole body to a line of the output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from batchsched.errors import BatchschedError
from batchsched.lines import CHAT, EMBEDDINGS, RESPONSES, Request, answered


class Asked(msgspec.Struct, frozen=True):
    """One request. `body` is as it stands in the file."""

    custom_id: str
    endpoint: str
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        """Its text: of a chat, the last message's."""
        return _text(next((self.body[name] for name in ("messages", "prompt", "input") if name in self.body), ""))


class Refusal(msgspec.Struct, frozen=True):
    """What an engine answers to a request that it does not take."""

    message: str
    status: int = 400
    code: str = "invalid_request"


Said = str | Sequence[float] | Mapping[str, Any] | Refusal
"""A text; a vector, for embeddings; a whole body; or a refusal."""
Answering = Callable[[Asked], Said]


class Line(msgspec.Struct, frozen=True):
    """A finished request: its line of the output, and its tokens (input, cached, output)."""

    ok: bool
    data: bytes
    tokens: tuple[int, int, int] = (0, 0, 0)


def echo(asked: Asked) -> Said:
    """Says what it was asked; embeddings get the same vector always."""
    return [0.0, 1.0] if asked.endpoint == EMBEDDINGS else asked.prompt


def line_of(request: Request, line_id: str, model: str, answering: Answering) -> Line:
    """What becomes of a request. Whatever the test's function raises is the engine's refusal, told with its message."""
    asked = Asked(request.custom_id, request.url, msgspec.json.decode(request.body))
    try:
        said = answering(asked)
    except BatchschedError as problem:
        said = Refusal(problem.message, problem.http_status, problem.code)
    except Exception as problem:
        said = Refusal(f"{type(problem).__name__}: {problem}", 500, "internal_error")
    if isinstance(said, Refusal):
        error = {"error": {"message": said.message, "type": "invalid_request_error", "param": None, "code": said.code}}
        return Line(False, answered(line_id, asked.custom_id, said.status, f"req_{line_id}", msgspec.json.encode(error)))
    body = dict(said) if isinstance(said, Mapping) else _body(asked, said, model)
    data = answered(line_id, asked.custom_id, 200, f"req_{line_id}", msgspec.json.encode(body))
    return Line(True, data, _tokens(body.get("usage") or {}))


def _body(asked: Asked, said: str | Sequence[float], model: str) -> dict[str, Any]:
    """A text or vector in the form of its endpoint; every word counts as one token."""
    words_in, words_out = len(asked.prompt.split()), len(said.split()) if isinstance(said, str) else 0
    usage = {"prompt_tokens": words_in, "completion_tokens": words_out, "total_tokens": words_in + words_out}
    if not isinstance(said, str):
        data = [{"object": "embedding", "index": 0, "embedding": list(said)}]
        return {"object": "list", "model": model, "data": data, "usage": {"prompt_tokens": words_in, "total_tokens": words_in}}
    whole = {"id": f"fake-{asked.custom_id}", "created": 0, "model": model}
    if asked.endpoint == RESPONSES:
        content = [{"type": "output_text", "text": said, "annotations": []}]
        output = [{"type": "message", "role": "assistant", "status": "completed", "content": content}]
        counts = {"input_tokens": words_in, "output_tokens": words_out, "total_tokens": words_in + words_out}
        return {**whole, "object": "response", "status": "completed", "output": output, "usage": counts}
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
    if asked.endpoint == CHAT:
        choice["message"] = {"role": "assistant", "content": said}
        return {**whole, "object": "chat.completion", "choices": [choice], "usage": usage}
    return {**whole, "object": "text_completion", "choices": [{**choice, "text": said}], "usage": usage}


def _tokens(usage: Mapping[str, Any]) -> tuple[int, int, int]:
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    given = usage.get("prompt_tokens", usage.get("input_tokens", 0))
    return given, details.get("cached_tokens", 0), usage.get("completion_tokens", usage.get("output_tokens", 0))


def _text(content: Any) -> str:
    """Of a prompt, of messages, of the parts of a message."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        return ""
    if isinstance(content[-1], Mapping) and "content" in content[-1]:
        return _text(content[-1]["content"])
    return " ".join(part if isinstance(part, str) else str(part.get("text", "")) for part in content if not isinstance(part, int))
