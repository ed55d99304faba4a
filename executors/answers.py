"""What an engine's answer means for the line that asked."""

from __future__ import annotations

from enum import Enum

import msgspec


class Verdict(Enum):
    """What to do with a line after an answer."""

    OK = "answered"
    REFUSED = "the line itself is at fault: record the answer, go on"
    OVERLOADED = "the engine takes nothing now, which says nothing about the line: wait, then ask again"
    TROUBLE = "the engine is at fault: ask again, a counted number of times"
    WRONG_ENGINE = "this engine does not serve us at all"


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    """Of any endpoint: /v1/responses has other names for the same."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None


class Answer(msgspec.Struct):
    """The fields of an ok answer that matter here; everything else passes through as bytes."""

    id: str | None = None
    usage: _Usage | None = None

    @property
    def tokens(self) -> tuple[int, int, int]:
        """Tokens read, of those cached, and written."""
        usage = self.usage or _Usage()
        details = usage.prompt_tokens_details or usage.input_tokens_details or _Details()
        read, written = usage.prompt_tokens or usage.input_tokens, usage.completion_tokens or usage.output_tokens
        return read or 0, details.cached_tokens or 0, written or 0


_answers = msgspec.json.Decoder(Answer)
_objects = msgspec.json.Decoder(dict[str, msgspec.Raw])
_OVERLOADED = frozenset({429, 503})
_TROUBLE = frozenset({408, 425})
_FOREIGN = frozenset({401, 403})
# vLLM's words for "not me": while it drains after a SIGTERM (/health says 200 meanwhile), and after its core died.
_GOING = (b"after shutdown", b"EngineCore encountered")


# llama-cpp-python's for a body that it cannot read: its framework's complaint, which places the fault in the body.
_INVALID = (b"validation error", b"'loc': ('body'")


def judge(status: int, body: bytes) -> tuple[Verdict, Answer]:
    """The verdict, and what an ok answer says about itself."""
    if 200 <= status < 300:
        try:
            return Verdict.OK, _answers.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Verdict.TROUBLE, Answer()
    if status in _FOREIGN or (status == 404 and _unknown_model(body)):
        return Verdict.WRONG_ENGINE, Answer()
    if status in _OVERLOADED or (status == 500 and any(words in body for words in _GOING)):
        return Verdict.OVERLOADED, Answer()
    unreadable = status == 500 and all(words in body for words in _INVALID)
    if (status >= 500 or status < 400 or status in _TROUBLE) and not unreadable:
        return Verdict.TROUBLE, Answer()
    return Verdict.REFUSED, Answer()


def as_object(status: int, body: bytes) -> bytes:
    """The body on one line if it is a JSON object; else its text wrapped into an error object.

    vLLM before 0.10.1 sends the error itself, without the object around it (seen of 0.9.2).
    """
    try:
        found = _objects.decode(body)
        if "error" not in found and bytes(found.pop("object", b"")) == b'"error"':
            return msgspec.json.encode({"error": found})
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = body[:2000].decode("utf-8", "replace") or f"The engine answered {status} without a body."
        return msgspec.json.encode({"error": {"message": text, "type": "engine_error", "param": None, "code": status}})
    return as_line(body)


def as_line(body: bytes) -> bytes:
    """JSON without line ends, which in it can only be layout."""
    return body.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in body or b"\r" in body else body


def _unknown_model(body: bytes) -> bool:
    """vLLM says NotFoundError with param model, OpenAI model_not_found; a missing route says neither."""
    return b'"model_not_found"' in body or (b"NotFoundError" in body and b"model" in body)
