"""Windows against an independent cron parser, at clock changes, and the timer on the real scheduler."""

from __future__ import annotations

import queue
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, lru_cache, partial
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from croniter import CroniterBadDateError, croniter
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from batchsched.clock import ManualClock
from batchsched.errors import InvalidConfiguration
from batchsched.fleet import Window
from batchsched.windows import WindowTimer, check, closes_at, is_open, joined, openings, opens_at, parse_cron
from batchsched.windows import starts as every_start
from tests.live import PATIENCE_S

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
BERLIN = "Europe/Berlin"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def at_berlin(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(BERLIN)).astimezone(UTC)


# ---- the cron line


def pair(low: int, high: int) -> st.SearchStrategy[list[int]]:
    """Two different numbers in order: the other parser reads the weekdays 0-0 as the whole week."""
    return st.lists(st.integers(low, high), min_size=2, max_size=2, unique=True).map(sorted)


def field(low: int, high: int, names: list[str] | None = None) -> st.SearchStrategy[str]:
    value = st.integers(low, high)
    span = pair(low, high)
    parts = [
        value.map(str),
        span.map(lambda ab: f"{ab[0]}-{ab[1]}"),
        st.tuples(span, st.integers(1, 9)).map(lambda x: f"{x[0][0]}-{x[0][1]}/{x[1]}"),
    ]
    if names:
        parts.append(st.sampled_from(names))
        parts.append(pair(0, len(names) - 1).map(lambda ab: f"{names[ab[0]]}-{names[ab[1]]}"))
    listed = st.lists(st.one_of(parts), min_size=1, max_size=3).map(",".join)
    return st.one_of(st.just("*"), st.integers(2, 9).map(lambda n: f"*/{n}"), listed)


MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
lines = st.tuples(field(0, 59), field(0, 23), field(1, 31), field(1, 12, MONTHS), field(0, 7, WEEKDAYS)).map(" ".join)
moments = st.datetimes(datetime(2024, 1, 1), datetime(2030, 12, 31)).map(lambda at: at.replace(second=0, microsecond=0))  # noqa: DTZ001


@given(line=lines, moment=moments)
@example("0 22 * * 1-5", datetime(2026, 11, 20))  # noqa: DTZ001
@example("0 0 13 * 5", datetime(2026, 11, 1))  # noqa: DTZ001 - either day
@example("0 0 */2 * 1", datetime(2026, 11, 1))  # noqa: DTZ001 - both days: a field with * does not widen
@settings(max_examples=150)
def test_starts_are_what_another_parser_finds(line: str, moment: datetime) -> None:
    start = moment.replace(tzinfo=UTC)
    assert starts(Window(line, "1s"), start, start + 3 * DAY)[:60] == theirs(line, start, start + 3 * DAY)


