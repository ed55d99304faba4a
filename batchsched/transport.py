"""The one way out over HTTP: httpx behind two small classes, so that a change of library is a change of this file.

Answers with an error body become our own exceptions. Failures that may pass (no connection, 408, 409 with `x-should-retry`, 429,
5xx) are tried again with growing pauses; `Retry-After` is honoured. A POST without an idempotency key is sent again only where
nothing can have come of it: a lost answer never makes a second batch.
"""

from __future__ import annotations

import copy
import logging
import math
import random
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import httpx
import msgspec

from batchsched.errors import (
    BatchschedError,
    Conflict,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
    QuotaExceeded,
    ServerError,
    ServerUnreachable,
    Unauthorized,
    by_code,
)

if TYPE_CHECKING:
    import ssl

RETRY_STATUS = frozenset({408, 429, 500, 502, 503, 504, 507})
# The server gives these before it accepts anything.
POST_RETRY_STATUS = frozenset({429, 503, 507})
CONNECT_TIMEOUT_S = 5.0
LONGEST_PAUSE_S = 120.0
GLANCE_S = 20.0
"""For how long whoever looks at something in a notebook waits for its picture."""
BY_STATUS: dict[int, type[BatchschedError]] = {
    400: InvalidRequest, 401: Unauthorized, 403: PermissionDenied, 404: NotFound, 409: Conflict, 413: PayloadTooLarge,
    422: InvalidRequest, 429: QuotaExceeded, 502: ServerUnreachable, 503: ServerUnreachable, 504: ServerUnreachable,
}  # fmt: skip
"""What an error means that did not come from a batchsched server but from something before it, such as a proxy."""


class _Base:
    def __init__(self, base_url: str, api_key: str = "", timeout_s: float = 600.0, max_retries: int = 2) -> None:
        self.base_url = base_url.rstrip("/")
        self._max_retries = max_retries
        self._timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        self._options: dict[str, Any] = {
            "base_url": self.base_url,
            "headers": {"authorization": f"Bearer {api_key}"} if api_key else {},
            "verify": not self.base_url.lower().startswith("http:"),  # to read the authorities' certificates takes 40 ms
        }

    def with_options(self, timeout_s: float | None, max_retries: int | None) -> Self:
        """The same connections with other patience; None leaves a thing as it is."""
        other = copy.copy(self)
        if timeout_s is not None:
            other._timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S))
        if max_retries is not None:
            other._max_retries = max_retries
        return other

    def another(self) -> Transport:
        """A blocking transport of its own to the same server, for a question of a moment: one try, and a short while."""
        headers: dict[str, str] = self._options["headers"]
        return Transport(self.base_url, headers.get("authorization", "").removeprefix("Bearer "), GLANCE_S, 0)

    def _pause_s(self, once: bool, attempt: int, outcome: httpx.Response | httpx.TransportError) -> float | None:
        """Seconds until the next try; None where there is to be none."""
        if attempt >= self._max_retries or not _may_be_sent_again(once, outcome):
            return None
        if isinstance(outcome, httpx.Response):
            told_s = _told_pause_s(outcome.headers)
            if told_s is not None:
                return min(told_s, LONGEST_PAUSE_S)
        return min(8.0, 0.5 * 2.0**attempt) * (1 - 0.25 * random.random())  # noqa: S311 - jitter

    def _unreachable(self, problem: httpx.HTTPError) -> ServerUnreachable:
        what = "did not answer in time" if isinstance(problem, httpx.TimeoutException) else "cannot be reached"
        detail = str(problem) or type(problem).__name__
        hint = "Is `batchsched serve` running there?"
        if "CERTIFICATE_VERIFY_FAILED" in detail:
            hint = "Name the file of a certificate authority of your own in the environment variable SSL_CERT_FILE."
        return ServerUnreachable(f"The server at {self.base_url} {what} ({detail}).", hint=hint)


