"""Asking a provider over HTTP: at its pace, with a few tries, and without a key in any text that leaves this module."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from xml.etree import ElementTree as ET

from batchsched.clock import Clock
from batchsched.errors import ForecastUnavailable, ServerUnreachable, SourceLimited, SourceRefused
from batchsched.feeds import FeedSource
from batchsched.transport import Answer, Getter

log = logging.getLogger(__name__)
TRIES = 3
FIRST_PAUSE_S = 1.0
MAX_BYTES = 32_000_000
# After a 429 that does not say how long; and the longest that is believed.
DEFAULT_RETRY_AFTER_S = 60.0
LONGEST_RETRY_AFTER_S = 86_400.0
NOTABLE_SKEW_S = 300.0
PASSING = frozenset({408, 500, 502, 503, 504})


class Fetcher:
    """One provider's door. `secret` goes into the headers or parameters of a call and nowhere else."""

    def __init__(
        self, name: str, declared: FeedSource, secret: str, clock: Clock, sleep: Callable[[float], object] | None = None
    ) -> None:
        self.secret = secret
        self.clock = clock
        self.skew_s = 0.0
        """How far the provider's clock was ahead of ours at its last answer, in whole seconds; negative: behind."""
        self._name = name
        self._setting = f"forecast.sources.{name}"
        self._secret_setting = (
            f"the environment variable {declared.secret_env}" if declared.secret_env else f"{self._setting}.secret"
        )
        self._base_url = declared.base_url.rstrip("/")
        self._min_interval_s = declared.min_interval_s
        self._getter = Getter(declared.timeout_s, MAX_BYTES)
        self._sleep = sleep or time.sleep
        self._last_at = -math.inf
        self._closed_until = -math.inf

    def json(self, url: str, path: str, params: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None) -> Any:
        """The decoded answer; None for an empty one (204). `url`: the provider's own address, where none is declared.

        Raises SourceRefused, SourceLimited, ForecastUnavailable.
        """
        return self._asked(url, path, params or {}, {"accept": "application/json", **(headers or {})}, _json)

    def xml(self, url: str, path: str, params: Mapping[str, str]) -> ET.Element:
        """The answer's root, names without their namespaces, also of a 400 that gives its reason in XML. Raises likewise."""
        found: ET.Element = self._asked(url, path, params, {"accept": "application/xml"}, _xml, reasons=True)
        return found

    def _asked(
        self,
        url: str,
        path: str,
        params: Mapping[str, str],
        headers: Mapping[str, str],
        decode: Callable[[Answer], Any],
        *,
        reasons: bool = False,
    ) -> Any:
        problem = ""
        for attempt in range(TRIES):
            if attempt:
                self._sleep(FIRST_PAUSE_S * 4.0 ** (attempt - 1))
            self._wait_for_turn()
            try:
                answer = self._getter.get((self._base_url or url) + path, params, headers)
            except ServerUnreachable as raised:
                problem = raised.message
                continue
            self._look_at_clock(answer)
            if not (reasons and answer.status == 400 and "xml" in answer.headers.get("content-type", "")):
                self._raise_for(answer)
            if answer.status in PASSING:
                problem = f"status {answer.status}"
                continue
            try:
                return decode(answer)
            except ValueError as raised:
                problem = str(raised)
        raise ForecastUnavailable(f"The source '{self._name}' gave no answer of use in {TRIES} tries: {problem}.")

    def _wait_for_turn(self) -> None:
        now = self.clock.monotonic()
        if now < self._closed_until:
            raise self._limited(self._closed_until - now)
        wait_s = self._last_at + self._min_interval_s - now
        if wait_s > 0:
            self._sleep(wait_s)
        self._last_at = self.clock.monotonic()

    def _raise_for(self, answer: Answer) -> None:
        status = answer.status
        if status == 429 or (status == 503 and "retry-after" in answer.headers):
            wait_s = self._retry_after_s(answer)
            self._closed_until = self.clock.monotonic() + wait_s
            raise self._limited(wait_s)
        if status in {401, 403}:
            advice = f"Look at {self._secret_setting}; has its plan this zone, and forecasts (horizon_h = 0 asks for none)?"
            raise SourceRefused(
                f"The source '{self._name}' refused {'the key' if self.secret else 'us'} (status {status}).",
                hint=advice if self.secret else None,
                status=status,
            )
        if status >= 300 and status not in PASSING:
            raise ForecastUnavailable(
                f"The source '{self._name}' did not accept the question (status {status}).",
                hint=f"Look at {self._setting}: zones, signal, horizon_h, base_url.",
            )

    def _limited(self, wait_s: float) -> SourceLimited:
        return SourceLimited(
            f"The source '{self._name}' asked us to wait; it is asked again in {math.ceil(wait_s)} s.",
            hint=f"A larger {self._setting}.refresh_s or min_interval_s avoids this.",
            retry_after_s=wait_s,
        )

    def _retry_after_s(self, answer: Answer) -> float:
        """Seconds, also from a date, which counts by the provider's clock rather than ours."""
        text = answer.headers.get("retry-after", "").strip()
        at = _http_date(text)
        if text.isdecimal():
            wait_s = float(text)
        elif at:
            wait_s = (at - self.clock.now()).total_seconds() - self.skew_s
        else:
            wait_s = DEFAULT_RETRY_AFTER_S
        return min(max(wait_s, 1.0), LONGEST_RETRY_AFTER_S)

    def _look_at_clock(self, answer: Answer) -> None:
        if theirs := _http_date(answer.headers.get("date", "")):
            before, self.skew_s = self.skew_s, float(round((theirs - self.clock.now()).total_seconds()))
            if abs(self.skew_s) > NOTABLE_SKEW_S >= abs(before):
                log.warning("The clock of the source '%s' is %+.0f s from ours; is ours right?", self._name, self.skew_s)


def _http_date(text: str) -> datetime | None:
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at


def _json(answer: Answer) -> Any:
    if answer.status == 204:
        return None
    if "json" not in answer.headers.get("content-type", ""):
        raise ValueError("its answer is not JSON")
    try:
        return json.loads(answer.body)  # unlike stricter readers it takes NaN, which is unknown and not the whole answer's end
    except (ValueError, RecursionError):
        raise ValueError("its answer is broken JSON") from None


def _xml(answer: Answer) -> ET.Element:
    if "xml" not in answer.headers.get("content-type", ""):
        raise ValueError("its answer is not XML")
    if b"<!DOCTYPE" in answer.body or b"<!ENTITY" in answer.body or b"\0" in answer.body:  # NUL: UTF-16, which would hide them
        raise ValueError("its answer declares entities")
    try:
        root = ET.fromstring(answer.body)  # noqa: S314 - it declares no entities
    except ET.ParseError:
        raise ValueError("its answer is broken XML") from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root