@given(
    line=lines,
    moment=moments,
    zone=st.sampled_from(
        [BERLIN, "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "America/Sao_Paulo", "Pacific/Auckland"]
    ),
)
@settings(max_examples=75)
def test_starts_in_a_zone_where_no_clock_changes(line: str, moment: datetime, zone: str) -> None:
    local = moment.replace(tzinfo=ZoneInfo(zone))
    assume(len({(local + n * DAY).utcoffset() for n in range(-2, 6)}) == 1)
    assert starts(Window(line, "1s", zone), local, local + 3 * DAY)[:60] == theirs(line, local, local + 3 * DAY)


def starts(window: Window, start: datetime, end: datetime) -> list[datetime]:
    return [since for since, _ in openings(window, start.astimezone(UTC), end.astimezone(UTC)) if since >= start]


def theirs(line: str, start: datetime, end: datetime, most: int = 60) -> list[datetime]:
    """The first starts by croniter, which searches after the instant it is given."""
    search = croniter(line, start - timedelta(seconds=1), max_years_between_matches=9, implement_cron_bug=True)
    found: list[datetime] = []
    try:
        while len(found) < most and (at := search.get_next(datetime)) <= end:
            found.append(at.astimezone(UTC))
    except CroniterBadDateError:  # 31 February
        pass
    return found


@pytest.mark.parametrize(
    ("field", "days"),
    [
        ("0", "sun"),
        ("7", "sun"),
        ("1-5", "mon tue wed thu fri"),
        ("MON-FRI", "mon tue wed thu fri"),
        ("5-7", "fri sat sun"),
        ("sat-sun", "sat sun"),
        ("5-1", "fri sat sun mon"),
        ("1-5/2", "mon wed fri"),
        ("*/3", "sun wed sat"),
        ("*", "sun mon tue wed thu fri sat"),
    ],
)
def test_weekdays_mean_what_cron_says(field: str, days: str) -> None:
    assert {WEEKDAYS[day] for day in parse_cron(f"0 0 * * {field}").weekdays} == set(days.split())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 22 * *", "five fields"),
        ("60 * * * *", "field minute has '60'; allowed are 0 to 59"),
        ("0 24 * * *", "field hour"),
        ("0 0 0 * *", "field day has '0'; allowed are 1 to 31"),
        ("0 0 * 13 *", "field month"),
        ("0 0 * * 8", "field weekday has '8'; allowed are 0 to 7"),
        ("0 0 * * monday", "field weekday has 'monday'"),
        ("0 0 * * mon-fry", "field weekday has 'mon-fry'"),
        ("0 5-2 * * *", "field hour has '5-2'"),
        ("*/0 * * * *", "field minute"),
        ("5/10 * * * *", "field minute"),
        ("1, * * * *", "field minute"),
        ("-1 * * * *", "field minute"),
        ("1- * * * *", "field minute"),
        ("0 0 L * *", "field day"),
        ("0 0 31 2 *", "never opens"),
    ],
)
def test_bad_lines_say_what_is_allowed(line: str, said: str) -> None:
    with pytest.raises(InvalidConfiguration, match=said):
        check(Window(line, "1h"))


# ---- intervals


def test_nightly_window_on_weekdays() -> None:
    window = Window("0 22 * * 1-5", "8h", BERLIN)
    friday, tuesday = at_berlin("2026-11-20T12:00"), at_berlin("2026-11-24T12:00")
    assert openings(window, friday, tuesday) == [
        (at_berlin("2026-11-20T22:00"), at_berlin("2026-11-21T06:00")),
        (at_berlin("2026-11-23T22:00"), at_berlin("2026-11-24T06:00")),
    ]
    saturday_noon = at_berlin("2026-11-21T12:00")
    assert not is_open(window, saturday_noon)
    assert closes_at(window, saturday_noon) is None
    assert opens_at(window, saturday_noon) == at_berlin("2026-11-23T22:00")
    assert closes_at(window, at_berlin("2026-11-21T05:59")) == at_berlin("2026-11-21T06:00")
    assert opens_at(window, at_berlin("2026-11-21T05:59")) == at_berlin("2026-11-21T05:59")


def test_the_first_instant_is_open_and_the_last_is_not() -> None:
    window = Window("0 12 * * *", "1h")
    assert is_open(window, utc("2026-05-01T12:00"))
    assert not is_open(window, utc("2026-05-01T13:00"))
    assert openings(window, utc("2026-05-01T13:00"), utc("2026-05-02T11:59")) == []


def test_a_skipped_time_moves_forward() -> None:
    """02:30 does not exist in Berlin on 28 March 2027; the clock goes from 02:00 to 03:00."""
    found = openings(Window("30 2 * * *", "1h", BERLIN), utc("2027-03-28T00:00"), utc("2027-03-28T12:00"))
    assert found == [(utc("2027-03-28T01:30"), utc("2027-03-28T02:30"))]
    assert found[0][0].astimezone(ZoneInfo(BERLIN)).isoformat() == "2027-03-28T03:30:00+02:00"


def test_a_repeated_time_opens_once() -> None:
    """02:30 comes twice in Berlin on 31 October 2027."""
    found = openings(Window("30 2 * * *", "30m", BERLIN), utc("2027-10-31T00:00"), utc("2027-10-31T12:00"))
    assert found == [(utc("2027-10-31T00:30"), utc("2027-10-31T01:00"))]