class Transport(_Base):
    """Blocking calls to one server. Use as a context manager, or close()."""

    def __init__(
        self,
        base_url: str,
        api_key: str = "",
        timeout_s: float = 600.0,
        max_retries: int = 2,
        *,
        backend: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(base_url, api_key, timeout_s, max_retries)
        self._client = httpx.Client(**self._options, transport=backend)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The answer, read whole. Raises our own errors for any status of 400 or more."""
        return self._tried(method, path, options, stream=False)

    @contextmanager
    def stream(self, method: str, path: str, **options: Any) -> Generator[httpx.Response]:
        """The answer as it arrives. What fails before its first byte is tried again as in `request`; what breaks off is not."""
        response = self._tried(method, path, options, stream=True)
        try:
            yield response
        except httpx.TransportError as problem:
            raise self._unreachable(problem) from problem
        finally:
            response.close()

    def _tried(self, method: str, path: str, options: dict[str, Any], *, stream: bool) -> httpx.Response:
        """A good answer; `stream`: its body is still to be read."""
        once = _only_once(method, options)
        for attempt in range(self._max_retries + 1):
            try:
                request = self._client.build_request(method, path, timeout=self._timeout, **options)
                response = self._client.send(request, stream=stream)
                if response.status_code < 400:
                    return response
                response.read()
            except httpx.TransportError as problem:
                pause_s = self._pause_s(once, attempt, problem)
                if pause_s is None:
                    raise self._unreachable(problem) from problem
            else:
                pause_s = self._pause_s(once, attempt, response)
                if pause_s is None:
                    raise error_from(response)
            time.sleep(pause_s)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncTransport(_Base):
    """The same for asyncio."""

    def __init__(
        self,
        base_url: str,
        api_key: str = "",
        timeout_s: float = 600.0,
        max_retries: int = 2,
        *,
        backend: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(base_url, api_key, timeout_s, max_retries)
        self._client = httpx.AsyncClient(**self._options, transport=backend)

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The answer, read whole. Raises our own errors for any status of 400 or more."""
        return await self._tried(method, path, options, stream=False)

    @asynccontextmanager
    async def stream(self, method: str, path: str, **options: Any) -> AsyncGenerator[httpx.Response]:
        """The answer as it arrives. What fails before its first byte is tried again as in `request`; what breaks off is not."""
        response = await self._tried(method, path, options, stream=True)
        try:
            yield response
        except httpx.TransportError as problem:
            raise self._unreachable(problem) from problem
        finally:
            await response.aclose()

    async def _tried(self, method: str, path: str, options: dict[str, Any], *, stream: bool) -> httpx.Response:
        """A good answer; `stream`: its body is still to be read."""
        once = _only_once(method, options)
        for attempt in range(self._max_retries + 1):
            try:
                request = self._client.build_request(method, path, timeout=self._timeout, **options)
                response = await self._client.send(request, stream=stream)
                if response.status_code < 400:
                    return response
                await response.aread()
            except httpx.TransportError as problem:
                pause_s = self._pause_s(once, attempt, problem)
                if pause_s is None:
                    raise self._unreachable(problem) from problem
            else:
                pause_s = self._pause_s(once, attempt, response)
                if pause_s is None:
                    raise error_from(response)
            import asyncio  # a blocking client never waits for it

            await asyncio.sleep(pause_s)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def __aenter__(self) -> AsyncTransport:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class PinnedPost:
    """POSTs to strangers: to the very address that was checked, whatever the name says a moment later; no proxy, no redirect."""

    def __init__(self, timeout_s: float) -> None:
        """`timeout_s`: of a whole call, however slowly its answer drips."""
        self._timeout_s = timeout_s
        self._trust = httpx.create_ssl_context()

    async def send(self, url: str, address: str, content: bytes, headers: Mapping[str, str]) -> int:
        """The answer's status; its body is not read. Raises ServerUnreachable."""
        import asyncio

        target = httpx.URL(url)
        named = {**headers, "host": target.netloc.decode()}
        # The certificate is checked against the name, though the connection goes to the address.
        extensions = {"sni_hostname": target.host}
        limits = httpx.Timeout(self._timeout_s, connect=min(CONNECT_TIMEOUT_S, self._timeout_s))
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                httpx.AsyncClient(verify=self._trust, trust_env=False, timeout=limits) as client,
                client.stream(
                    "POST", target.copy_with(host=address), content=content, headers=named, extensions=extensions
                ) as response,
            ):
                return response.status_code
        except (httpx.HTTPError, TimeoutError) as problem:
            raise ServerUnreachable(f"{target.host} cannot be reached ({str(problem) or type(problem).__name__}).") from problem


