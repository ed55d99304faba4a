"""Cron-driven windows of pools: when they are open, and a timer that tells when they open and close.

A window opens when its cron line matches the wall clock of its time zone, once for each time on that clock: a time that a clock
change repeats opens once, the first time; a time that it skips opens as much later as the clock jumps. It stays open for its
duration in elapsed time. Openings that meet or overlap are one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

from batchsched.clock import Clock
from batchsched.errors import InvalidConfiguration
from batchsched.fleet import Window
from batchsched.units import parse_duration_s

if TYPE_CHECKING:
    from batchsched.alarms import Alarms

T = TypeVar("T")
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
    minutes, hours, days = (
        _field(line, *field)
        for field in (
            ("minute", fields[0], 0, 59),
            ("hour", fields[1], 0, 23),
            ("day", fields[2], 1, 31),
        )
    )
    months = _field(line, "month", fields[3], 1, 12, _MONTHS)
    weekdays = _field(line, "weekday", fields[4], 0, 7, _WEEKDAYS)
    either_day = not fields[2].startswith("*") and not fields[4].startswith("*")
    return Cron(
        tuple(sorted(minutes)),
        tuple(sorted(hours)),
        frozenset(days),
        frozenset(months),
        frozenset(d % 7 for d in weekdays),
        either_day,
    )


def _field(line: str, name: str, field: str, low: int, high: int, names: tuple[str, ...] = ()) -> set[int]:
    """What a field means. `names`: of the values from `low` on."""
    found: set[int] = set()
    for part in field.split(","):
        numbers = part
        for number, word in enumerate(names, low):
            numbers = numbers.replace(word, str(number))
        span, slash, step_text = numbers.partition("/")
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


def openings(
    window: Window, start: datetime, end: datetime, skipped: Collection[datetime] = ()
) -> list[tuple[datetime, datetime]]:
    """Intervals in UTC, in order and apart, during which the window is open and which touch [start, end].

    They are not cut to [start, end]; one that reaches `end` may go on after the end given here (`closes_at` looks further).
    `skipped`: starts that open nothing.
    """
    duration = timedelta(seconds=parse_duration_s(window.duration))
    parts = _parts(window, start - duration, end, duration, skipped)
    return [(since, until) for since, until in joined(parts) if until > start and since <= end]


def joined(parts: Iterable[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    """Intervals, in order and apart: those that meet or overlap are one."""
    found: list[tuple[datetime, datetime]] = []
    for since, until in sorted(parts):
        if found and since <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], until))
        else:
            found.append((since, until))
    return found


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
    return at if is_open(window, at) else next_start(window, at)


def check(window: Window) -> None:
    """Raises InvalidConfiguration for a cron line that cannot be read or never matches."""
    parse_cron(window.cron)
    if opens_at(window, datetime(2024, 1, 1, tzinfo=UTC)) is None:
        raise InvalidConfiguration(f"The window '{window.cron}' never opens: no day matches it.")


def starts(window: Window, start: datetime, end: datetime) -> list[datetime]:
    """Every instant in [start, end] at which its cron line opens it, in order."""
    return sorted({at for day in _days(window, start, end) for at in _of_day(window, day) if start <= at <= end})


def next_start(window: Window, after: datetime) -> datetime | None:
    """The first instant after this one at which its cron line opens it; None where it never does."""
    ahead = _DAY
    while ahead < 4 * _LONGEST_WAIT:
        if found := [at for at in starts(window, after, after + ahead) if at > after]:
            return found[0]
        ahead *= 4
    return None


def _days(window: Window, start: datetime, end: datetime) -> Iterator[date]:
    """The days on the window's calendar, with one more on either side, on which it opens."""
    cron, zone = parse_cron(window.cron), ZoneInfo(window.timezone)
    day, last = start.astimezone(zone).date() - _DAY, end.astimezone(zone).date() + _DAY
    while day <= last:
        if cron.matches(day):
            yield day
        day += _DAY