def test_duration_is_elapsed_time() -> None:
    found = openings(Window("0 22 * * *", "8h", BERLIN), utc("2027-03-27T20:00"), utc("2027-03-27T23:00"))
    assert [(to - since) for since, to in found] == [8 * HOUR]
    assert found[0][1].astimezone(ZoneInfo(BERLIN)).hour == 7


ZONES = [
    BERLIN,
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Asia/Kolkata",
    "America/Sao_Paulo",
    "Pacific/Chatham",
]


@given(
    zone=st.sampled_from(ZONES),
    year=st.integers(2024, 2030),
    hour=st.integers(0, 23),
    minute=st.integers(0, 59),
    minutes_open=st.integers(1, 3000),
)
@settings(max_examples=25)
def test_a_daily_window_opens_once_a_local_date(zone: str, year: int, hour: int, minute: int, minutes_open: int) -> None:
    window = Window(f"{minute} {hour} * * *", f"{minutes_open}m", zone)
    start = datetime(year, 1, 1, tzinfo=UTC)
    instants = [since for since, _ in openings(Window(window.cron, "1s", zone), start, start + 365 * DAY)]
    dates = [at.astimezone(ZoneInfo(zone)).date() for at in instants]
    assert all(b - a == DAY for a, b in pairwise(dates))
    assert len(dates) >= 364  # a year of UTC is an hour or two short of a local one where the clocks stand otherwise at its end
    found = openings(window, start, start + 365 * DAY)
    assert all(a[1] < b[0] for a, b in pairwise(found))
    assert all(is_open(window, at) for at in instants)
    assert all(not is_open(window, to) for _, to in found[:-1][:20])


def test_openings_that_meet_are_one() -> None:
    window = Window("0 * * * *", "1h")
    noon = utc("2026-05-01T12:00")
    assert len(openings(window, noon, noon + DAY)) == 1
    assert closes_at(window, noon) is None
    assert closes_at(Window("0 8-17 * * *", "1h"), noon) == utc("2026-05-01T18:00")


def test_rare_days_are_found() -> None:
    window = Window("0 0 29 2 *", "1h")
    assert opens_at(window, utc("2026-05-01T00:00")) == utc("2028-02-29T00:00")
    assert opens_at(window, utc("2097-01-01T00:00")) == utc("2104-02-29T00:00")


@lru_cache
def offsets_around(day: date, zone: ZoneInfo) -> set[timedelta]:
    midnight = datetime.combine(day, time(), UTC)
    found = (at.astimezone(zone).utcoffset() for at in (midnight + n * HOUR for n in range(-30, 55)))
    return {offset for offset in found if offset is not None}


def first_instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """When a wall clock shows this for the first time: looked for among all that its offset may be; where it never shows it, as
    much later as the clock jumps."""
    found = [wall.replace(tzinfo=UTC) - offset for offset in offsets_around(wall.date(), zone)]
    if len(found) == 1:  # no change is near, which is the usual
        return found[0]
    shown = [at for at in found if at.astimezone(zone).replace(tzinfo=None) == wall]
    return min(shown) if shown else max(found)


@given(
    line=lines,
    moment=moments,
    zone=st.sampled_from(sorted(available_timezones())),
    minutes_open=st.integers(1, 3000),
    probes=st.lists(st.integers(0, 3 * 1440), min_size=5, max_size=5),
)
@example("30 23 * * *", datetime(2024, 3, 30), "America/Nuuk", 60, [0] * 5)  # noqa: DTZ001 - from 23:00 to midnight
@example("30 0 * * *", datetime(2026, 4, 23), "Africa/Cairo", 60, [0] * 5)  # noqa: DTZ001 - midnight is skipped
@example("*/5 * * * *", datetime(2027, 10, 30), BERLIN, 5, [0] * 5)  # noqa: DTZ001
@example("15 1 * * *", datetime(2024, 4, 6), "Australia/Lord_Howe", 20, [0] * 5)  # noqa: DTZ001 - half an hour
@settings(max_examples=75)
def test_in_every_zone_at_every_change_of_clock(
    line: str, moment: datetime, zone: str, minutes_open: int, probes: list[int]
) -> None:
    """2024 to 2030: the other parser counts on a clock without zone; what that clock shows when is worked out by trying."""
    there, since, until = ZoneInfo(zone), moment.replace(tzinfo=UTC), moment.replace(tzinfo=UTC) + 3 * DAY
    duration = timedelta(minutes=minutes_open)
    walls = theirs(line, since - duration - 2 * DAY, until + 2 * DAY, most=20_000)
    wanted = sorted({first_instant(wall.replace(tzinfo=None), there) for wall in walls})
    window = Window(line, f"{minutes_open}m", zone)
    assert every_start(window, since, until) == [at for at in wanted if since <= at <= until]
    found = openings(window, since, until)
    assert all(a[1] < b[0] for a, b in pairwise(found))
    for at in (since + timedelta(minutes=probe) for probe in probes):
        assert any(a <= at < b for a, b in found) is any(start <= at < start + duration for start in wanted)


