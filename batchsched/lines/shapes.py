"""What lines look like: the plain shape that nearly all have, decoded at once, and the loose one for all the others.

A line of the plain shape has only fields that are known to be harmless, of simple types, so there is nothing in it to look for.
Both shapes have the same names, so that whoever reads them need not know which it was.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Annotated, Any, Literal

import msgspec

from batchsched.lines.strict import Flaw

MAX_CUSTOM_ID_CHARS = 512
MAX_MODEL_CHARS = 512

Text = str | list[str | int | list[int]]


class Plain(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """Has no other fields than these."""


class TextPart(Plain):
    """A piece of a message."""

    text: str
    type: Literal["text", "input_text", "output_text"] = "text"


class Function(Plain):
    """A function that a model may call, or calls."""

    name: str
    description: str | None = None
    parameters: Any = None
    strict: bool | None = None
    arguments: str | None = None


class Tool(Plain):
    """A tool that is a function, or a call of one."""

    type: Literal["function"]
    function: Function
    id: str | None = None


class Message(Plain):
    """A message of text."""

    role: str
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[Tool] | None = None
    tool_call_id: str | None = None


class PlainBody(Plain):
    """A body of text and sampling parameters."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_MODEL_CHARS)]
    messages: list[Message] | msgspec.UnsetType = msgspec.UNSET
    prompt: str | msgspec.UnsetType = msgspec.UNSET
    input: Text | msgspec.UnsetType = msgspec.UNSET
    max_tokens: int | msgspec.UnsetType | None = msgspec.UNSET
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None
    stream: bool | None = None
    instructions: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logprobs: bool | int | None = None
    top_logprobs: int | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    user: str | None = None
    store: bool | None = None
    service_tier: str | None = None
    reasoning_effort: str | None = None
    encoding_format: str | None = None
    dimensions: int | None = None
    logit_bias: dict[str, float] | None = None
    metadata: dict[str, str] | None = None
    response_format: Any = None
    tools: list[Tool] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None


class PlainForm(Plain):
    """A line around such a body."""

    custom_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CUSTOM_ID_CHARS)]
    method: str
    url: str
    body: PlainBody


class Body(msgspec.Struct):
    """The fields of any body that matter to the checks, of whatever type they came."""

    model: Any = msgspec.UNSET
    messages: Any = msgspec.UNSET
    prompt: Any = msgspec.UNSET
    input: Any = msgspec.UNSET
    max_tokens: Any = msgspec.UNSET
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    n: Any = None
    best_of: Any = None
    stream: Any = None


class Form(msgspec.Struct):
    """Any line."""

    custom_id: str
    method: str
    url: str
    body: Body


def kind_of(form: PlainForm) -> Hashable:
    """All of a line that says whether it may stand beside others: lines of one kind are all right or all wrong."""
    body = form.body
    return (
        form.method, form.url, body.model, body.stream, body.n, body.best_of,
        body.max_tokens, body.max_completion_tokens, body.max_output_tokens,
        body.messages.__class__, body.prompt.__class__, body.input.__class__,
    )  # fmt: skip


plain = msgspec.json.Decoder(PlainForm).decode
_any = msgspec.json.Decoder().decode


def loose(line: bytes, found: dict[str, Any]) -> Form:
    """Any line's parts, each of its type; `found` is the object on it. Raises Flaw."""
    try:
        _any(line)  # a second opinion: this parser, which the workers use, refuses numbers that no double holds
    except msgspec.DecodeError as problem:
        raise Flaw("invalid_number", f"The line has a number that cannot be read: {problem}.") from None
    for name in ("custom_id", "method", "url", "body"):
        if name not in found:
            raise Flaw("missing_required_parameter", f"Missing required parameter: '{name}'.", name)
    for name in ("custom_id", "method", "url"):
        if type(found[name]) is not str:
            raise Flaw("invalid_type", f"'{name}' must be a string.", name)
    if not 0 < len(found["custom_id"]) <= MAX_CUSTOM_ID_CHARS:
        raise Flaw("invalid_value", f"'custom_id' must have 1 to {MAX_CUSTOM_ID_CHARS} characters.", "custom_id")
    if type(found["body"]) is not dict:
        raise Flaw("invalid_type", "'body' must be a JSON object.", "body")
    body = msgspec.convert(found["body"], Body)
    return Form(found["custom_id"], found["method"], found["url"], body)