def _of_day(window: Window, day: date) -> Iterator[datetime]:
    cron, zone = parse_cron(window.cron), ZoneInfo(window.timezone)
    for hour in cron.hours:
        for minute in cron.minutes:
            yield datetime.combine(day, time(hour, minute), zone).astimezone(UTC)


def _parts(
    window: Window, start: datetime, end: datetime, duration: timedelta, skipped: Collection[datetime]
) -> Iterator[tuple[datetime, datetime]]:
    """What opens at starts in [start, end]; of starts that follow each other on a day in one piece."""
    zone, away = ZoneInfo(window.timezone), {at.astimezone(ZoneInfo(window.timezone)).date() for at in skipped}
    for day in _days(window, start, end):
        midnight, next_one = (datetime.combine(each, time(), zone) for each in (day, day + _DAY))
        if midnight.utcoffset() == next_one.utcoffset() and not away & {day - _DAY, day, day + _DAY}:
            first = midnight.astimezone(UTC)
            yield from ((first + since, first + until) for since, until in _pattern(window.cron, duration))
        else:  # the clock changes, or something is left out
            yield from ((at, at + duration) for at in _of_day(window, day) if at not in skipped)


@lru_cache
def _pattern(line: str, duration: timedelta) -> list[tuple[timedelta, timedelta]]:
    """From when to when it is open of what opens on a day whose clock does not change, from its midnight on."""
    cron, midnight = parse_cron(line), datetime(2024, 1, 1, tzinfo=UTC)
    walls = (midnight + timedelta(hours=hour, minutes=minute) for hour in cron.hours for minute in cron.minutes)
    return [(since - midnight, until - midnight) for since, until in joined((at, at + duration) for at in walls)]


class WindowTimer(Generic[T]):
    """Calls `on_change(name, state)` once for each name at `start()`, then whenever its state is another.

    What holds is always worked out by `look(name, now)`, which gives the state and when it changes by itself, if it does; the
    timer only says when to look, so a late or a lost alarm costs time, never truth. The first calls come from the thread that
    starts, later ones from the timer's own; never two at once.
    """

    def __init__(
        self,
        names: Collection[str],
        look: Callable[[str, datetime], tuple[T, datetime | None]],
        on_change: Callable[[str, T], None],
        clock: Clock,
    ) -> None:
        self._names, self._look_at = list(names), look
        self._on_change = on_change
        self._clock = clock
        self._told: dict[str, T] = {}
        self._asked: set[str] = set()
        """Of which somebody wants another look."""
        self._lock = Lock()
        self._alarms: Alarms | None = None

    def start(self) -> None:
        """Begin. Raises what the first look raises."""
        from batchsched.alarms import Alarms

        self._alarms = Alarms()
        for name in self._names:
            self._look(name)

    def look_again(self) -> None:
        """What is looked at was changed: look at once, from the timer's own thread."""
        for name in self._names:
            self._asked.add(name)
            self._look_in(name, timedelta())

    def stop(self) -> None:
        """End; a call that is under way finishes first."""
        if self._alarms:
            self._alarms.shutdown()
            self._alarms = None

    def _look(self, name: str) -> None:
        with self._lock:
            self._asked.discard(name)
            self._look_in(name, _LOOK_AGAIN)  # first of all: what follows may fail
            try:
                now = self._clock.now()
                state, change_at = self._look_at(name, now)
                if change_at is not None and change_at - now < _LOOK_AGAIN:
                    self._look_in(name, change_at - now)
                if name not in self._told or self._told[name] != state:
                    self._told[name] = state
                    self._on_change(name, state)
            finally:
                if name in self._asked:  # meanwhile, and the alarms set here took the place of that one
                    self._look_in(name, timedelta())

    def _look_in(self, name: str, wait: timedelta) -> None:
        alarms = self._alarms
        if alarms and alarms.running:
            at = datetime.now(UTC) + wait
            alarms.add_job(self._look, "date", run_date=at, args=[name], id=name, replace_existing=True)
