"""Cron-driven windows of pools: when they are open, and a timer that tells when they open and close.

A window opens when its cron line matches the wall clock of its time zone, once for each time on that clock: a time that a clock
change repeats opens once, the first time; a time that it skips opens as much later as the clock jumps. It stays open for its
duration in elapsed time. Openings that meet or overlap are one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

from batchsched.clock import Clock
from batchsched.errors import InvalidConfiguration
from batchsched.fleet import Window
from batchsched.units import parse_duration_s

if TYPE_CHECKING:
    from apscheduler.schedulers.background import BackgroundScheduler

_DAY = timedelta(days=1)
_NO_END = timedelta(days=8)  # beyond any planning horizon
_LOOK_AGAIN = timedelta(minutes=5)  # clocks jump and machines sleep
_LONGEST_WAIT = timedelta(days=366 * 8 + 2)  # 29 February may be eight years away
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


class Cron(NamedTuple):
    """A cron line, spelt out."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""
    either_day: bool
    """Day of month and weekday are both restricted: cron then takes a day that matches either."""

    def matches(self, day: date) -> bool:
        """Does it start anything on this day?"""
        by_date, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return day.month in self.months and ((by_date or by_weekday) if self.either_day else (by_date and by_weekday))


@lru_cache
def parse_cron(line: str) -> Cron:
    """Read `minute hour day month weekday`. Raises InvalidConfiguration, saying what is allowed.

    A field is `*`, a value, a range `a-b`, a range or `*` with a step `/n`, or a list of these; months and weekdays also by their
    English names of three letters; weekdays 0 and 7 are Sunday, and their ranges may run over the week's end.
    """
    fields = line.lower().split()
    if len(fields) != 5:
        raise InvalidConfiguration(f"'{line}' is not a cron line: it needs five fields (minute hour day month weekday).")
    minutes, hours, days, months = (
        _field(line, *field)
        for field in (
            ("minute", fields[0], 0, 59),
            ("hour", fields[1], 0, 23),
            ("day", fields[2], 1, 31),
            ("month", _named(fields[3], _MONTHS, 1), 1, 12),
        )
    )
    weekdays = _field(line, "weekday", _named(fields[4], _WEEKDAYS, 0), 0, 7)
    either_day = not fields[2].startswith("*") and not fields[4].startswith("*")
    return Cron(
        tuple(sorted(minutes)),
        tuple(sorted(hours)),
        frozenset(days),
        frozenset(months),
        frozenset(d % 7 for d in weekdays),
        either_day,
    )


def _named(field: str, names: tuple[str, ...], first: int) -> str:
    for number, name in enumerate(names, first):
        field = field.replace(name, str(number))
    return field


def _field(line: str, name: str, field: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in field.split(","):
        span, slash, step_text = part.partition("/")
        first_text, dash, last_text = span.partition("-")
        step = int(step_text) if step_text.isdecimal() else 0 if slash else 1
        if span == "*":
            first, last = low, min(high, 6) if name == "weekday" else high
        elif first_text.isdecimal() and (last_text.isdecimal() if dash else not slash):
            first, last = int(first_text), int(last_text or first_text)
        else:
            step = first = last = 0
        within = step > 0 and low <= first <= high and low <= last <= high
        if name == "weekday" and last < first:
            last += 7  # fri-mon
        if not within or last < first:
            raise InvalidConfiguration(
                f"'{line}': the field {name} has '{part}'; allowed are {low} to {high}, ranges such as {low}-{high}, *, "
                "steps such as */2, lists with commas, and three-letter names of months and weekdays."
            )
        found.update(range(first, last + 1, step))
    return found


def openings(window: Window, start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """Intervals in UTC, in order and apart, during which the window is open and which touch [start, end].

    They are not cut to [start, end]; one that reaches `end` may go on after the end given here (`closes_at` looks further).
    """
    merged: list[tuple[datetime, datetime]] = []
    duration = timedelta(seconds=parse_duration_s(window.duration))
    for opens_at in _starts(window, start - duration, end):
        closes = opens_at + duration
        if merged and opens_at <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], closes))
        else:
            merged.append((opens_at, closes))
    return [(opens_at, closes) for opens_at, closes in merged if closes > start]


