"""Quantities as people write them, and the few conversions that the project needs."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta

from batchsched.errors import InvalidValue

JOULES_PER_KWH = 3_600_000.0
HOURS_PER_YEAR = 8760.0

LENGTHS_A_DOUBLING = 8

LONGEST_S = 366 * 86400

_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhdw])+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


def parse_duration_s(text: str) -> float:
    """Seconds in a duration such as `90m`, `6h`, `1d12h`. Raises InvalidValue, saying what is allowed."""
    if not _DURATION.fullmatch(text.strip()):
        raise InvalidValue(f"'{text}' is not a duration; write for example 90s, 30m, 6h, 3d or 1d12h.")
    seconds = sum(float(number) * _UNIT_S[unit] for number, unit in _PART.findall(text))
    if not 0 < seconds <= LONGEST_S:
        raise InvalidValue(f"'{text}' is out of range; a duration is more than 0 and at most a year.")
    return seconds


def format_duration(seconds: float) -> str:
    """A duration for people, in at most two units: `45s`, `6m 10s`, `1h 30m`, `2d 4h`."""
    left = round(abs(seconds))
    parts: list[str] = []
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, _UNIT_S[unit])
        if count:
            parts.append(f"{count}{unit}")
        elif parts:
            break
    return ("-" if seconds < 0 and parts else "") + (" ".join(parts[:2]) or "0s")


def parse_deadline(text: str, now: datetime) -> datetime:
    """A deadline given as a duration from `now` or as an RFC 3339 instant with its offset; aware UTC."""
    if _DURATION.fullmatch(text.strip()):
        return now + timedelta(seconds=parse_duration_s(text))
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidValue(
            f"'{text}' is not a deadline; give a duration such as 6h, or an instant such as 2026-05-01T06:00:00Z."
        ) from None
    if at.tzinfo is None:
        raise InvalidValue(f"'{text}' has no time zone; add Z for UTC or an offset such as +02:00.")
    try:
        at = at.astimezone(UTC)
    except OverflowError:
        at = datetime.max.replace(tzinfo=UTC)
    if at > now + timedelta(seconds=LONGEST_S):
        raise InvalidValue(f"'{text}' is out of range; a deadline is at most a year ahead.")
    return at


def kwh(energy_j: float) -> float:
    """Joules to kilowatt-hours."""
    return energy_j / JOULES_PER_KWH


def format_grams(grams: float) -> str:
    """A mass of CO2e for people: µg to t, three significant digits; less than a picogram is what sums were rounded by."""
    if abs(grams) < 1e-12:
        return "0 g"
    for limit, factor, unit in ((1e-3, 1e6, "µg"), (1.0, 1e3, "mg"), (1e3, 1.0, "g"), (1e6, 1e-3, "kg")):
        if abs(grams) < limit:
            return f"{grams * factor:.3g} {unit}"
    return f"{grams * 1e-6:.3g} t"


def start_of_hour(at: datetime) -> datetime:
    """When the hour began, in the offset of the instant."""
    return at.replace(minute=0, second=0, microsecond=0)


def to_unix(at: datetime) -> int:
    """Whole unix seconds, as OpenAI's objects carry them."""
    return int(at.timestamp())


def from_iso(text: str) -> datetime:
    """An aware UTC datetime from our own ISO text."""
    return datetime.fromisoformat(text).astimezone(UTC)


def iso(at: datetime) -> str:
    """RFC 3339 in UTC with `Z`."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def length_class(tokens: int) -> int:
    """Of an answer of that many tokens: eight classes to each doubling; below one token, the first."""
    return max(0, math.floor(LENGTHS_A_DOUBLING * math.log2(tokens))) if tokens > 0 else 0


def class_end(number: int) -> float:
    """Tokens at which the next class begins; where one begins, the one before it ends."""
    return float(2.0 ** ((number + 1) / LENGTHS_A_DOUBLING))


def format_bytes(size: float) -> str:
    """A size for people, in powers of a thousand."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"