class Answer(msgspec.Struct, frozen=True):
    """What came back for one GET, read whole. Names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Getter:
    """GETs from strangers who may ask for a key: one try, no redirect (it would carry the key elsewhere), nothing kept open."""

    def __init__(self, timeout_s: float, max_bytes: int) -> None:
        """`timeout_s`: of a whole call, however slowly its answer drips. `max_bytes`: of a body, unpacked."""
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        _keep_keys_from_logs()

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()

    def get(self, url: str, params: Mapping[str, str], headers: Mapping[str, str]) -> Answer:
        """The answer, whatever its status. Raises ServerUnreachable, whose text holds neither URL nor headers.

        Not for a thread with an event loop.
        """
        import asyncio

        found = asyncio.run(self._get(url, params, headers))
        if isinstance(found, str):  # raised out here, so that the error does not drag the request along with it
            raise ServerUnreachable(found)
        return found

    async def _get(self, url: str, params: Mapping[str, str], headers: Mapping[str, str]) -> Answer | str:
        import asyncio

        limits = httpx.Timeout(self._timeout_s, connect=min(CONNECT_TIMEOUT_S, self._timeout_s))
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                httpx.AsyncClient(verify=url.startswith("https") and self._trust, timeout=limits) as client,
                client.stream("GET", url, params=params, headers=headers) as response,
            ):
                body = bytearray()
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > self._max_bytes:
                        return f"its answer is longer than {self._max_bytes} bytes"
                return Answer(response.status_code, dict(response.headers), bytes(body))
        except (TimeoutError, httpx.TimeoutException):
            return f"no whole answer within {self._timeout_s:g} s"
        except httpx.RemoteProtocolError:
            return "its answer was cut short"
        except (httpx.HTTPError, httpx.InvalidURL) as problem:
            # Other texts of httpx may name the URL, and with it the key.
            return "no connection" if isinstance(problem, httpx.ConnectError) else type(problem).__name__


class _NoQuery(logging.Filter):
    """httpx logs each request with its URL, and some services want their key in there. What went well is a detail."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            well = any(isinstance(part, int) and part < 400 for part in record.args)
            record.args = tuple(part.copy_with(query=None) if isinstance(part, httpx.URL) else part for part in record.args)
            if well and record.levelno == logging.INFO:
                record.levelno, record.levelname = logging.DEBUG, "DEBUG"
                return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
        return True


def _keep_keys_from_logs() -> None:
    wire = logging.getLogger("httpcore")  # it logs headers of answers, and a redirect repeats the query
    if wire.level == logging.NOTSET:
        wire.setLevel(logging.INFO)
    logger = logging.getLogger("httpx")
    if not any(isinstance(known, _NoQuery) for known in logger.filters):
        logger.addFilter(_NoQuery())


def _only_once(method: str, options: Mapping[str, Any]) -> bool:
    """Would sending it twice do it twice?"""
    return method.upper() == "POST" and "idempotency-key" not in options.get("headers", {})


def _may_be_sent_again(once: bool, outcome: httpx.Response | httpx.TransportError) -> bool:
    if isinstance(outcome, httpx.TransportError):
        return not once or isinstance(outcome, httpx.ConnectError | httpx.ConnectTimeout)
    should = outcome.headers.get("x-should-retry")
    if should == "false":
        return False
    return outcome.status_code in POST_RETRY_STATUS if once else outcome.status_code in RETRY_STATUS or should == "true"


def _told_pause_s(headers: httpx.Headers) -> float | None:
    """How long the other side asks to wait: in milliseconds, in seconds or until a date; None where it does not say."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            told_s = float(headers.get(name, "")) * unit_s
        except ValueError:
            continue
        return max(told_s, 0.0) if math.isfinite(told_s) else None
    try:
        until = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max((until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0.0)


def error_from(response: httpx.Response) -> BatchschedError:
    """Our exception for an error answer, whatever its body looks like."""
    try:
        body: Any = msgspec.json.decode(response.content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = None
    error: Any = body.get("error") if isinstance(body, Mapping) else None
    if not isinstance(error, Mapping):
        text = response.text[:300] or response.reason_phrase
        raised = BY_STATUS.get(response.status_code, ServerError)(f"The server answered {response.status_code}: {text}")
        raised.http_status = response.status_code
        return raised
    raised = by_code(str(error.get("code")))(str(error.get("message")), param=error.get("param"), hint=error.get("hint"))
    raised.http_status = response.status_code
    return raised