def changes_of(zone: ZoneInfo) -> list[tuple[datetime, timedelta | None, timedelta | None]]:
    """Every change of clock in 2024 to 2030: the first second of the new offset, the old one and the new one."""
    first, found = datetime(2024, 1, 1, tzinfo=UTC), []
    days = [first + n * DAY for n in range(7 * 366)]
    offsets = [day.astimezone(zone).utcoffset() for day in days]
    for day, (before, after) in zip(days, pairwise(offsets), strict=False):
        if before == after:
            continue
        low, high = day, day + DAY
        while high - low > timedelta(seconds=1):
            middle = low + timedelta(seconds=(high - low) // timedelta(seconds=1) // 2)
            low, high = (middle, high) if middle.astimezone(zone).utcoffset() == before else (low, middle)
        found.append((high, before, after))
    return found


@cache
def walls_around(line: str, at: datetime) -> list[datetime]:
    """What the other parser has within a day and a half."""
    return theirs(line, at - 1.5 * DAY, at + 1.5 * DAY, most=400)


@pytest.mark.slow
def test_every_zone_and_every_change_of_its_clock() -> None:
    """2024 to 2030, by the other parser and by trying, as above; what zones with the same change should do is worked out once.
    Zones without any are looked at in one day of each half of a year."""
    wanted: dict[object, list[datetime]] = {}
    looked_at = 0
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        changes = changes_of(zone)
        offsets = [utc(f"{year}-{month}-15").astimezone(zone).utcoffset() for year in range(2024, 2031) for month in ("01", "07")]
        assert changes or len(set(offsets)) == 1
        quiet = [(utc(day), offsets[0], offsets[0]) for day in ("2024-02-29", "2030-07-15")]
        for change in changes or quiet:
            at, *_ = change
            looked_at += 1
            near = tuple(one for one in changes if abs(one[0] - at) < 8 * DAY)
            for line, minutes in (("*/15 * * * *", 7), ("30 23,0-3 * * *", 90)):
                key = (line, change, near)
                if key not in wanted:
                    walls = walls_around(line, at)
                    wanted[key] = sorted({first_instant(wall.replace(tzinfo=None), zone) for wall in walls})
                window, since, until = Window(line, f"{minutes}m", name), at - DAY / 2, at + DAY / 2
                assert every_start(window, since, until) == [each for each in wanted[key] if since <= each <= until], (name, at)
                opened = joined((each, each + timedelta(minutes=minutes)) for each in wanted[key])
                expected = [(a, b) for a, b in opened if b > since and a <= until]
                assert openings(window, since, until) == expected, (name, at)
    assert looked_at > 2 * len(available_timezones())


def test_a_start_that_is_skipped_opens_nothing_and_others_stay() -> None:
    window, noon = Window("0 8-17 * * *", "2h"), utc("2026-05-01T00:00")
    assert openings(window, noon, noon + DAY) == [(utc("2026-05-01T08:00"), utc("2026-05-01T19:00"))]
    away = {utc("2026-05-01T12:00"), utc("2026-05-01T13:00")}
    assert openings(window, noon, noon + DAY, away) == [
        (utc("2026-05-01T08:00"), utc("2026-05-01T13:00")),
        (utc("2026-05-01T14:00"), utc("2026-05-01T19:00")),
    ]


# ---- the timer


def by_clock(windows: Mapping[str, Window], name: str, now: datetime) -> tuple[bool, datetime | None]:
    """How the timer looks at windows of one name each."""
    opened = is_open(windows[name], now)
    return opened, closes_at(windows[name], now) if opened else opens_at(windows[name], now)


def test_timer_tells_at_start_and_at_each_change() -> None:
    told: queue.Queue[tuple[str, bool]] = queue.Queue()
    windows = {"night": Window("0 22 * * *", "8h"), "moment": Window("0 22 * * *", "1s")}
    clock = ManualClock(utc("2026-05-01T21:59:59.950000"))  # it stands still, so the timer looks again each 50 ms
    timer = WindowTimer(windows, partial(by_clock, windows), lambda name, opened: told.put((name, opened)), clock)
    timer.start()
    try:
        assert _two(told) == {("night", False), ("moment", False)}
        clock.advance(1.0)
        assert _two(told) == {("night", True), ("moment", True)}
        clock.advance(0.1)
        assert told.get(timeout=PATIENCE_S) == ("moment", False)
    finally:
        timer.stop()
    assert told.empty()


def _two(told: queue.Queue[tuple[str, bool]]) -> set[tuple[str, bool]]:
    return {told.get(timeout=PATIENCE_S), told.get(timeout=PATIENCE_S)}


def test_timer_survives_a_callback_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    told: queue.Queue[bool] = queue.Queue()

    def fail(name: str, opened: bool) -> None:
        told.put(opened)
        if opened:
            raise RuntimeError("the callback failed")

    clock = ManualClock(utc("2026-05-01T21:59:59.950000"))
    timer = WindowTimer(["a"], partial(by_clock, {"a": Window("0 22 * * *", "1s")}), fail, clock)
    timer.start()
    try:
        for opened, then_s in ((False, 1.0), (True, 0.1), (False, 0.0)):
            assert told.get(timeout=PATIENCE_S) is opened
            clock.advance(then_s)
    finally:
        timer.stop()
    assert "the callback failed" in caplog.text


def test_timer_refuses_a_bad_window_and_stops_twice() -> None:
    look = partial(by_clock, {"a": Window("61 * * * *", "1h")})
    timer = WindowTimer(["a"], look, lambda *_: None, ManualClock(utc("2026-05-01T00:00")))
    with pytest.raises(InvalidConfiguration):
        timer.start()
    timer.stop()


def test_timer_looks_again_where_windows_were_changed() -> None:
    told: queue.Queue[bool] = queue.Queue()
    windows = {"a": Window("0 22 * * *", "1h")}
    clock = ManualClock(utc("2026-05-01T12:00"))
    timer = WindowTimer(windows, partial(by_clock, windows), lambda _, opened: told.put(opened), clock)
    timer.look_again()  # before it began: no harm
    timer.start()
    try:
        assert told.get(timeout=PATIENCE_S) is False
        windows["a"] = Window("0 12 * * *", "1h")
        timer.look_again()
        assert told.get(timeout=PATIENCE_S) is True
    finally:
        timer.stop()


def test_a_look_that_is_asked_for_during_a_look_is_not_lost() -> None:
    told: queue.Queue[bool] = queue.Queue()
    windows = {"a": Window("0 22 * * *", "1h")}
    clock = ManualClock(utc("2026-05-01T21:56"))  # by its line it opens in four minutes, of which an alarm is set

    def look(name: str, now: datetime) -> tuple[bool, datetime | None]:
        found = by_clock(windows, name, now)
        if not found[0]:  # it changes just after it was read
            windows["a"] = Window("0 21 * * *", "2h")
            timer.look_again()
        return found

    timer = WindowTimer(windows, look, lambda _, opened: told.put(opened), clock)
    timer.start()
    try:
        assert [told.get(timeout=PATIENCE_S), told.get(timeout=PATIENCE_S)] == [False, True]
    finally:
        timer.stop()
