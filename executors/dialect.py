"""How an engine of some version is spoken to: where it tells of its health, how it names its metrics, what requests look like.

What differs stands in the table of engines. A request is changed only where the engine would refuse it, or answer something else
than was asked, and can be asked the same in its own words; where it cannot, the line is refused here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from batchsched.engines import ENGINE_NAMES, Build
from batchsched.fleet import Pool, words_of

_TOKENS = ("prompt_tokens", "generation_tokens")
_GUIDED = ("json", "regex", "choice", "grammar", "json_object")
_bodies = msgspec.json.Decoder(dict[str, msgspec.Raw])
_Fields = dict[str, msgspec.Raw]


class Cannot(Exception):
    """This engine cannot do what a request asks for. `param`: the field that asks."""

    def __init__(self, build: Build, param: str) -> None:
        super().__init__(f"{build.describe()} cannot do what '{param}' asks for; name a pool with another engine.")
        self.param = param

    def body(self) -> bytes:
        """As an error object of OpenAI's form."""
        error = {"message": str(self), "type": "unsupported_by_engine", "param": self.param, "code": 400}
        return msgspec.json.encode({"error": error})


class Dialect:
    """Of one engine. `flags`: what it was started with, as far as that is known; `quirks`: what is unusual about it."""

    def __init__(self, build: Build, flags: Collection[str] = (), quirks: Collection[str] = ()) -> None:
        self.build = build
        self.health: str = build.facts("route")["health"]
        """Path that answers 200 while it is well."""
        self.metrics: Mapping[str, str] = build.facts("metric")
        """Names of its metrics by what they say; what it does not tell is absent."""
        odd = build.facts("request")
        if "no_priority" in quirks:
            odd["priority"] = "drop"
        elif "priority" in words_of(flags):  # it schedules by priority
            odd.pop("priority", None)
        self._odd = {name.encode().join((b'"', b'"')): (name, _ACTIONS[action]) for name, action in odd.items()}

    @property
    def token_counters(self) -> tuple[str, ...]:
        """Names of the metrics whose sum is all that it has read and written."""
        return tuple(self.metrics[name] for name in _TOKENS if name in self.metrics)

    @property
    def takes_priority(self) -> bool:
        """Does a request's priority reach it?"""
        return b'"priority"' not in self._odd

    def asked(self, body: bytes) -> bytes:
        """A request in this engine's words. Raises Cannot."""
        found = [rule for quoted, rule in self._odd.items() if quoted in body]
        if not found:
            return body
        fields = _bodies.decode(body)
        for name, act in found:
            if name in fields:
                act(self.build, fields, name)
        return msgspec.json.encode(fields)


def _drop(build: Build, fields: _Fields, name: str) -> None:
    del build, fields[name]


def _refuse(build: Build, fields: _Fields, name: str) -> None:
    if bytes(fields[name]) not in {b"null", b"1"}:  # one answer (`n`) is what it gives
        raise Cannot(build, name)
    del fields[name]


def _max_tokens(build: Build, fields: _Fields, name: str) -> None:
    del build
    value = fields.pop(name)
    if bytes(value) != b"null":
        fields["max_tokens"] = value


def _json_object(build: Build, fields: _Fields, name: str) -> None:
    """A schema where llama-cpp-python looks for it."""
    del build
    asked: Any = msgspec.json.decode(fields[name])
    if isinstance(asked, dict) and asked.get("type") == "json_schema":
        schema = (asked.get("json_schema") or {}).get("schema", {})
        fields[name] = msgspec.Raw(msgspec.json.encode({"type": "json_object", "schema": schema}))


def _guided(build: Build, fields: _Fields, name: str) -> None:
    """vLLM's `structured_outputs` as fields of their own."""
    asked: Any = msgspec.json.decode(fields.pop(name))
    for key, value in (asked if isinstance(asked, dict) else {}).items():
        if value is None or value is False:
            continue
        if key not in _GUIDED:
            raise Cannot(build, f"{name}.{key}")
        fields[f"guided_{key}"] = msgspec.Raw(msgspec.json.encode(value))


def _structured(build: Build, fields: _Fields, name: str) -> None:
    """The other way round."""
    del build
    value = fields.pop(name)
    if bytes(value) != b"null" and "structured_outputs" not in fields:
        wanted = {name.removeprefix("guided_"): value}
        fields["structured_outputs"] = msgspec.Raw(msgspec.json.encode(wanted))


_ACTIONS: dict[str, Callable[[Build, _Fields, str], None]] = {
    "drop": _drop,
    "refuse": _refuse,
    "max_tokens": _max_tokens,
    "json_object": _json_object,
    "guided": _guided,
    "structured": _structured,
}


def dialect_of(name: str | None, version: str | None, pool: Pool) -> Dialect:
    """By what an engine says of itself; what it does not say, the pool does."""
    told = name if name in ENGINE_NAMES else pool.engine
    said = version or (pool.engine_version if told == pool.engine else "")
    return Dialect(Build(told, said), pool.engine_args, pool.quirks)
