"""Operations: what engines were asked. Each worker counts them and tells its server; a collector too, by OpenTelemetry's
conventions, where one is named.

One operation is one request to an engine with its answer, as the worker that asked sees it: a line that is asked again is two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from batchsched.traces import Value, collector, lacking

TOKEN_BOUNDS = tuple(4**power for power in range(14))
DURATION_BOUNDS_S = tuple(round(0.01 * 2**power, 2) for power in range(14))
"""Buckets of the two histograms, as the conventions state them."""


class Histogram(msgspec.Struct, frozen=True):
    """One of them: `brief` in the conventions' words, `meaning` in ours."""

    name: str
    unit: str
    brief: str
    meaning: str
    bounds: tuple[float, ...]


HISTOGRAMS = DURATION, TOKENS = (
    Histogram(
        "gen_ai.client.operation.duration",
        "s",
        "GenAI operation duration.",
        "from sending a request to the end of its answer",
        DURATION_BOUNDS_S,
    ),
    Histogram(
        "gen_ai.client.token.usage",
        "{token}",
        "Number of input and output tokens used.",
        "tokens of a request that was answered; nothing where the engine did not say",
        TOKEN_BOUNDS,
    ),
)
ATTRIBUTES = {
    "gen_ai.operation.name": "`chat`, `text_completion` or `embeddings`; the endpoint, of others",
    "gen_ai.provider.name": "the kind of engine, as the pool declares it: `vllm`, `llama.cpp`, `llama-cpp-python`",
    "gen_ai.request.model": "the model that was asked",
    "gen_ai.token.type": "`input` or `output`, of tokens",
    "error.type": "of operations that failed: the status, `timeout`, or the name of what broke the connection",
    "server.address": "the engine's host",
    "server.port": "the engine's port",
    "batchsched.pool": "the worker's pool",
}
"""What is told of an operation; Markdown."""


class Metrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where workers send metrics of what their engines were asked; each needs the extra `traces`."""

    endpoint: Annotated[
        str, Meta(description="OTLP/HTTP collector, as http://127.0.0.1:4318; empty: that of OTEL_EXPORTER_OTLP_ENDPOINT, if set")
    ] = ""


class Operation(msgspec.Struct, frozen=True):
    """One that is over: `name`, `provider` and `model` in the words of the conventions; the engine's address.

    `problem`: a status or the kind of an error, empty where there is none; `read`, `written`: tokens, None where nothing was said
    of them.
    """

    name: str
    provider: str
    model: str
    host: str
    port: int
    took_s: float
    problem: str = ""
    read: int | None = None
    written: int | None = None

    @property
    def about(self) -> dict[str, Value]:
        """Its attributes, in the conventions' names; nothing that tells batches or tenants apart."""
        return {
            "gen_ai.operation.name": self.name,
            "gen_ai.provider.name": self.provider,
            "gen_ai.request.model": self.model,
            "server.address": self.host,
            "server.port": self.port,
        }


class Operations(Protocol):
    """Who takes the operations of this process."""

    def ended(self, operation: Operation) -> None:
        """Take one; at once, without raising."""
        ...

    def close(self) -> None:
        """Send what is known, within a few seconds."""
        ...


class Uncounted:
    """Nobody does."""

    def ended(self, operation: Operation) -> None:
        """Nothing happens."""

    def close(self) -> None:
        """Nothing waits."""


NOBODY = Uncounted()


def opened(metrics: Metrics, env: Mapping[str, str], service: str, about: Mapping[str, Value] | None = None) -> Operations:
    """Who takes the operations of this process, as traces.opened has it for spans. Raises InvalidConfiguration, MissingExtra."""
    named = collector("metrics", metrics.endpoint, env)
    if not named:
        return NOBODY
    try:
        from batchsched.otlp_metrics import OtlpMetrics
    except ModuleNotFoundError as problem:
        lacking("metrics", problem, named, configured=bool(metrics.endpoint))
        return NOBODY
    return OtlpMetrics(metrics.endpoint, named, service, about or {})