def is_open(window: Window, at: datetime) -> bool:
    """Is it open at this instant? The opening instant counts, the closing one does not."""
    return any(opens_at <= at for opens_at, _ in openings(window, at, at))


def closes_at(window: Window, at: datetime) -> datetime | None:
    """When the opening that holds `at` ends; None where it is closed then, or where openings follow each other without end."""
    closes = at
    while is_open(window, closes):
        if closes > at + _NO_END:
            return None
        closes = next(to for since, to in openings(window, closes, closes + _DAY) if since <= closes)
    return closes if closes > at else None


def opens_at(window: Window, at: datetime) -> datetime | None:
    """When it is open next: `at` itself where it is open then; None where the cron line never matches a day."""
    if is_open(window, at):
        return at
    ahead = _DAY
    while ahead < 4 * _LONGEST_WAIT:
        if found := openings(window, at, at + ahead):
            return found[0][0]
        ahead *= 4
    return None


def check(window: Window) -> None:
    """Raises InvalidConfiguration for a cron line that cannot be read or never matches."""
    parse_cron(window.cron)
    if opens_at(window, datetime(2024, 1, 1, tzinfo=UTC)) is None:
        raise InvalidConfiguration(f"The window '{window.cron}' never opens: no day matches it.")


def _starts(window: Window, start: datetime, end: datetime) -> list[datetime]:
    """Every opening instant in [start, end], in order."""
    cron, zone = parse_cron(window.cron), ZoneInfo(window.timezone)
    day, last = start.astimezone(zone).date() - _DAY, end.astimezone(zone).date()
    found: list[datetime] = []
    while day <= last:
        if cron.matches(day):
            walls = (datetime.combine(day, time(hour, minute), zone) for hour in cron.hours for minute in cron.minutes)
            found += [wall.astimezone(UTC) for wall in walls]
        day += _DAY
    return sorted(at for at in found if start <= at <= end)


class WindowTimer:
    """Calls `on_change(name, is_open)` once for each window at `start()`, then whenever one opens or closes.

    What holds is always worked out from the window and the clock; the timer only says when to look, so a late or a lost
    alarm costs time, never truth. The first calls come from the thread that starts, later ones from the timer's own; never two
    at once.
    """

    def __init__(self, windows: Mapping[str, Window], on_change: Callable[[str, bool], None], clock: Clock) -> None:
        self._windows = dict(windows)
        self._on_change = on_change
        self._clock = clock
        self._told: dict[str, bool] = {}
        self._lock = Lock()
        self._scheduler: BackgroundScheduler | None = None

    def start(self) -> None:
        """Begin. Raises InvalidConfiguration for a bad window."""
        from apscheduler.jobstores.memory import MemoryJobStore
        from apscheduler.schedulers.background import BackgroundScheduler

        for window in self._windows.values():
            check(window)
        defaults = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        self._scheduler = BackgroundScheduler(jobstores={"default": MemoryJobStore()}, job_defaults=defaults, timezone=UTC)
        self._scheduler.start()
        for name in self._windows:
            self._look(name)

    def stop(self) -> None:
        """End; a call that is under way finishes first."""
        if self._scheduler:
            self._scheduler.shutdown()
            self._scheduler = None

    def _look(self, name: str) -> None:
        with self._lock:
            self._look_alone(name)

    def _look_alone(self, name: str) -> None:
        now, window = self._clock.now(), self._windows[name]
        opened = is_open(window, now)
        change_at = closes_at(window, now) if opened else opens_at(window, now)
        wait = min(change_at - now, _LOOK_AGAIN) if change_at else _LOOK_AGAIN
        if self._scheduler and self._scheduler.running:  # before the call, which may fail
            self._scheduler.add_job(self._look, "date", run_date=datetime.now(UTC) + wait, args=[name])
        if self._told.get(name) is not opened:
            self._told[name] = opened
            self._on_change(name, opened)
