"""What an engine's answer means for the line that asked."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

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
    object: str | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def well(self) -> bool:
        """Is it an answer, and not an error that came as one? (/v1/responses says `"error": null` of itself.)"""
        return self.object != "error" and bytes(self.error) in _NO_ERROR

    @property
    def tokens(self) -> tuple[int, int, int]:
        """Tokens read, of those cached, and written."""
        usage = self.usage or _Usage()
        details = usage.prompt_tokens_details or usage.input_tokens_details or _Details()
        read, written = usage.prompt_tokens or usage.input_tokens, usage.completion_tokens or usage.output_tokens
        return read or 0, details.cached_tokens or 0, written or 0


class Judged(NamedTuple):
    """`status`: the answer's own, or the one that it means: an error in the body of a 200 has one of its own, and half a 200 is
    what gateways call 502."""

    verdict: Verdict
    answer: Answer
    status: int


class _Error(msgspec.Struct):
    """The error of an answer, in its parts: numbers and words as servers like to give them."""

    code: int | str | None = None
    type: str | None = None


class _Failed(msgspec.Struct):
    error: _Error | str | None = None
    code: int | str | None = None
    type: str | None = None


_NO_ERROR = frozenset({b"null", b"false", b'""', b"{}", b"[]"})
_answers = msgspec.json.Decoder(Answer)
_failed = msgspec.json.Decoder(_Failed)
_objects = msgspec.json.Decoder(dict[str, msgspec.Raw])
_BAD_GATEWAY = 502
_OVERLOADED = frozenset({429, 503})
_TROUBLE = frozenset({408, 425})
_FOREIGN = frozenset({401, 403})
_WORDS = {
    "rate_limit": 429, "overloaded": 503, "unavailable": 503, "not_found": 404, "notfound": 404, "model_not_found": 404,
    "invalid_api_key": 401, "invalid_authentication": 401, "authentication": 401, "permission": 403,
}  # fmt: skip
_REFUSING = ("invalid", "bad_request", "badrequest", "context_length", "exceed_context", "content_filter", "content_policy")
"""Beginnings of what OpenAI's, vLLM's and llama.cpp's servers call errors of a request."""
# vLLM's words for "not me": while it drains after a SIGTERM (/health says 200 meanwhile), and after its core died.
_GOING = (b"after shutdown", b"EngineCore encountered")
# llama-cpp-python's for a body that it cannot read: its framework's complaint, which places the fault in the body.
_INVALID = (b"validation error", b"'loc': ('body'")


def judge(status: int, body: bytes) -> Judged:
    """The verdict, what an ok answer says about itself, and the status that the answer means."""
    if 200 <= status < 300:
        try:
            answer = _answers.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Judged(Verdict.TROUBLE, Answer(), _BAD_GATEWAY)
        if answer.well:
            return Judged(Verdict.OK, answer, status)
        status = _meant(body)
    return Judged(_verdict(status, body), Answer(), status)


def _verdict(status: int, body: bytes) -> Verdict:
    """Of an answer that is an error."""
    if status in _FOREIGN or (status == 404 and _unknown_model(body)):
        return Verdict.WRONG_ENGINE
    if status in _OVERLOADED or (status == 500 and any(words in body for words in _GOING)):
        return Verdict.OVERLOADED
    unreadable = status == 500 and all(words in body for words in _INVALID)
    if (status >= 500 or status < 400 or status in _TROUBLE) and not unreadable:
        return Verdict.TROUBLE
    return Verdict.REFUSED


def _meant(body: bytes) -> int:
    """The status that an error means by its code, else by what it calls itself; 500 where it says neither."""
    try:
        found = _failed.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 500
    error = found.error if isinstance(found.error, _Error) else found
    for said in (error.code, error.type):
        word = str(said or "").lower()
        if len(word) == 3 and word.isdecimal() and word[0] in "45":
            return int(word)
        if status := next((status for start, status in _WORDS.items() if word.startswith(start)), 0):
            return status
        if word.startswith(_REFUSING):
            return 400
    return 500


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
