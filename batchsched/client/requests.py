"""Prompts, messages and bodies as the lines of a batch file, written one by one: however many they are, none is kept."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from typing import IO, Any

import msgspec

from batchsched.client.answers import PREFIX
from batchsched.errors import InvalidRequest
from batchsched.lines import CHAT, COMPLETIONS, EMBEDDINGS, ENDPOINTS, RESPONSES

Asked = str | Sequence[Mapping[str, Any]] | Mapping[str, Any]
"""A prompt, the messages of a chat, or a whole body."""

_FIELD = {CHAT: "messages", COMPLETIONS: "prompt", EMBEDDINGS: "input", RESPONSES: "input"}
BREATH = 500
"""After so many requests, others of the event loop have their turn."""
_encoder = msgspec.json.Encoder()


class Writer:
    """Writes requests of one endpoint into a batch file. `model`, `parameters`: for each body that does not say them itself."""

    def __init__(self, out: IO[bytes], model: str | None, endpoint: str, parameters: Mapping[str, Any] | None) -> None:
        if endpoint not in ENDPOINTS:
            raise InvalidRequest(
                f"'{endpoint}' is not an endpoint of batches; they are {', '.join(ENDPOINTS)}.", param="endpoint"
            )
        self.count = 0
        self._out, self._endpoint = out, endpoint
        self._common = {**({"model": model} if model else {}), **(parameters or {})}

    def add(self, asked: Asked) -> None:
        """The next request. Raises InvalidRequest, naming its number."""
        body = {**self._common, **self._body(asked)}
        if not body.get("model"):
            raise InvalidRequest(f"Request {self.count} names no model, and `model` was not given.", param="model")
        line = {"custom_id": f"{PREFIX}{self.count}", "method": "POST", "url": self._endpoint, "body": body}
        try:
            _refuse_no_numbers(body)
            self._out.write(_encoder.encode(line) + b"\n")
        except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as problem:
            raise InvalidRequest(f"Request {self.count} cannot be written as JSON: {problem}.") from problem
        self.count += 1

    def end(self) -> int:
        """Ready to be read from the start; how many there are."""
        self._out.flush()
        self._out.seek(0)
        return self.count

    def _body(self, asked: Any) -> Mapping[str, Any]:
        if isinstance(asked, str):
            content: Any = [{"role": "user", "content": asked}] if self._endpoint == CHAT else asked
            return {_FIELD[self._endpoint]: content}
        if isinstance(asked, Mapping):
            return self._whole(asked)
        if isinstance(asked, Sequence) and asked and all(isinstance(message, Mapping) for message in asked):
            if self._endpoint in {CHAT, RESPONSES}:
                return {_FIELD[self._endpoint]: asked}
            raise InvalidRequest(f"Request {self.count} is a list of messages, which {self._endpoint} does not take.")
        raise InvalidRequest(
            f"Request {self.count} is {_named(asked)}; a request is a prompt (str), the messages of a chat (list of dicts) "
            "or a whole body (dict)."
        )

    def _whole(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        field = _FIELD[self._endpoint]
        if field in body:
            return body
        if {"role", "content"} <= body.keys():
            raise InvalidRequest(f"Request {self.count} is one message; put it into a list.")
        if {"custom_id", "body"} <= body.keys():
            text = f"Request {self.count} is a whole line of a batch file; give its body, or the file to `batches.create`."
            raise InvalidRequest(text)
        raise InvalidRequest(f"Request {self.count} has no '{field}', which {self._endpoint} needs.")


def write(requests: Iterable[Asked], writer: Writer) -> int:
    """All of them; how many there were. Raises InvalidRequest."""
    refuse_one(requests)
    for asked in requests:
        writer.add(asked)
    return writer.end()


async def write_async(requests: Iterable[Asked] | AsyncIterable[Asked], writer: Writer) -> int:
    """All of them, from either kind of iterable; how many there were. Raises InvalidRequest."""
    if isinstance(requests, AsyncIterable):
        async for asked in requests:
            await _add(writer, asked)
    else:
        refuse_one(requests)
        for asked in requests:
            await _add(writer, asked)
    return writer.end()


async def _add(writer: Writer, asked: Asked) -> None:
    """With a breath now and then: an asynchronous iterable need not wait for anything either."""
    writer.add(asked)
    if writer.count % BREATH == 0:
        import asyncio

        await asyncio.sleep(0)


def refuse_one(requests: object) -> None:
    """One prompt, or one body, is iterable too, and never what is meant. Raises InvalidRequest."""
    if isinstance(requests, str | bytes | Mapping):
        raise InvalidRequest("One request alone was given; put it into a list.", param="requests")


def _refuse_no_numbers(value: Any) -> None:
    """The encoder writes null for NaN and infinities, which would change in silence what is asked."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a number of JSON")
    elif isinstance(value, Mapping):
        for part in value.values():
            _refuse_no_numbers(part)
    elif isinstance(value, list | tuple):
        for part in value:
            _refuse_no_numbers(part)


def _named(asked: object) -> str:
    name = type(asked).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
